"""The fused function against the same formula in ordinary operations."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from cress_svcd.quantization.binarize import (
    SURROGATE_GRADIENTS,
    binarize,
    group_means,
    surrogate_gradient,
)
from cress_svcd.quantization.fake_quant import fake_quantize_tokens
from cress_svcd.quantization.svcd import svcd_product

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 8e-2}


def plain_product(x, weight, g, h, bias, signs, bits, surrogate):
    """The formula as one would write it, in ordinary operations."""
    factor = surrogate(weight.detach())
    latent = weight if factor is None else weight * factor
    estimated = signs + latent - latent.detach()
    unrounded = F.linear(x * g, estimated) * h
    with torch.no_grad():
        rounded = F.linear(fake_quantize_tokens(x * g, bits), signs) * h
    y = unrounded + (rounded - unrounded).detach()
    return y if bias is None else y + bias


def tensors(rows: int, dtype: torch.dtype, bias: bool) -> list[torch.Tensor | None]:
    torch.manual_seed(0)
    shapes = [(2, rows, 40), (36, 40), (40,), (36,), (36,)]
    made = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    return made if bias else [*made[:4], None]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [2, 40], ids=["few-rows", "many-rows"])
@pytest.mark.parametrize("bits", [8, 16, None])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("estimator", SURROGATE_GRADIENTS)
def test_output_and_gradients_equal_the_plain_form(dtype, rows, bits, bias, estimator):
    def derivative(weight):
        return surrogate_gradient(
            estimator, weight - group_means(weight).to(weight.dtype), width=1.0
        )

    results = []
    for function in (svcd_product, plain_product):
        leaves = tensors(rows, dtype, bias)
        weight = leaves[1].detach()
        signs = binarize(weight, group_means(weight), dtype)
        y = function(*leaves, signs=signs, bits=bits, surrogate=derivative)
        y.backward(torch.ones_like(y).cumsum(-1) / 7)
        results.append([y.detach()] + [leaf.grad for leaf in leaves if leaf is not None])
    for fused, plain in zip(*results):
        error = (fused.double() - plain.double()).norm() / plain.double().norm()
        assert error <= TOLERANCE[dtype]


@pytest.mark.parametrize("rows", [2, 40], ids=["few-rows", "many-rows"])
def test_only_the_gradients_asked_for_are_computed(rows):
    reference = tensors(rows, torch.float64, bias=True)
    signs = binarize(reference[1].detach(), group_means(reference[1].detach()), torch.float64)
    rest = dict(signs=signs, bits=8, surrogate=lambda weight: None)
    svcd_product(*reference, **rest).sum().backward()
    for wanted in range(5):
        cleared = []
        leaves = [
            leaf.detach().requires_grad_(index == wanted) for index, leaf in enumerate(reference)
        ]
        svcd_product(*leaves, **rest, after_backward=partial(cleared.append, 1)).sum().backward()
        torch.testing.assert_close(leaves[wanted].grad, reference[wanted].grad)
        assert bool(cleared) == (wanted == 1)  # signs go stale only with their weight


def test_gradient_of_input_scales_and_bias_is_the_numerical_one():
    """Without rounding the output is smooth in everything but the weight."""
    x, weight, g, h, bias = tensors(2, torch.float64, bias=True)
    signs = binarize(weight.detach(), group_means(weight.detach()), torch.float64)

    def function(x, g, h, bias):
        return svcd_product(x, weight.detach(), g, h, bias, signs, None, lambda weight: None)

    assert torch.autograd.gradcheck(function, (x, g, h, bias))


def test_what_attention_permutes_is_multiplied_as_one_matrix():
    """torch would multiply a permuted input batch by batch, with a copy of the weight for each."""
    torch.manual_seed(0)
    x = torch.randn(50, 4, 20, requires_grad=True)
    weight, g, h = torch.randn(30, 20), torch.rand(20), torch.rand(30)
    weight.requires_grad_()
    with torch.profiler.profile() as profile:
        signs = weight.detach().sign()
        y = svcd_product(x.transpose(0, 1), weight, g, h, None, signs, 8, lambda weight: None)
        y.transpose(0, 1).backward(torch.ones(50, 4, 30))
    names = [event.key for event in profile.key_averages()]
    assert "aten::mm" in names and "aten::bmm" not in names


def test_eight_bit_products_are_exact_in_float32():
    """Sums of integers below 2^24: the same in any order, so the same in any batch or kernel."""
    torch.manual_seed(0)
    x, weight = torch.randn(64, 2048), torch.randn(100, 2048)
    g, h = torch.rand(2048), torch.ones(100)
    signs = binarize(weight, group_means(weight), torch.float32)
    y = svcd_product(x, weight, g, h, None, signs, 8, lambda weight: None)
    scaled = (x * g).double()
    peak = scaled.abs().amax(1, keepdim=True)
    q = ((x * g) * (127 / peak.float())).round().long()
    integers = q @ signs.long().t()
    assert torch.equal(y, integers.float() * (peak.float() * (1 / 127)))
