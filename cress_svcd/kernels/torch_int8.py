"""Back end ``torch``: signs expanded once, to int8 for ``torch._int_mm``; no compiler needed.

Eight times the memory of packed signs, a quarter of float32.  Where this torch or processor has no
integer product, the expansion is float32 and the product the reference's.
"""

import functools

import torch
from torch import Tensor

from cress_svcd.kernels import reference

HI_LO_QMAX = 127 * 256 + 127  # the largest q that two signed bytes hold symmetrically


@functools.cache
def has_int_mm() -> bool:
    """Whether ``torch._int_mm`` works on the CPU here, for any number of rows."""
    try:
        left = torch.ones(1, 24, dtype=torch.int8)
        return bool((torch._int_mm(left, torch.ones(24, 3, dtype=torch.int8)) == 24).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


@functools.cache
def multiplies_exactly() -> bool:
    """Whether ``torch._int_mm`` is right for all of int8, not only for signs.

    oneDNN's products for processors with AVX2 and no VNNI add two neighbours in 16 bits, which
    overflow (torch 2.13).
    """
    if not has_int_mm():
        return False
    largest = torch.full((8, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.t()) == 64 * 127 * 127).all())


def expand(signs: Tensor) -> Tensor:
    """A matrix of signs of any type as this back end wants it: int8, or float32."""
    # With a single input _int_mm reads beyond it (torch 2.13).
    return signs.to(torch.int8 if has_int_mm() and signs.shape[1] > 1 else torch.float32)


def sign_matmul(
    x: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    """As ``reference.sign_matmul``, for ``expand``-ed signs.

    With 16 bits or None, rows pass through a hi/lo split into int8, as in the C kernels.
    """
    if signs.dtype != torch.int8 or x.device.type != "cpu" or x.dtype == torch.float64:
        return reference.sign_matmul(x, signs.to(reference.exact_type(x.dtype)), g, h, bias, bits)
    rows = x.reshape(-1, x.shape[-1])
    if bits == 8:
        q, scale = reference.quantize(rows, g, 127)
        product = torch._int_mm(q.to(torch.int8), signs.t()).float()
    else:
        q, scale = reference.quantize(rows, g, HI_LO_QMAX)
        high = ((q + 128) / 256).floor_()
        parts = torch.cat([high, q.sub_(high, alpha=256)]).to(torch.int8)
        products = torch._int_mm(parts, signs.t()).float()
        product = products[: len(rows)].mul_(256).add_(products[len(rows) :])
    y = reference.scale_and_shift(product.mul_(scale), h, bias).to(x.dtype)
    return y.view(*x.shape[:-1], len(signs))
