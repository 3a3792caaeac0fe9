"""Back end ``gpu``: Triton kernels that read a bit a weight.

Few rows: scale by g, maximum, rounding, product, step, h and bias in a single launch, on the tensor
cores (int8) where rows are rounded to 8 bits: by ``gpu_whole`` or, if they are wide, here.  Many:
one launch rounds the rows, a second one multiplies them on the tensor cores (int8, or halves
without rounding), unpacks signs on their way and scales the result.  float32 rows that are not
rounded to 8 bits take a float32 product.
"""

import torch
from torch import Tensor

from cress_svcd.kernels import bitpack, gpu_rows, gpu_whole, reference
from cress_svcd.kernels.gpu_rows import why_unavailable
from cress_svcd.kernels.launching import Launcher, cover

try:
    import triton
    import triton.language as tl

    from cress_svcd.kernels.gpu_whole import _rounded, _signs_of
except ImportError:
    triton = None

# Rows up to which a single launch serves: rounded ones, by tiles, and others, one by one.
FUSED_ROWS, FEW_ROWS = 32, 8
FUSED_TILE = 16, 32, 128, 4  # rows, outputs, inputs, warps
BLOCK_OUT, BLOCK_IN = 32, 256  # of a row by itself


def is_for(x: Tensor) -> bool:
    """Whether ``x`` lies where this back end computes, and in a type that it takes."""
    return x.is_cuda and x.dtype != torch.float64 and why_unavailable() is None


if triton is not None:

    @triton.jit
    def _finish(total, step, row, rows, output, h, bias, y, out_features: tl.constexpr):
        """y = total * step * h + bias for a tile of rows and outputs."""
        exists, written = row < rows, output < out_features
        value = total.to(tl.float32) * step[:, None]
        if h is not None:
            value *= tl.load(h + output, written, 0).to(tl.float32)[None, :]
        if bias is not None:
            value += tl.load(bias + output, written, 0).to(tl.float32)[None, :]
        where = y + row[:, None].to(tl.int64) * out_features + output[None, :]
        tl.store(where, value.to(y.dtype.element_ty), exists[:, None] & written[None, :])

    @triton.jit
    def _few_rows_kernel(
        x, signs, g, h, bias, y,
        in_features: tl.constexpr, out_features: tl.constexpr, row_bytes: tl.constexpr,
        top: tl.constexpr, block_out: tl.constexpr, block_in: tl.constexpr,
    ):  # fmt: skip
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
    def _fused_kernel(
        x, signs, g, h, bias, y, rows,
        in_features: tl.constexpr, out_features: tl.constexpr, row_bytes: tl.constexpr,
        top: tl.constexpr,
        block_rows: tl.constexpr, block_out: tl.constexpr, block_in: tl.constexpr,
    ):  # fmt: skip
        """A tile of outputs; its rows are rounded to int8 here, once for each tile."""
        row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
        output = tl.program_id(1) * block_out + tl.arange(0, block_out)
        column = tl.arange(0, block_in)
        byte = tl.arange(0, block_in // 8)
        exists, written = (row < rows)[:, None], (output < out_features)[:, None]
        x += row[:, None].to(tl.int64) * in_features
        signs += output[:, None].to(tl.int64) * row_bytes
        largest = tl.zeros((block_rows, block_in), tl.float32)
        broken = tl.zeros((block_rows, block_in), tl.float32)
        for start in range(0, in_features, block_in):
            inside = (start + column < in_features)[None, :]
            value = tl.load(x + (start + column)[None, :], exists & inside, 0).to(tl.float32)
            if g is not None:
                value *= tl.load(g + (start + column)[None, :], inside, 0).to(tl.float32)
            broken += value * 0.0  # NaN where the value is NaN or infinite
            largest = tl.maximum(largest, tl.abs(value))
        damage = tl.sum(broken, 1)
        step = tl.max(largest, 1) * (1.0 / top) + damage
        inverse = tl.div_rn(1.0, tl.maximum(step, 1e-32, propagate_nan=tl.PropagateNan.ALL))
        total = tl.zeros((block_rows, block_out), tl.int32)
        for start in range(0, in_features, block_in):
            inside = (start + column < in_features)[None, :]
            value = tl.load(x + (start + column)[None, :], exists & inside, 0).to(tl.float32)
            if g is not None:
                value *= tl.load(g + (start + column)[None, :], inside, 0).to(tl.float32)
            value = tl.where(damage[:, None] == 0, _rounded(value * inverse[:, None]), 0.0)
            given = (start // 8 + byte < row_bytes)[None, :]
            packed = tl.load(signs + (start // 8 + byte)[None, :], written & given, 0)
            total = tl.dot(value.to(tl.int8), _signs_of(packed).trans(), total, out_dtype=tl.int32)
        _finish(total, step, row, rows, output, h, bias, y, out_features)

    @triton.jit(do_not_specialize=["rows"])
    def _many_rows_kernel(
        levels, steps, signs, h, bias, y, rows,
        in_features: tl.constexpr, out_features: tl.constexpr, row_bytes: tl.constexpr,
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
        exists, written = row < rows, output < out_features
        of_row = levels + row[:, None].to(tl.int64) * in_features
        of_output = signs + output[:, None].to(tl.int64) * row_bytes
        integers: tl.constexpr = levels.dtype.element_ty == tl.int8
        total = tl.zeros((block_rows, block_out), tl.int32 if integers else tl.float32)
        for start in range(0, in_features, block_in):
            inside = exists[:, None] & (start + column < in_features)[None, :]
            given = start // 8 + byte < row_bytes
            if in_features % block_in == 0:  # no row of signs ends within a block
                inside, given = exists[:, None], byte >= 0
            level = tl.load(of_row + (start + column)[None, :], inside, 0)
            where = of_output + (start // 8 + byte)[None, :]
            packed = tl.load(where, written[:, None] & given[None, :], 0)
            sign = _signs_of(packed).to(level.dtype)
            total = tl.dot(level, sign.trans(), total, out_dtype=total.dtype)
        step = tl.load(steps + row, exists, 0)
        _finish(total, step, row, rows, output, h, bias, y, out_features)

    # A fused multiply-add would round levels differently from training.
    _by_rows = Launcher(_few_rows_kernel, enable_fp_fusion=False)
    _fused = Launcher(_fused_kernel, enable_fp_fusion=False)
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


def _fused_rows(
    rows: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    tile: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """8 bits in a single launch, by tiles; ``rows`` (... x in) lie dense."""
    *shape, in_features = rows.shape
    out_features, row_bytes = signs.shape
    count = rows.numel() // in_features
    y = rows.new_empty((*shape, out_features))
    block_rows, block_out, block_in, warps = tile or FUSED_TILE
    constants = in_features, out_features, row_bytes, 127, block_rows, block_out, block_in
    programs = -(-count // block_rows), -(-out_features // block_out), 1
    _fused(programs, (rows, signs, g, h, bias, y), (count,), constants, warps)
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
    """(levels @ signs^T) * steps * h + bias by the kernel above; ``levels`` (... x in) int8 or
    half."""
    *shape, in_features = levels.shape
    out_features, row_bytes = signs.shape
    rows = levels.numel() // in_features
    y = levels.new_empty((*shape, out_features), dtype=dtype)
    block_rows, block_out, warps = tile or _tile_for(rows)
    block_in = 128 if levels.dtype is torch.int8 else 64
    constants = in_features, out_features, row_bytes, block_rows, block_out, block_in, 8
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
    if gpu_rows.fits(rows) and (bits == 8 or (bits is None and rows.dtype != torch.float32)):
        levels, step = gpu_rows.quantize(rows, g, bits, torch.int8 if bits == 8 else None)
        return _tiled(levels, step, signs, h, bias, rows.dtype)
    matrix = bitpack.unpack_signs(signs, rows.shape[-1], torch.float32)
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
    if bits == 8 and gpu_whole.fits(rows, x.shape[-1], x.device):
        return gpu_whole.sign_matmul(x, signs, g, h, bias)
    if bits == 8 and 0 < rows <= FUSED_ROWS:
        return _fused_rows(x, signs, g, h, bias)
    if 0 < rows <= FEW_ROWS:
        return _few_rows(x, signs, g, h, bias, bits)
    return _many_rows(x, signs, g, h, bias, bits)
