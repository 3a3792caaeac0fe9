"""The fused function against the same formula in ordinary operations."""

from functools import partial

import pytest
import torch

from cress_svcd.quantization.binarize import centre, sign_codes
from cress_svcd.quantization.estimators import SLOPES, slope
from cress_svcd.quantization.sign_linear import sign_linear, sign_linear_plain

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 8e-2}


def tensors(rows: int, dtype: torch.dtype, bias: bool) -> list[torch.Tensor | None]:
    torch.manual_seed(0)
    shapes = [(2, rows, 40), (36, 40), (40,), (36,), (36,)]
    made = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    return made if bias else [*made[:4], None]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [2, 40], ids=["few-rows", "many-rows"])
@pytest.mark.parametrize("bits", [8, 16, None])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("estimator", SLOPES)
def test_output_and_gradients_equal_the_plain_form(dtype, rows, bits, bias, estimator):
    def derivative(weight):
        return slope(estimator, weight - centre(weight).to(weight.dtype), width=1.0)

    results = []
    for function in (sign_linear, sign_linear_plain):
        leaves = tensors(rows, dtype, bias)
        weight = leaves[1].detach()
        codes = sign_codes(weight, centre(weight), dtype)
        y = function(*leaves, codes=codes, bits=bits, slope=derivative)
        y.backward(torch.ones_like(y).cumsum(-1) / 7)
        results.append([y.detach()] + [leaf.grad for leaf in leaves if leaf is not None])
    for fused, plain in zip(*results):
        error = (fused.double() - plain.double()).norm() / plain.double().norm()
        assert error <= TOLERANCE[dtype]


@pytest.mark.parametrize("rows", [2, 40], ids=["few-rows", "many-rows"])
def test_only_the_gradients_asked_for_are_computed(rows):
    reference = tensors(rows, torch.float64, bias=True)
    codes = sign_codes(reference[1].detach(), centre(reference[1].detach()), torch.float64)
    rest = dict(codes=codes, bits=8, slope=lambda weight: None)
    sign_linear(*reference, **rest).sum().backward()
    for wanted in range(5):
        cleared = []
        leaves = [
            leaf.detach().requires_grad_(index == wanted) for index, leaf in enumerate(reference)
        ]
        sign_linear(*leaves, **rest, after_backward=partial(cleared.append, 1)).sum().backward()
        torch.testing.assert_close(leaves[wanted].grad, reference[wanted].grad)
        assert bool(cleared) == (wanted == 1)  # codes go stale only with their weight


def test_gradient_of_input_vectors_and_bias_is_the_numerical_one():
    """Without rounding the output is smooth in everything but the weight."""
    x, weight, g, h, bias = tensors(2, torch.float64, bias=True)
    codes = sign_codes(weight.detach(), centre(weight.detach()), torch.float64)

    def function(x, g, h, bias):
        return sign_linear(x, weight.detach(), g, h, bias, codes, None, lambda weight: None)

    assert torch.autograd.gradcheck(function, (x, g, h, bias))


def test_eight_bit_products_are_exact_in_float32():
    """Sums of integers below 2^24: the same in any order, so the same in any batch or kernel."""
    torch.manual_seed(0)
    x, weight = torch.randn(64, 2048), torch.randn(100, 2048)
    g, h = torch.rand(2048), torch.ones(100)
    codes = sign_codes(weight, centre(weight), torch.float32)
    y = sign_linear(x, weight, g, h, None, codes, 8, lambda weight: None)
    scaled = (x * g).double()
    peak = scaled.abs().amax(1, keepdim=True)
    levels = ((x * g) * (127 / peak.float())).round().long()
    integers = levels @ codes.long().t()
    assert torch.equal(y, integers.float() * (peak.float() * (1 / 127)))
