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

from cress_svcd.quantization.activations import (
    accumulation_dtype,
    fake_quantize_tokens,
    quantize_tokens,
)


class _SignLinear(torch.autograd.Function):
    """Forward as above; backward by the straight-through rule for both roundings.

    Cheaper than the plain form: no autograd graph of element-wise steps, no gradient of the
    rounding, and nothing is allocated that an earlier buffer can hold.
    """

    @staticmethod
    def forward(ctx, x, weight, g, h, bias, codes, bits, slope, after_backward):
        exact = accumulation_dtype(x.dtype)
        levels, step = quantize_tokens(x, bits, gain=g)
        # Not by rows of a flattened x: the output must not be a view, since fairseq's attention
        # scales it in place, which autograd forbids on a view that a function made.
        scaled = (levels @ codes.t()).to(exact).mul_(step)
        inputs = levels.mul_(step)  # the gradient needs them scaled back
        # For few rows the gradient of h takes these; for many it is had from the weight's gradient
        # instead.  The smaller of the two is touched.
        kept = scaled if x.numel() < x.shape[-1] ** 2 else None
        ctx.save_for_backward(x, weight, g, h, codes, inputs, kept)
        ctx.slope, ctx.after_backward = slope, after_backward
        h, out = h.to(exact), scaled if kept is None else None
        if bias is None:
            outputs = torch.mul(scaled, h, out=out)
        else:
            outputs = torch.addcmul(bias.to(exact), scaled, h, out=out)
        return outputs.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, g, h, codes, inputs, scaled = ctx.saved_tensors
        need_x, need_weight, need_g, need_h, need_bias = ctx.needs_input_grad[:5]
        exact = accumulation_dtype(grad.dtype)
        h = h.to(exact)
        before_h = (grad * h).to(grad.dtype)
        grad_x = grad_weight = grad_g = grad_h = grad_bias = None

        if need_x or need_g:
            grad_inputs = before_h @ codes
            if need_g:
                grad_g = _sum_rows(grad_inputs * x, exact)
            if need_x:
                grad_x = grad_inputs.mul_(g.to(exact))
        if need_h and scaled is not None:
            grad_h = _sum_rows(grad * scaled, exact)
        elif need_h:
            by_weight = _outer(grad, inputs)
            grad_h = (codes * by_weight).sum(1, dtype=exact)
        if need_weight:
            if need_h and scaled is None:
                grad_weight = by_weight.mul_(h.unsqueeze(1))
            else:
                grad_weight = _outer(before_h, inputs)
            slope = ctx.slope(weight)
            if slope is not None:
                grad_weight.mul_(slope)
            if ctx.after_backward is not None:
                ctx.after_backward()
        if need_bias:
            grad_bias = _sum_rows(grad, exact)
        return grad_x, grad_weight, grad_g, grad_h, grad_bias, None, None, None, None


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
    y = F.linear(fake_quantize_tokens(x * g, bits), estimated) * h
    return y if bias is None else y + bias
