"""Back end ``gpu``: Triton kernels that read a bit a weight.

Few rows: scale by g, maximum, rounding, product, step, h and bias in a single launch; a program
computes BLOCK_OUT outputs of one row.  Many: one launch rounds the rows, a second one multiplies
them on the tensor cores (int8, or halves without rounding), unpacks signs on their way and scales
the result.  float32 rows that are not rounded to 8 bits take a float32 product.
"""

import torch
from torch import Tensor

from cress_svcd.kernels import bitpack, gpu_rows, reference
from cress_svcd.kernels.gpu_rows import why_unavailable

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

# More rows take two launches, which take a program that launches one by one longer than the work.
FEW_ROWS = 8
BLOCK_OUT, BLOCK_IN = 32, 256


def is_for(x: Tensor) -> bool:
    """Whether ``x`` lies where this back end computes, and in a type that it takes."""
    return x.is_cuda and x.dtype != torch.float64 and why_unavailable() is None


if triton is not None:

    @triton.jit
    def _rounded(values):
        # Below 2^22 this rounds to an integer, halves to even, as torch.round does.
        return (values + 12582912.0) - 12582912.0

    @triton.jit
    def _few_rows_kernel(
        x, x_stride, signs, row_bytes, g, h, bias, y, in_features, out_features,
        has_g: tl.constexpr, has_h: tl.constexpr, has_bias: tl.constexpr, top: tl.constexpr,
        block_out: tl.constexpr, block_in: tl.constexpr,
    ):  # fmt: skip
        """One row times ``block_out`` sign rows; ``top`` 0: no rounding."""
        row = tl.program_id(0).to(tl.int64)
        outputs = tl.program_id(1) * block_out + tl.arange(0, block_out)
        written = outputs < out_features
        x += row * x_stride
        columns = tl.arange(0, block_in)
        step = 1.0
        inverse = 1.0
        broken = tl.zeros((block_in,), tl.float32)
        if top > 0:
            largest = tl.zeros((block_in,), tl.float32)
            for start in range(0, in_features, block_in):
                inside = start + columns < in_features
                value = tl.load(x + start + columns, inside, 0).to(tl.float32)
                if has_g:
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
            if has_g:
                value *= tl.load(g + index, inside, 0).to(tl.float32)
            if top > 0:
                value = _rounded(value * inverse)
            where = signs + outputs[:, None].to(tl.int64) * row_bytes + (index // 8)[None, :]
            packed = tl.load(where, written[:, None] & inside[None, :], 0).to(tl.int32)
            positive = ((packed >> (index % 8)[None, :]) & 1) != 0
            total += tl.sum(tl.where(positive, value[None, :], -value[None, :]), 1)
        total = total * step + tl.sum(broken)
        if has_h:
            total *= tl.load(h + outputs, written, 0).to(tl.float32)
        if has_bias:
            total += tl.load(bias + outputs, written, 0).to(tl.float32)
        tl.store(y + row * out_features + outputs, total.to(y.dtype.element_ty), written)


def _few_rows(
    rows: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    """The fused kernel; ``rows``: 2 dimensions, the last one dense."""
    y = rows.new_empty(len(rows), len(signs))
    grid = (len(rows), triton.cdiv(len(signs), BLOCK_OUT))
    _few_rows_kernel[grid](
        rows, rows.stride(0), signs, signs.stride(0), g, h, bias, y, rows.shape[1], len(signs),
        has_g=g is not None, has_h=h is not None, has_bias=bias is not None,
        top=0 if bits is None else 2 ** (bits - 1) - 1, block_out=BLOCK_OUT, block_in=BLOCK_IN,
        enable_fp_fusion=False,  # a fused multiply-add would round levels differently from training
    )  # fmt: skip
    return y


if triton is not None:

    @triton.jit
    def _many_rows_kernel(
        levels, steps, signs, row_bytes, h, bias, y, rows, in_features, out_features,
        has_h: tl.constexpr, has_bias: tl.constexpr, whole: tl.constexpr,
        block_rows: tl.constexpr, block_out: tl.constexpr, block_in: tl.constexpr,
        group: tl.constexpr,
    ):  # fmt: skip
        """A tile of (levels @ signs^T) * step * h + bias; signs are unpacked on their way."""
        # Tiles in groups of rows, so that those that run together share what they read.
        down, across = tl.cdiv(rows, block_rows), tl.cdiv(out_features, block_out)
        first = tl.program_id(0) // (group * across) * group
        height = min(down - first, group)
        inner = tl.program_id(0) % (group * across)
        row = (first + inner % height) * block_rows + tl.arange(0, block_rows)
        output = inner // height * block_out + tl.arange(0, block_out)
        column = tl.arange(0, block_in)
        byte = tl.arange(0, block_in // 8)
        bit = tl.arange(0, 8)
        exists, written = row < rows, output < out_features
        of_row = levels + row[:, None].to(tl.int64) * in_features
        of_output = signs + output[:, None].to(tl.int64) * row_bytes
        integers: tl.constexpr = levels.dtype.element_ty == tl.int8
        total = tl.zeros((block_rows, block_out), tl.int32 if integers else tl.float32)
        for start in range(0, in_features, block_in):
            inside = exists[:, None] & (start + column < in_features)[None, :]
            given = start // 8 + byte < row_bytes
            if whole:  # no row of signs ends within a block
                inside, given = exists[:, None], byte >= 0
            level = tl.load(of_row + (start + column)[None, :], inside, 0)
            where = of_output + (start // 8 + byte)[None, :]
            packed = tl.load(where, written[:, None] & given[None, :], 0)
            ones = (packed[:, :, None] >> bit[None, None, :].to(tl.uint8)) & 1
            sign = (ones.to(tl.int8) * 2 - 1).reshape(block_out, block_in).to(level.dtype)
            total = tl.dot(level, sign.trans(), total, out_dtype=total.dtype)
        value = total.to(tl.float32) * tl.load(steps + row, exists, 0)[:, None]
        if has_h:
            value *= tl.load(h + output, written, 0).to(tl.float32)[None, :]
        if has_bias:
            value += tl.load(bias + output, written, 0).to(tl.float32)[None, :]
        where = y + row[:, None].to(tl.int64) * out_features + output[None, :]
        tl.store(where, value.to(y.dtype.element_ty), exists[:, None] & written[None, :])


# Rows up to which a tile of so many rows and outputs is used, with its warps (measured on an H200).
TILES = ((32, 16, 32, 4), (192, 32, 64, 4), (None, 128, 64, 4))


def _tiled(
    levels: Tensor,
    steps: Tensor,
    signs: Tensor,
    h: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
    tile: tuple[int, int, int] | None = None,
) -> Tensor:
    """(levels @ signs^T) * steps * h + bias by the kernel above; ``levels`` int8 or half."""
    rows, in_features = levels.shape
    y = levels.new_empty(rows, len(signs), dtype=dtype)
    block_rows, block_out, warps = tile or next(
        tuple(shape) for most, *shape in TILES if most is None or rows <= most
    )
    block_in = 128 if levels.dtype == torch.int8 else 64
    grid = (triton.cdiv(rows, block_rows) * triton.cdiv(len(signs), block_out),)
    _many_rows_kernel[grid](
        levels, steps, signs, signs.stride(0), h, bias, y, rows, in_features, len(signs),
        has_h=h is not None, has_bias=bias is not None, whole=in_features % block_in == 0,
        block_rows=block_rows, block_out=block_out, block_in=block_in, group=8, num_warps=warps,
    )  # fmt: skip
    return y


def _many_rows(
    rows: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    if gpu_rows.fits(rows) and (bits == 8 or (bits is None and rows.dtype != torch.float32)):
        levels, step = gpu_rows.quantize(rows, g, bits, torch.int8 if bits == 8 else None)
        return _tiled(levels, step, signs, h, bias, rows.dtype)
    matrix = bitpack.unpack_signs(signs, rows.shape[1], torch.float32)
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
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    function = _few_rows if 0 < len(rows) <= FEW_ROWS else _many_rows
    y = function(rows, signs.contiguous(), g, h, bias, bits)
    return y.view(*x.shape[:-1], len(signs))
