"""Rows of activations quantised on CUDA, by one Triton kernel."""

import functools

import torch
from torch import Tensor

from cress_svcd.kernels.triton.common import Launcher, cover

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

WIDEST = 16384  # a row is held in one CTA; wider rows are left to torch
TILE = 2048  # entries of a CTA of several rows
TYPES = (torch.float16, torch.bfloat16, torch.float32)


@functools.cache
def why_unavailable() -> str | None:
    """Why Triton's kernels cannot be used here; None if they can."""
    if triton is None:
        return "Triton is not installed (it comes with torch for CUDA)"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


def fits(x: Tensor) -> bool:
    """Whether ``quantize`` takes x, wherever it lies."""
    return x.dtype in TYPES and x.numel() > 0 and x.shape[-1] <= WIDEST


if triton is not None:

    @triton.jit(do_not_specialize=["rows"])
    def _quantize_kernel(
        x,
        g,
        q,
        x_scales,
        rows,
        width: tl.constexpr,
        qmax: tl.constexpr,
        unit: tl.constexpr,
        block_rows: tl.constexpr,
        block: tl.constexpr,
    ):
        """q = round(g * x / scale) / unit, scale = max |g * x| / qmax * unit, by rows."""
        row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.arange(0, block)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row[:, None] * width + column[None, :]
        value = tl.load(x + where, inside, 0).to(tl.float32)
        if g is not None:
            value *= tl.load(g + column, column < width, 0).to(tl.float32)[None, :]
        broken = tl.sum(value * 0.0, 1)  # NaN where a value is NaN or infinite, which max may pass
        x_scale = tl.max(tl.abs(value), 1) * (1.0 / qmax) + broken
        inverse = tl.div_rn(1.0, tl.maximum(x_scale, 1e-32, propagate_nan=tl.PropagateNan.ALL))
        value *= inverse[:, None]
        if qmax > 1:
            # Below 2^22 this rounds to an integer, halves to even, as torch.round does.
            value = (value + 12582912.0) - 12582912.0
        tl.store(q + where, (value * (1.0 / unit)).to(q.dtype.element_ty), inside)
        tl.store(x_scales + row, x_scale * unit, row < rows)

    # A fused multiply-add would round q differently.
    _quantize = Launcher(_quantize_kernel, enable_fp_fusion=False)


@functools.cache
def row_tile(width: int) -> tuple[int, int, int]:
    """Rows and columns of a CTA that holds whole rows of ``width``, and its warps."""
    block = 1 << (width - 1).bit_length()
    return max(1, TILE // block), block, 4 if block <= 4096 else 8


def quantize(x: Tensor, g: Tensor | None, bits: int | None) -> tuple[Tensor, Tensor]:
    """q and scales of the rows of g * x, as ``quantization.fake_quant.quantize_tokens`` makes them,
    to the bit.

    Args:
        x: (…, in), of TYPES.
        g: (in), or None for ones.
        bits: width of q; None rounds nothing: q within -1 and 1.

    Returns:
        q (…, in) in x's type (halves hold q below 1, so that a sum of many cannot overflow) and the
        scales (…, 1) in float32.
    """
    x = x.contiguous()
    width = x.shape[-1]
    rows = x.numel() // width
    q = torch.empty_like(x)
    x_scales = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    block_rows, block, warps = row_tile(width)
    constants = (width, *_qmax_and_unit(bits, q.dtype), block_rows, block)
    _quantize((cover(rows, block_rows), 1, 1), (x, g, q, x_scales), (rows,), constants, warps)
    return q, x_scales


@functools.cache
def _qmax_and_unit(bits: int | None, dtype: torch.dtype) -> tuple[int, int]:
    """qmax, and what q is divided by to be kept in ``dtype``."""
    if bits is None:
        return 1, 1
    unit = 2 ** (bits - 1)
    return unit - 1, 1 if dtype == torch.float32 else unit
