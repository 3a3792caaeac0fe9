import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cress_svcd.quantization import METHODS, BitLinear, Policy, apply_policy, quantized_layers
from cress_svcd.quantization.calibration import (
    fit_model,
    fit_scales,
    start_from_inputs,
    weigh_by_inputs,
)

INPUTS = {
    "plain": lambda x: x,
    "relu": torch.relu,
    "uneven": lambda x: x * torch.linspace(0.05, 4, 48) + 1,
    "constant": lambda x: torch.ones_like(x),
    "zero": torch.zeros_like,
    "few": lambda x: x[:10],
}


def error(layer: nn.Module, x: torch.Tensor, wanted: torch.Tensor) -> float:
    return (layer(x) - wanted).square().mean().item()


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("bits", [1, 1.58])
def test_outputs_come_nearer_and_signs_stay(kind, bias, bits):
    torch.manual_seed(0)
    linear = nn.Linear(48, 24, bias)
    x = INPUTS[kind](torch.randn(500, 48))
    wanted = linear(x).detach()
    layer = BitLinear.from_linear(linear, bits=bits, activation_bits=None)
    before, signs, weight = (
        error(layer, x, wanted),
        layer.sign_weights().clone(),
        layer.weight.clone(),
    )
    fit_scales(layer, x)
    assert error(layer, x, wanted) <= before * 1.001 + 1e-12
    assert torch.equal(layer.sign_weights(), signs)
    assert torch.equal(layer.weight, weight)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())


def test_unseen_inputs_gain_too():
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    seen, unseen = torch.randn(2, 3000, 64).relu()
    wanted = linear(unseen).detach()
    layer = BitLinear.from_linear(linear)
    before = error(layer, unseen, wanted)
    fit_scales(layer, seen)
    assert error(layer, unseen, wanted) < 0.8 * before


def test_a_layer_that_can_meet_the_outputs_does():
    torch.manual_seed(0)
    layer = BitLinear(16, 8, activation_bits=None)
    target = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in (target.g, target.h, target.bias):
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    x = torch.randn(400, 16)
    fit_scales(layer, x, target(x), steps=60, ridge=1e-6)
    torch.testing.assert_close(layer(x), target(x), rtol=1e-3, atol=1e-3)


def test_halves_are_fitted_in_double():
    linear = nn.Linear(32, 8).half()
    layer = BitLinear.from_linear(linear)
    x = torch.randn(200, 32).relu().half()
    wanted = F.linear(x, linear.weight, linear.bias).detach()
    before = error(layer, x, wanted)
    fit_scales(layer, x)
    assert layer.g.dtype is torch.float16
    assert error(layer, x, wanted) < before


def test_the_papers_layer_is_refused():
    with pytest.raises(ValueError, match="paper"):
        fit_scales(BitLinear(4, 4, variant="paper"), torch.randn(9, 4))


UNEVEN = torch.logspace(-1.5, 1.5, 48)


@pytest.mark.parametrize("bits", [1, 1.58])
def test_scales_weighed_by_inputs_are_the_formula(bits):
    """The best rank 1 of |W| S on the signs' support, S out of g again; S = (mean |x|)^0.5."""
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 24), torch.randn(400, 48) * UNEVEN
    layer = BitLinear.from_linear(linear, bits=bits, activation_bits=None)
    wanted = linear(x).detach()
    before = error(layer, x, wanted)
    weigh_by_inputs(layer, x)
    size = np.sqrt(x.abs().mean(0).numpy())
    magnitude = linear.weight.detach().abs().numpy() * size
    found = np.outer(layer.h.detach(), layer.g.detach()) * size
    if bits == 1:
        u, s, v = np.linalg.svd(magnitude)
        np.testing.assert_allclose(found, s[0] * np.outer(u[:, 0], v[0]), atol=1e-5)
    support = layer.sign_weights().abs().numpy()
    least = (support * (found - magnitude) ** 2).sum()
    for factor in (0.98, 1.02):
        assert (support * (factor * found - magnitude) ** 2).sum() > least
    assert error(layer, x, wanted) < before


def test_an_input_that_is_always_zero_is_harmless():
    layer = BitLinear(16, 8)
    weigh_by_inputs(layer, torch.randn(50, 16) * (torch.arange(16) > 3))
    assert all(parameter.isfinite().all() for parameter in layer.parameters())


def test_the_estimate_of_a_residual_knows_its_inputs():
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 24), torch.randn(400, 48) * UNEVEN
    layer = METHODS["bipft"].from_linear(linear, rank=2, activation_bits=None)
    wanted = linear(x).detach()
    before = error(layer, x, wanted)
    binary = layer.quantized_weight() - (layer.up @ layer.down).detach()
    layer.calibrate(x)
    size = x.abs().mean(0).sqrt()
    u, s, v = np.linalg.svd(((linear.weight - binary) * size).detach().numpy())
    expected = (u[:, :2] * s[:2]) @ v[:2] / size.numpy()
    np.testing.assert_allclose((layer.up @ layer.down).detach(), expected, atol=1e-5)
    assert error(layer, x, wanted) < 0.8 * before


class TestModels:
    @pytest.fixture
    def student(self, translator):
        student = copy.deepcopy(translator)
        apply_policy(student, Policy.from_dict({"rules": [{"match": "*"}]}))
        return student

    def test_the_student_nears_its_teacher(self, student, translator):
        batches, unseen = torch.randn(4, 30, 10, 16), torch.randn(20, 10, 16)

        def run(model):
            for batch in batches:
                model(batch)

        wanted = translator(unseen).detach()
        before = error(student, unseen, wanted)
        names = fit_model(student, translator, run)
        assert len(names) == 45
        assert names[0] == "encoder.hubert.post_extract_proj"
        assert names[-1] == "decoder.layers.1.fc2"
        assert error(student, unseen, wanted) < 0.8 * before

    def test_layers_of_several_methods_start_from_their_inputs(self, translator):
        rules = [
            {"match": "encoder.layers.*", "method": method, "exclude": excluded}
            for method, excluded in (("tbt", "*.fc*"), ("bipft", "*_proj"))
        ]
        rules.append({"match": "decoder.layers.*"})
        student = copy.deepcopy(translator)
        apply_policy(student, Policy.from_dict({"rules": rules}))
        before = {name: value.clone() for name, value in student.state_dict().items()}
        batch = 3 * torch.randn(30, 10, 16)
        names = start_from_inputs(student, translator, lambda model: model(batch))
        assert names == list(quantized_layers(student))
        for name, layer in quantized_layers(student).items():
            for key in layer.scale_parameters():
                changed = not torch.equal(before[f"{name}.{key}"], layer.get_parameter(key))
                assert changed or key.startswith("norm")

    @pytest.mark.parametrize("fit", [fit_model, start_from_inputs])
    def test_a_layer_that_is_never_called_is_named(self, student, translator, batch, fit):
        teacher = translator
        layer = teacher.decoder.layers[0]
        layer.forward = lambda x: x
        with pytest.raises(ValueError, match="decoder.layers.0.*was not called"):
            fit(student, teacher, lambda model: model(batch))
