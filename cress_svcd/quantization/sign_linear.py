"""The product of a BitLinear layer as one autograd function, and its plain twin.

Both compute, for each row x of the input,

    y = (codes @ q(g * x)) * h + bias

where q rounds to levels * step, one step a row.  The product is taken of levels and codes alone and
scaled afterwards.  In float32 and with 8 bits it is therefore exact, an integer below 2^24: it
depends neither on the order of summation nor on the batch, and equals what an integer kernel
computes on packed weights.  In float16 it cannot overflow, as levels are at most 1 there.
"""

from typing import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cress_svcd.kernels import gpu_training
from cress_svcd.quantization.activations import (
    accumulation_dtype,
    fake_quantize_tokens,
    quantize_tokens,
)


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
        ctx.fused = gpu_training.is_for(x, weight)
        # Not by rows of a flattened x: the output must not be a view, since fairseq's attention
        # scales it in place, which autograd forbids on a view that a function made.
        if ctx.fused:
            levels, step = gpu_training.quantize(x, g, bits)
            return gpu_training.scale(levels @ codes.t(), step, h, bias)
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
        need_x, need_weight, need_g, need_h, need_bias = ctx.needs_input_grad[:5]
        grad_x = grad_weight = grad_g = grad_h = grad_bias = None
        if need_x:
            effective = gpu_training.effective_weight if ctx.fused else _effective_weight
            grad_x = grad @ effective(codes, g, h)
        if need_weight or need_g or need_h:
            split = gpu_training.split_gradient if ctx.fused else _split_gradient
            grad_weight, grad_g, grad_h = split(_outer(grad, x), codes, g, h, weight.dtype)
        if need_weight:
            slope = ctx.slope(weight)
            if slope is not None:
                grad_weight.mul_(slope)
            if ctx.after_backward is not None:
                ctx.after_backward()
        if need_bias:
            grad_bias = _sum_rows(grad, accumulation_dtype(grad.dtype))
        return grad_x, grad_weight, grad_g, grad_h, grad_bias, None, None, None, None


def _effective_weight(codes: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """h * codes * g (out x in), in the type of the codes."""
    return torch.mul(codes, torch.outer(h, g)).to(codes.dtype)


def _split_gradient(
    by_matrix: Tensor, codes: Tensor, g: Tensor, h: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight, g and h from ``by_matrix``, that of h * codes * g (out x in).

    ``by_matrix`` is used up.
    """
    exact = accumulation_dtype(by_matrix.dtype)
    g, h = g.to(exact), h.to(exact)
    by_matrix = by_matrix.to(exact)
    signed = by_matrix * codes
    grad_g, grad_h = h @ signed, signed @ g
    return by_matrix.mul_(h.unsqueeze(1)).mul_(g).to(dtype), grad_g, grad_h


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
