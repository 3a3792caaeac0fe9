"""Back end ``gpu``: Triton kernels that read a bit a weight.

Rows that are rounded to 8 bits are multiplied on the tensor cores (int8): few of them by
``gpu_whole`` in a single launch, many by ``gpu_planes`` in two.  Others: few in a single launch, many
halves that are not rounded on the tensor cores as well, signs unpacked on their way; the rest takes
a float32 product.
"""

from typing import Any

import torch
from torch import Tensor

from cress_svcd.kernels import packed_layout, reference
from cress_svcd.kernels.triton import quantize, sign_gemm_bitplane, sign_gemm_fused
from cress_svcd.kernels.triton.common import Launcher, cover
from cress_svcd.kernels.triton.quantize import why_unavailable

try:
    import triton
    import triton.language as tl

    from cress_svcd.kernels.triton.sign_gemm_fused import _finished, _rounded, _signs_of, _tile_of
except ImportError:
    triton = None

FEW_ROWS = 8  # up to which they are not rounded to 8 bits, and multiplied one by one
BLOCK_OUT, BLOCK_IN = 32, 256  # of a row by itself
HALVES_IN = 64  # inputs of a tile of halves


def is_for(x: Tensor) -> bool:
    """Whether ``x`` lies where this back end computes, and in a type that it takes."""
    return x.is_cuda and x.dtype != torch.float64 and why_unavailable() is None


if triton is not None:

    @triton.jit
    def _few_rows_kernel(
        x,
        signs,
        g,
        h,
        bias,
        y,
        in_features: tl.constexpr,
        out_features: tl.constexpr,
        row_bytes: tl.constexpr,
        top: tl.constexpr,
        block_out: tl.constexpr,
        block_in: tl.constexpr,
    ):
        """One row times ``block_out`` sign rows; ``top`` 0: no rounding."""
        row = tl.program_id(0).to(tl.int64)
        outputs = tl.program_id(1) * block_out + tl.arange(0, block_out)
        written = outputs < out_features
        x += row * in_features
        columns = tl.arange(0, block_in)
        step = 1.0
        inverse = 1.0
        broken = tl.zeros((block_in,), tl.float32)
        if top > 0:
            largest = tl.zeros((block_in,), tl.float32)
            for start in range(0, in_features, block_in):
                inside = start + columns < in_features
                value = tl.load(x + start + columns, inside, 0).to(tl.float32)
                if g is not None:
                    value *= tl.load(g + start + columns, inside, 0).to(tl.float32)
                broken += value * 0.0  # NaN where the value is NaN or infinite
                largest = tl.maximum(largest, tl.abs(value))
            step = tl.max(largest) * (1.0 / top)
            inverse = tl.div_rn(1.0, tl.maximum(step, 1e-32))
        total = tl.zeros((block_out,), tl.float32)
        for start in range(0, in_features, block_in):
            index = start + columns
            inside = index < in_features
            value = tl.load(x + index, inside, 0).to(tl.float32)
            if g is not None:
                value *= tl.load(g + index, inside, 0).to(tl.float32)
            if top > 0:
                value = _rounded(value * inverse)
            where = signs + outputs[:, None].to(tl.int64) * row_bytes + (index // 8)[None, :]
            packed = tl.load(where, written[:, None] & inside[None, :], 0).to(tl.int32)
            positive = ((packed >> (index % 8)[None, :]) & 1) != 0
            total += tl.sum(tl.where(positive, value[None, :], -value[None, :]), 1)
        total = total * step + tl.sum(broken)
        if h is not None:
            total *= tl.load(h + outputs, written, 0).to(tl.float32)
        if bias is not None:
            total += tl.load(bias + outputs, written, 0).to(tl.float32)
        tl.store(y + row * out_features + outputs, total.to(y.dtype.element_ty), written)

    @triton.jit(do_not_specialize=["rows"])
    def _many_rows_kernel(
        levels,
        steps,
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
        """A tile of (levels @ signs^T) * step * h + bias; signs are unpacked on their way."""
        row, first_output = _tile_of(rows, out_features, block_rows, block_out, group)
        output = first_output + tl.arange(0, block_out)
        column = tl.arange(0, block_in)
        byte = tl.arange(0, block_in // 8)
        exists, written = row < rows, output < out_features
        of_row = levels + row[:, None].to(tl.int64) * in_features
        of_output = signs + output[:, None].to(tl.int64) * row_bytes
        total = tl.zeros((block_rows, block_out), tl.float32)
        for start in range(0, in_features, block_in):
            inside = exists[:, None] & (start + column < in_features)[None, :]
            given = start // 8 + byte < row_bytes
            if in_features % block_in == 0:  # no row of signs ends within a block
                inside, given = exists[:, None], byte >= 0
            level = tl.load(of_row + (start + column)[None, :], inside, 0)
            where = of_output + (start // 8 + byte)[None, :]
            packed = tl.load(where, written[:, None] & given[None, :], 0)
            sign = _signs_of(packed).to(level.dtype)
            total = tl.dot(level, sign.trans(), total)
        value = total * tl.load(steps + row, exists, 0)[:, None]
        where = row[:, None].to(tl.int64) * out_features + output[None, :]
        there = exists[:, None] & written[None, :]
        value = _finished(
            value, h, bias, None, output, written, where, there, 0, y.dtype.element_ty
        )
        tl.store(y + where, value, there)

    # A fused multiply-add would round levels differently from training.
    _by_rows = Launcher(_few_rows_kernel, enable_fp_fusion=False)
    _by_tiles = Launcher(_many_rows_kernel)


def _few_rows(
    rows: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    """In a single launch, a program for each row; ``rows`` (... x in) lie dense."""
    *shape, in_features = rows.shape
    out_features, row_bytes = signs.shape
    y = rows.new_empty((*shape, out_features))
    top = 0 if bits is None else 2 ** (bits - 1) - 1
    constants = in_features, out_features, row_bytes, top, BLOCK_OUT, BLOCK_IN
    programs = rows.numel() // in_features, cover(out_features, BLOCK_OUT), 1
    _by_rows(programs, (rows, signs, g, h, bias, y), (), constants)
    return y


# Rows up to which a tile of so many rows and outputs is used, with its warps (measured on an H200).
TILES = ((32, 16, 32, 4), (192, 32, 64, 4), (None, 128, 64, 4))


def _tile_for(rows: int) -> tuple[int, int, int]:
    for most, *tile in TILES:
        if most is None or rows <= most:
            return tile


def _tiled(
    levels: Tensor,
    steps: Tensor,
    signs: Tensor,
    h: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
    tile: tuple[int, int, int] | None = None,
) -> Tensor:
    """(levels @ signs^T) * steps * h + bias by the kernel above; ``levels`` (... x in) are halves."""
    *shape, in_features = levels.shape
    out_features, row_bytes = signs.shape
    rows = levels.numel() // in_features
    y = levels.new_empty((*shape, out_features), dtype=dtype)
    block_rows, block_out, warps = tile or _tile_for(rows)
    constants = in_features, out_features, row_bytes, block_rows, block_out, HALVES_IN, 8
    programs = -(-rows // block_rows) * -(-out_features // block_out), 1, 1
    _by_tiles(programs, (levels, steps, signs, h, bias, y), (rows,), constants, warps)
    return y


def _many_rows(
    rows: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    if bits is None and rows.dtype != torch.float32 and quantize.fits(rows):
        levels, step = quantize.quantize(rows, g, None)
        return _tiled(levels, step, signs, h, bias, rows.dtype)
    matrix = packed_layout.unpack_signs(signs, rows.shape[-1], torch.float32)
    return reference.sign_matmul(rows, matrix, g, h, bias, bits)


def sign_matmul(
    x: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    """As ``reference.sign_matmul``, for signs in storage form on x's CUDA device.

    Without rounding (``bits`` None) and many rows of a half type, g * x is rounded to that type.
    """
    x, signs = x.contiguous(), signs.contiguous()
    rows = x.numel() // x.shape[-1]
    if bits == 8 and quantize.fits(x):
        return eight_bit(x, signs, g, h, bias)
    if 0 < rows <= FEW_ROWS:
        return _few_rows(x, signs, g, h, bias, bits)
    return _many_rows(x, signs, g, h, bias, bits)


def eight_bit(
    x: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    **around: Any,
) -> Tensor:
    """``sign_gemm_fused.sign_matmul``, arguments and all, or ``gpu_planes``'s for many or wide rows; for x
    that ``quantize.fits``."""
    rows, (out_features, _) = x.numel() // x.shape[-1], signs.shape
    if tile := sign_gemm_fused.tile_on(x.device, rows, x.shape[-1], out_features):
        return sign_gemm_fused.sign_matmul(x, signs, g, h, bias, tile=tile, **around)
    return sign_gemm_bitplane.sign_matmul(x, signs, g, h, bias, **around)
