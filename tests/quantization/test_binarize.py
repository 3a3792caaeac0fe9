import math

import pytest
import torch

from cress_svcd.quantization import BitLinear
from cress_svcd.quantization.binarize import SURROGATE_GRADIENTS, surrogate_gradient

EXPECTED = {
    "clip": lambda u: 1.0 if abs(u) <= 1 else 0.0,
    "tanh": lambda u: 1.001 - math.tanh(u) ** 2,
    "polynomial": lambda u: max(0.0, 2 - 2 * abs(u)),
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("width", [None, 2.0])
def test_surrogate_gradients_are_the_formulas(name, width):
    centred = torch.tensor([[-3.0, -1.0, -0.2], [0.0, 0.7, 4.0]], dtype=torch.float64)
    scale = 1.0 if width is None else width * math.sqrt((centred**2).mean())
    expected = torch.tensor(
        [[EXPECTED[name](w / scale) for w in row] for row in centred.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(surrogate_gradient(name, centred, width), expected)


def test_identity_costs_nothing():
    assert surrogate_gradient("identity", torch.randn(3)) is None


@pytest.mark.parametrize("name", SURROGATE_GRADIENTS)
def test_a_layer_multiplies_the_straight_through_gradient(name):
    torch.manual_seed(0)
    layer = BitLinear(10, 6, estimator=name, estimator_width=1.0)
    straight = BitLinear(10, 6)
    straight.load_state_dict(layer.state_dict())
    x = torch.randn(4, 10)
    for module in (layer, straight):
        module(x).square().sum().backward()
    factor = surrogate_gradient(name, layer.weight.detach() - layer.weight.mean(), 1.0)
    expected = straight.weight.grad * (1 if factor is None else factor)
    torch.testing.assert_close(layer.weight.grad, expected)
    assert torch.equal(layer.g.grad, straight.g.grad)


@pytest.mark.parametrize("name", EXPECTED)
def test_zero_and_half_precision_weights_are_harmless(name):
    assert surrogate_gradient(name, torch.zeros(2, 3), 1.0).isfinite().all()
    layer = BitLinear(8, 4, estimator=name, estimator_width=3.0, dtype=torch.float16)
    layer(torch.randn(2, 8).half()).sum().backward()
    assert layer.weight.grad.dtype is torch.float16
    assert layer.weight.grad.isfinite().all()
