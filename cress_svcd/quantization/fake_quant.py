"""Quantising activations per token: rounded, scaled back, straight through in the gradient.

One scale a token (a row of the last dimension), never one a batch: an utterance's output must not
depend on the utterances next to it, on padding, or on how many tokens a decoder sees at once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A smaller scale counts as this.  Its reciprocal is finite in float32, so that a token of zeros
# gives 0 * (1 / scale) = 0 and not NaN.
SMALLEST_SCALE = 1e-32


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
    x: Tensor, bits: int | None, gain: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Symmetric absmax quantisation of each token of ``gain * x``.

    With qmax = 2^(bits-1) - 1 and scale = max |token| * (1 / qmax), the integers are
    q = round(token * (1 / scale)), halves to even, in [-qmax, qmax].  For float16 and bfloat16 they
    are divided by 2^(bits-1) and the scale is multiplied, which is exact up to 8 bits and keeps q
    below 1, so that a sum of ``in`` of them cannot overflow.

    Args:
        x: (…, in), any floating type.
        bits: width of q, sign included; None rounds to nothing coarser than the type, with q in
            [-1, 1], so that sums stay small all the same.
        gain: (in), multiplied into the tokens in the accumulation type (float16 would overflow).

    Returns:
        q (…, in), in x's type and in fresh memory, and the scale (…, 1), in the accumulation type:
        the token is q * scale.  A token of zeros gives zeros; NaN and infinity give NaN.

    Source: the absmax quantisation of BitNet (Wang et al. 2023, eq. 4), with the rounding of
    BitNet b1.58 (Ma et al. 2024).
    """
    exact = accumulation_dtype(x.dtype)
    values = x.to(exact, copy=True) if gain is None else x * gain.to(exact)
    qmax = 1 if bits is None else 2 ** (bits - 1) - 1
    # Two reductions, as the memory that abs() takes costs more than they do.
    highest, lowest = values.amax(-1, keepdim=True), values.amin(-1, keepdim=True)
    scale = torch.maximum(highest, lowest.neg_()).mul_(1 / qmax)
    values.mul_(scale.clamp_min(SMALLEST_SCALE).reciprocal_())
    if bits is None:
        return values.to(x.dtype), scale
    values.round_()
    if exact == x.dtype:
        return values, scale
    unit = 2 ** (bits - 1)
    return values.mul_(1 / unit).to(x.dtype), scale.mul_(unit)


class _FakeQuantizeTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        q, scale = quantize_tokens(x, bits)
        return q.mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def fake_quantize_tokens(x: Tensor, bits: int | None) -> Tensor:
    """``x`` rounded to ``bits`` per token and scaled back; the gradient passes straight through.

    ``bits`` None returns ``x`` as it is.
    """
    return x if bits is None else _FakeQuantizeTokens.apply(x, bits)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(latent: Tensor, value: Tensor) -> Tensor:
    """``value`` in the forward pass, its gradient handed to ``latent`` unchanged.

    Unlike ``latent + (value - latent).detach()`` it gives ``value`` exactly, in float16 too.
    Source: Bengio, Leonard and Courville 2013.
    """
    return _StraightThrough.apply(latent, value.detach())
