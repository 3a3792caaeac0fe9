"""The published BitLinear against recorded vectors, and where it was unsafe."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cress_svcd.errors import ConfigError
from cress_svcd.quantization import BitLinear
from cress_svcd.quantization.svcd_paper import PaperBitLinear

VECTORS = np.load(Path(__file__).parents[1] / "fixtures" / "svcd_vectors.npz")
CASES = sorted({key.split("/")[0] for key in VECTORS.files})
PARAMETERS = ("weight", "bias", "g", "h", "norm.weight", "norm.bias")


def vectors_of(case: str) -> dict[str, torch.Tensor]:
    return {
        key.split("/")[1].replace("norm_", "norm."): torch.from_numpy(VECTORS[key])
        for key in VECTORS.files
        if key.startswith(f"{case}/")
    }


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_the_published_ones(case):
    expected = vectors_of(case)
    out_features, in_features = expected["weight"].shape
    layer = BitLinear(in_features, out_features, bias="bias" in expected, variant="paper").double()
    layer.load_state_dict({name: expected[name] for name in PARAMETERS if name in expected})
    x = expected["x"].requires_grad_()

    y = layer(x)
    y.backward(expected["grad_y"])

    found = {"y": y, "grad_x": x.grad}
    found |= {f"grad_{name}": p.grad for name, p in layer.named_parameters()}
    compared = [name for name in found if name in expected]
    assert {"y", "grad_x", "grad_weight", "grad_g", "grad_h"} <= set(compared)
    for name in compared:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-9, msg=name)


def published_in_numpy(layer: BitLinear, x: np.ndarray, groups: int) -> np.ndarray:
    """The published code, for group counts that divide both the rows and the time steps."""
    weight, g, h, bias = (
        getattr(layer, name).detach().numpy() for name in ("weight", "g", "h", "bias")
    )
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    signs = np.zeros_like(weight)
    size = len(weight) // groups
    for k in range(groups):
        rows = slice(k * size, (k + 1) * size)
        signs[rows] = np.sign(weight[rows] - weight[rows].mean())
    output = (x * g) @ signs.T + bias
    size = len(output) // groups
    for k in range(groups):
        part = output[k * size : (k + 1) * size]
        limit = 128 - 1e-5
        part[:] = np.clip(part * 128 / (np.abs(part).max() + 1e-5), -limit, limit)
    return output * h


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_that_divide_are_the_published_ones(groups):
    torch.manual_seed(groups)
    layer = BitLinear(10, 8, num_groups=groups, variant="paper").double()
    x = torch.randn(4, 3, 10, dtype=torch.float64)
    expected = published_in_numpy(layer, x.numpy(), groups)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("groups", [2, 3, 7, 100])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_any_number_of_groups_works_and_leaves_no_row_out(groups, steps):
    """The published code fails with one time step and zeroes the rows beyond a multiple."""
    torch.manual_seed(0)
    layer = BitLinear(6, 7, num_groups=groups, variant="paper")
    x = torch.randn(steps, 2, 6, requires_grad=True)
    y = layer(x)
    assert y.shape == (steps, 2, 7)
    assert y.isfinite().all()
    y.sum().backward()
    if steps:
        assert (layer.quantized_weight() != 0).any(dim=1).all() or groups >= 7


def test_a_fresh_layer_starts_as_published():
    torch.manual_seed(0)
    layer = BitLinear(400, 300, variant="paper")
    assert [name for name, _ in layer.named_parameters()] == [
        "weight",
        "bias",
        "g",
        "h",
        "norm.weight",
        "norm.bias",
    ]
    for scale in (layer.g, layer.h):
        assert scale.abs().max() <= 400**-0.5
        assert scale.abs().max() > 0.9 * 400**-0.5  # uniform up to the bound
        assert abs(scale.mean()) < 0.1 * 400**-0.5


@pytest.mark.parametrize(
    "option",
    [
        {"activation_bits": None},
        {"normalization": "none"},
        {"estimator": "clip"},
        {"estimator_width": 1.0},
        {"bits": 1.58},
    ],
    ids=lambda option: next(iter(option)),
)
def test_the_paper_variant_refuses_what_it_does_not_have(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))}.*paper"):
        BitLinear(4, 4, variant="paper", **option)


def test_a_tie_is_zero_as_published():
    layer = BitLinear(2, 2, bias=False, variant="paper")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
        layer.g.fill_(1)
        layer.h.fill_(1)
    assert layer.quantized_weight().tolist() == [[0.0, 1.0], [-1.0, 0.0]]


def test_large_outputs_survive_float16():
    """Multiplying by 128 before dividing by the maximum overflows from 512 on."""
    torch.manual_seed(0)
    layer = BitLinear(64, 8, variant="paper").half()
    with torch.no_grad():
        layer.g.fill_(100)
    assert layer(torch.randn(3, 1, 64).half()).isfinite().all()


def test_a_variant_is_not_made_by_another_ones_class():
    with pytest.raises(ConfigError, match="PaperBitLinear is 'paper'"):
        PaperBitLinear(8, 4, variant="default")
    assert isinstance(BitLinear(8, 4, variant="paper"), PaperBitLinear)
