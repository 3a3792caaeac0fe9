"""Products of packed signs with floating-point rows on CUDA, by two Triton kernels.

``by_rows`` takes small M in a single launch; ``by_tiles`` multiplies halves on the tensor cores,
signs unpacked on their way.
"""

import torch
from torch import Tensor

from cress_svcd.kernels.triton.common import Launcher, cover

try:
    import triton
    import triton.language as tl

    from cress_svcd.kernels.triton.sign_gemm_fused import _finished, _rounded, _signs_of, _tile_of
except ImportError:
    triton = None

SMALL_M = 8  # rows up to which ``by_rows`` is the fastest
BLOCK_OUT, BLOCK_IN = 32, 256  # of a row by itself
HALVES_IN = 64  # inputs of a tile of halves


if triton is not None:

    @triton.jit
    def _rows_kernel(
        x,
        signs,
        g,
        h,
        bias,
        y,
        in_features: tl.constexpr,
        out_features: tl.constexpr,
        row_bytes: tl.constexpr,
        qmax: tl.constexpr,
        block_out: tl.constexpr,
        block_in: tl.constexpr,
    ):
        """One row times ``block_out`` rows of signs; ``qmax`` 0: no rounding."""
        row = tl.program_id(0).to(tl.int64)
        outputs = tl.program_id(1) * block_out + tl.arange(0, block_out)
        written = outputs < out_features
        x += row * in_features
        columns = tl.arange(0, block_in)
        x_scale = 1.0
        inverse = 1.0
        broken = tl.zeros((block_in,), tl.float32)
        if qmax > 0:
            largest = tl.zeros((block_in,), tl.float32)
            for start in range(0, in_features, block_in):
                inside = start + columns < in_features
                value = tl.load(x + start + columns, inside, 0).to(tl.float32)
                if g is not None:
                    value *= tl.load(g + start + columns, inside, 0).to(tl.float32)
                broken += value * 0.0  # NaN where the value is NaN or infinite
                largest = tl.maximum(largest, tl.abs(value))
            x_scale = tl.max(largest) * (1.0 / qmax)
            inverse = tl.div_rn(1.0, tl.maximum(x_scale, 1e-32))
        total = tl.zeros((block_out,), tl.float32)
        for start in range(0, in_features, block_in):
            index = start + columns
            inside = index < in_features
            value = tl.load(x + index, inside, 0).to(tl.float32)
            if g is not None:
                value *= tl.load(g + index, inside, 0).to(tl.float32)
            if qmax > 0:
                value = _rounded(value * inverse)
            where = signs + outputs[:, None].to(tl.int64) * row_bytes + (index // 8)[None, :]
            packed = tl.load(where, written[:, None] & inside[None, :], 0).to(tl.int32)
            positive = ((packed >> (index % 8)[None, :]) & 1) != 0
            total += tl.sum(tl.where(positive, value[None, :], -value[None, :]), 1)
        total = total * x_scale + tl.sum(broken)
        if h is not None:
            total *= tl.load(h + outputs, written, 0).to(tl.float32)
        if bias is not None:
            total += tl.load(bias + outputs, written, 0).to(tl.float32)
        tl.store(y + row * out_features + outputs, total.to(y.dtype.element_ty), written)

    @triton.jit(do_not_specialize=["rows"])
    def _tiles_kernel(
        q,
        x_scales,
        signs,
        h,
        bias,
        y,
        rows,
        in_features: tl.constexpr,
        out_features: tl.constexpr,
        row_bytes: tl.constexpr,
        block_rows: tl.constexpr,
        block_out: tl.constexpr,
        block_in: tl.constexpr,
        group: tl.constexpr,
    ):
        """A tile of (q @ signs^T) * scale * h + bias; signs are unpacked on their way."""
        row, first_output = _tile_of(rows, out_features, block_rows, block_out, group)
        output = first_output + tl.arange(0, block_out)
        column = tl.arange(0, block_in)
        byte = tl.arange(0, block_in // 8)
        exists, written = row < rows, output < out_features
        of_row = q + row[:, None].to(tl.int64) * in_features
        of_output = signs + output[:, None].to(tl.int64) * row_bytes
        total = tl.zeros((block_rows, block_out), tl.float32)
        for start in range(0, in_features, block_in):
            inside = exists[:, None] & (start + column < in_features)[None, :]
            given = start // 8 + byte < row_bytes
            if in_features % block_in == 0:  # no row of signs ends within a block
                inside, given = exists[:, None], byte >= 0
            q_block = tl.load(of_row + (start + column)[None, :], inside, 0)
            where = of_output + (start // 8 + byte)[None, :]
            packed = tl.load(where, written[:, None] & given[None, :], 0)
            sign = _signs_of(packed).to(q_block.dtype)
            total = tl.dot(q_block, sign.trans(), total)
        value = total * tl.load(x_scales + row, exists, 0)[:, None]
        where = row[:, None].to(tl.int64) * out_features + output[None, :]
        there = exists[:, None] & written[None, :]
        value = _finished(
            value, h, bias, None, output, written, where, there, 0, y.dtype.element_ty
        )
        tl.store(y + where, value, there)

    # A fused multiply-add would round q differently from training.
    _by_rows = Launcher(_rows_kernel, enable_fp_fusion=False)
    _by_tiles = Launcher(_tiles_kernel)


def by_rows(
    rows: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    """As ``reference.sign_matmul`` for signs in storage form and dense ``rows`` (…, in).

    One launch, a CTA for each row."""
    *shape, in_features = rows.shape
    out_features, row_bytes = signs.shape
    y = rows.new_empty((*shape, out_features))
    qmax = 0 if bits is None else 2 ** (bits - 1) - 1
    constants = in_features, out_features, row_bytes, qmax, BLOCK_OUT, BLOCK_IN
    grid = rows.numel() // in_features, cover(out_features, BLOCK_OUT), 1
    _by_rows(grid, (rows, signs, g, h, bias, y), (), constants)
    return y


# Rows up to which a tile of so many rows and outputs is used, with its warps (measured on an H200).
TILES = ((32, 16, 32, 4), (192, 32, 64, 4), (None, 128, 64, 4))


def _tile_for(rows: int) -> tuple[int, int, int]:
    return next((m, n, warps) for most, m, n, warps in TILES if most is None or rows <= most)


def by_tiles(
    q: Tensor,
    x_scales: Tensor,
    signs: Tensor,
    h: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
    tile: tuple[int, int, int] | None = None,
) -> Tensor:
    """(q @ signs^T) * x_scales * h + bias in ``dtype``, for halves ``q`` (…, in)."""
    *shape, in_features = q.shape
    out_features, row_bytes = signs.shape
    rows = q.numel() // in_features
    y = q.new_empty((*shape, out_features), dtype=dtype)
    block_rows, block_out, warps = tile or _tile_for(rows)
    constants = in_features, out_features, row_bytes, block_rows, block_out, HALVES_IN, 8
    grid = -(-rows // block_rows) * -(-out_features // block_out), 1, 1
    _by_tiles(grid, (q, x_scales, signs, h, bias, y), (rows,), constants, warps)
    return y
