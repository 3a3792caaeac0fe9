"""Quantising activations per token: rounded, scaled back, straight through in the gradient.

One scale a token (a row of the last dimension), never one a batch: a sentence's output must not
depend on the sentences beside it, on padding, or on how many tokens a decoder sees at once.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A smaller step counts as this.  Its reciprocal is finite in float32, so that a token of zeros
# gives 0 * (1 / step) = 0 and not NaN.
SMALLEST_STEP = 1e-32


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which scales are computed: float32 for halves, otherwise ``dtype`` itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type to which an autocast around the call lowers products of ``x``; None without one."""
    if x.is_meta:  # torch knows no autocast there, and raises when asked
        return None
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def quantize_tokens(
    rows: Tensor, bits: int | None, gain: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Symmetric absmax quantisation of each row of ``gain * rows``.

    With top = 2^(bits-1) - 1, step = max |row| * (1 / top): the integer levels are
    round(row * (1 / step)), halves to even, in [-top, top].  For float16 and bfloat16 they are
    divided by 2^(bits-1) and the step is multiplied, which is exact up to 8 bits and keeps levels
    below 1, so that a sum of ``in_features`` of them cannot overflow.

    Args:
        rows: ... x C, any floating type.
        bits: width of a level, sign included; None rounds to nothing coarser than the type, with
            levels in [-1, 1], so that sums stay small all the same.
        gain: C, multiplied into the rows in the accumulation type (float16 would overflow).

    Returns:
        The levels (... x C, type of ``rows``, fresh memory) and the step (... x 1, accumulation
        type) that scales them back: levels * step.  A row of zeros gives zeros; NaN and infinity
        give NaN.

    Source: the absmax quantisation of BitNet (Wang et al. 2023, eq. 4), with the rounding of
    BitNet b1.58 (Ma et al. 2024).
    """
    exact = accumulation_dtype(rows.dtype)
    values = rows.to(exact, copy=True) if gain is None else rows * gain.to(exact)
    top = 1 if bits is None else 2 ** (bits - 1) - 1
    # Two reductions, as the memory that abs() takes costs more than they do.
    highest, lowest = values.amax(-1, keepdim=True), values.amin(-1, keepdim=True)
    step = torch.maximum(highest, lowest.neg_()).mul_(1 / top)
    values.mul_(step.clamp_min(SMALLEST_STEP).reciprocal_())
    if bits is None:
        return values.to(rows.dtype), step
    values.round_()
    if exact == rows.dtype:
        return values, step
    unit = 2 ** (bits - 1)
    return values.mul_(1 / unit).to(rows.dtype), step.mul_(unit)


class _FakeQuantizeTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bits: int) -> Tensor:
        levels, step = quantize_tokens(x, bits)
        return levels.mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def fake_quantize_tokens(x: Tensor, bits: int | None) -> Tensor:
    """``x`` rounded to ``bits`` per token and scaled back; the gradient passes straight through.

    ``bits`` None returns ``x`` as it is.
    """
    return x if bits is None else _FakeQuantizeTokens.apply(x, bits)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, latent: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(latent: Tensor, value: Tensor) -> Tensor:
    """``value`` in the forward pass, its gradient handed to ``latent`` unchanged.

    Unlike ``latent + (value - latent).detach()`` it gives ``value`` exactly, in float16 too.
    Source: Bengio, Leonard and Courville 2013.
    """
    return _StraightThrough.apply(latent, value.detach())
