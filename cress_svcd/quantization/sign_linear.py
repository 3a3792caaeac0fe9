"""The product of a BitLinear layer as one autograd function, and its plain twin.

Both compute, for each row x of the input,

    y = (codes @ q(g * x)) * h + bias

where q rounds to levels * step, one step a row.  The product is taken of levels and codes alone and
scaled afterwards.  In float32 and with 8 bits it is therefore exact, an integer below 2^24: it
depends neither on the order of summation nor on the batch, and equals what an integer kernel
computes on packed weights.  In float16 it cannot overflow, as levels are at most 1 there.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cress_svcd.kernels.triton import quantize, training
from cress_svcd.quantization.fake_quant import (
    accumulation_dtype,
    fake_quantize_tokens,
    quantize_tokens,
)

# Rows are few if so many times their number is less than the weight's smaller side: then passes
# over the weight would cost more than a further product.
FEW = 4


class _SignLinear(torch.autograd.Function):
    """Forward as above; backward that of a linear layer of the matrix W' = h * codes * g.

    Straight through both roundings: the gradients are those of h * (codes @ (g * x)) + bias, the
    same layer without rounded activations.  Of W' there is one gradient, an ordinary product of the
    output's gradient and the layer's input, and those of weight, g and h are had from it by passes
    over the weight alone.  So nothing but the input is kept between the passes, and a step costs
    the products of a linear layer and little more.
    """

    @staticmethod
    def forward(ctx, x, weight, g, h, bias, codes, bits, slope, after_backward):
        ctx.save_for_backward(x, weight, g, h, codes)
        ctx.slope, ctx.after_backward = slope, after_backward
        ctx.type_of_bias = None if bias is None else bias.dtype
        ctx.fused = training.is_for(x, weight)
        # Not by rows of a flattened x: the output must not be a view, since fairseq's attention
        # scales it in place, which autograd forbids on a view that a function made.
        if ctx.fused:
            levels, step = quantize.quantize(x.reshape(-1, x.shape[-1]), g, bits)
            shape = (*x.shape[:-1], codes.shape[0])
            return training.scale(torch.mm(levels, codes.t()), step, h, bias, shape)
        exact = accumulation_dtype(x.dtype)
        levels, step = quantize_tokens(x, bits, gain=g)
        outputs = (levels @ codes.t()).to(exact).mul_(step).mul_(h.to(exact))
        if bias is not None:
            outputs += bias.to(exact)
        return outputs.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, g, h, codes = ctx.saved_tensors
        _, need_weight, _, _, need_bias = ctx.needs_input_grad[:5]
        exact = accumulation_dtype(grad.dtype)
        if ctx.fused:
            gradients = _fused_gradients
        else:
            g, h = g.to(exact), h.to(exact)
            few = FEW * (x.numel() // x.shape[-1]) < min(codes.shape)
            gradients = _gradients_of_few_rows if few else _gradients
        grad_x, grad_weight, grad_g, grad_h = gradients(
            grad, x, weight.dtype, g, h, codes, ctx.needs_input_grad[:4]
        )
        if need_weight:
            slope = ctx.slope(weight)
            if slope is not None:
                grad_weight.mul_(slope)
            if ctx.after_backward is not None:
                ctx.after_backward()
        # CUDA sums halves in float32; in the bias's own type autograd need not cast the sum.
        grad_bias = _sum_rows(grad, ctx.type_of_bias if ctx.fused else exact) if need_bias else None
        return grad_x, grad_weight, grad_g, grad_h, grad_bias, None, None, None, None


# The gradients of x, weight (of type ``dtype``), g and h, each if it is needed, in three ways that
# differ in speed.
Needs = tuple[bool, bool, bool, bool]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _gradients(
    grad: Tensor, x: Tensor, dtype: torch.dtype, g: Tensor, h: Tensor, codes: Tensor, needs: Needs
) -> Gradients:
    """Two products of grad, and passes over matrices of the weight's size."""
    need_x, need_weight, need_g, need_h = needs
    grad_x = grad_weight = grad_g = grad_h = None
    scales = torch.outer(h, g)
    if need_x:
        grad_x = grad @ (codes * scales).to(codes.dtype)
    if need_weight or need_g or need_h:
        by_matrix = _outer(grad, x).to(scales.dtype)
        if need_g or need_h:
            signed = by_matrix * codes
            grad_g, grad_h = h @ signed, signed @ g
        if need_weight:
            grad_weight = by_matrix.mul_(scales).to(dtype)
    return grad_x, grad_weight, grad_g, grad_h


def _gradients_of_few_rows(
    grad: Tensor, x: Tensor, dtype: torch.dtype, g: Tensor, h: Tensor, codes: Tensor, needs: Needs
) -> Gradients:
    """One product more, and passes over matrices of the rows' size alone."""
    need_x, need_weight, need_g, need_h = needs
    grad_x = grad_weight = grad_g = grad_h = None
    before_h, inputs = (grad * h).to(grad.dtype), (x * g).to(x.dtype)
    if need_weight:
        grad_weight = _outer(before_h, inputs).to(dtype)
    if need_h:
        grad_h = _sum_rows(grad * (inputs @ codes.t()), h.dtype)
    if need_x or need_g:
        by_input = before_h @ codes
        if need_g:
            grad_g = _sum_rows(by_input * x, g.dtype)
        if need_x:
            grad_x = by_input.mul_(g)
    return grad_x, grad_weight, grad_g, grad_h


def _fused_gradients(
    grad: Tensor, x: Tensor, dtype: torch.dtype, g: Tensor, h: Tensor, codes: Tensor, needs: Needs
) -> Gradients:
    """As ``_gradients``, the passes fused on CUDA."""
    need_x, *of_weight = needs
    grad_x = grad_weight = grad_g = grad_h = None
    rows, flat = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    if need_x:
        grad_x = torch.mm(rows, training.effective_weight(codes, g, h)).view(x.shape)
    if any(of_weight):
        grad_weight, grad_g, grad_h = training.split_gradient(
            torch.mm(rows.t(), flat), codes, g, h, dtype
        )
    return grad_x, grad_weight, grad_g, grad_h


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """The sum over rows of ``left`` (... x m) and ``right`` (... x n) of their outer products."""
    return left.reshape(-1, left.shape[-1]).t() @ right.reshape(-1, right.shape[-1])


def _sum_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of the rows of ``x`` (... x n), taken in ``dtype``."""
    return x.reshape(-1, x.shape[-1]).sum(0, dtype=dtype)


def sign_linear(
    x: Tensor,
    weight: Tensor,
    g: Tensor,
    h: Tensor,
    bias: Tensor | None,
    codes: Tensor,
    bits: int | None,
    slope: Callable[[Tensor], Tensor | None],
    after_backward: Callable[[], None] | None = None,
) -> Tensor:
    """y of the module's docstring, for x of shape ... x in; returns ... x out in x's type.

    Args:
        weight: out x in, the latent weight: only its gradient is used.
        g, h, bias: vectors of in, out and out entries; bias may be None.
        codes: out x in, in x's type; a constant to autograd.
        bits: width of the activations' levels, None for no rounding.
        slope: maps the weight to the estimated derivative of its codes (None: one everywhere).
        after_backward: called, if given, once a gradient for the weight has been computed.
    """
    return _SignLinear.apply(x, weight, g, h, bias, codes, bits, slope, after_backward)


def sign_linear_plain(
    x: Tensor,
    weight: Tensor,
    g: Tensor,
    h: Tensor,
    bias: Tensor | None,
    codes: Tensor,
    bits: int | None,
    slope: Callable[[Tensor], Tensor | None],
) -> Tensor:
    """The same in ordinary operations, for comparison: the formula as one would write it."""
    steepness = slope(weight.detach())
    surrogate = weight if steepness is None else weight * steepness
    estimated = codes + surrogate - surrogate.detach()
    unrounded = F.linear(x * g, estimated) * h
    with torch.no_grad():
        rounded = F.linear(fake_quantize_tokens(x * g, bits), codes) * h
    y = unrounded + (rounded - unrounded).detach()
    return y if bias is None else y + bias
