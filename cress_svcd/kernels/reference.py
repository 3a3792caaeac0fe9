"""The product in plain torch: the contract of all back ends, and what runs where nothing else does.

    q = round(g * x / scale), scale = max |g * x| / qmax a row, qmax = 2^(bits-1) - 1
    y = (signs @ q) * scale * h + bias

Without rounding (``bits`` None), y = (signs @ (g * x)) * h + bias.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_SCALE = 1e-32  # as in training: its reciprocal is finite, so that a row of zeros gives 0


def exact_type(dtype: torch.dtype) -> torch.dtype:
    """The type that a product is computed in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def quantize(x: Tensor, g: Tensor | None, qmax: int) -> tuple[Tensor, Tensor]:
    """q (…, in), integers as floats, and the scales (…, 1) of ``g * x``, halves to even.

    The same operations as in training (``quantization.fake_quant``), to the bit.  A row with NaN
    or infinity has NaN for its scale.
    """
    exact = exact_type(x.dtype)
    values = x.to(exact) if g is None else x.to(exact) * g.to(exact)
    scale = values.abs().amax(-1, keepdim=True).mul_(1 / qmax)
    q = (values * scale.clamp_min(SMALLEST_SCALE).reciprocal_()).round_()
    return q, scale


def scale_and_shift(product: Tensor, h: Tensor | None, bias: Tensor | None) -> Tensor:
    """``product`` (…, out) times h plus bias, each where it is given; in product's type."""
    if h is not None:
        product = product * h.to(product.dtype)
    return product if bias is None else product + bias.to(product.dtype)


def sign_matmul(
    x: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    """The product for x (…, in) and a matrix of signs (out, in), in x's type (…, out).

    Args:
        signs: -1 and +1 in ``exact_type(x.dtype)``.
        g, h, bias: (in), (out) and (out); None for ones, ones and zeros.
        bits: 8 or 16 for rounded rows, None for none.
    """
    if bits is None:
        rows = x.to(signs.dtype)
        product = (rows if g is None else rows * g.to(signs.dtype)) @ signs.t()
    else:
        q, scale = quantize(x, g, 2 ** (bits - 1) - 1)
        product = (q @ signs.t()) * scale
    return scale_and_shift(product, h, bias).to(x.dtype)


def ctc_loss(
    log_probs: Tensor, targets: Tensor, frames: Tensor, tokens: Tensor, blank: int
) -> Tensor:
    """See ``dispatch.ctc_loss``; torch reads the lengths on the host."""
    with torch.backends.cudnn.flags(enabled=False):  # its CTC is not deterministic
        return F.ctc_loss(
            log_probs,
            targets,
            frames,
            tokens,
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )
