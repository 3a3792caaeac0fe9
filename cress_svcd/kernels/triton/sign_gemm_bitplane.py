"""8-bit products of many rows on CUDA, by two Triton kernels: levels, then a product by bit planes.

A sign takes a multiply-add of the tensor cores, and unpacking it to a byte of -1 or +1 took longer
than that.  So bits stay bits.  Bit k of all bytes is a matrix of zeros and ones that one AND and one
shift take out of four bytes at a time; its product with the levels of every eighth input, doubled,
less the sum of a row's levels, is that with the signs.  Levels are written down in that order.
"""

import functools

import torch
from torch import Tensor

from cress_svcd.kernels.triton import quantize
from cress_svcd.kernels.triton.common import Launcher, cover
from cress_svcd.kernels.triton.sign_gemm_fused import NONE, Norm, processors

try:
    import triton
    import triton.language as tl

    from cress_svcd.kernels.triton.sign_gemm_fused import _finished, _levels_of, _normed, _tile_of
except ImportError:
    triton = None

# Tiles of a program: rows, outputs, warps (measured on an H200), and what asks for the largest one.
LARGE, MEDIUM, SMALL = (64, 128, 4), (32, 64, 4), (16, 32, 4)
LEAST_LARGE = 0.7  # of the processors have a program
BLOCK_BYTES = 64  # of a row of signs; half of them where that does not divide it
LEAST = 32  # inputs of a block of levels
GROUP = 8  # tiles of rows whose programs run next to each other


if triton is not None:

    @triton.jit(do_not_specialize=["rows"])
    def _levels_kernel(
        x,
        g,
        norm_weight,
        norm_bias,
        levels,
        steps,
        sums,
        normed,
        rows,
        in_features: tl.constexpr,
        row_bytes: tl.constexpr,
        parts: tl.constexpr,
        eps: tl.constexpr,
        block_rows: tl.constexpr,
        block_bytes: tl.constexpr,
    ):
        """Levels of whole rows, bit by bit: of input 8 j + k at k row_bytes + j."""
        kind = x.dtype.element_ty
        row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.arange(0, 8 * block_bytes)
        exists, inside = row < rows, column < in_features
        there = exists[:, None] & inside[None, :]
        where = row[:, None] * in_features + column[None, :]
        value = tl.load(x + where, there, 0).to(tl.float32)
        if norm_weight is not None:
            value = _normed(value, norm_weight, norm_bias, column, inside, in_features, eps, kind)
            if normed is not None:
                tl.store(normed + where, value.to(kind), there)
        byte = tl.arange(0, block_bytes)
        place = tl.arange(0, 8)[:, None] * row_bytes + byte[None, :]
        given = exists[:, None, None] & (byte < row_bytes)[None, None, :]
        for part in tl.static_range(parts):
            scaled = value
            if g is not None:
                own_g = tl.load(g + part * in_features + column, inside, 0)
                scaled = value * own_g.to(tl.float32)[None, :]
            level, step = _levels_of(scaled)
            of_part = part * rows.to(tl.int64) + row
            tl.store(steps + of_part, step, exists)
            tl.store(sums + of_part, tl.sum(level.to(tl.int32), 1), exists)
            level = level.reshape(block_rows, block_bytes, 8).permute(0, 2, 1)
            where_of_part = levels + (of_part * (8 * row_bytes))[:, None, None] + place[None, :, :]
            tl.store(where_of_part, level, given)

    @triton.jit(do_not_specialize=["rows"])
    def _planes_kernel(
        levels,
        steps,
        sums,
        signs,
        h,
        bias,
        residual,
        y,
        rows,
        out_features: tl.constexpr,
        row_bytes: tl.constexpr,
        part: tl.constexpr,
        activation: tl.constexpr,
        ptx: tl.constexpr,
        block_rows: tl.constexpr,
        block_out: tl.constexpr,
        block_bytes: tl.constexpr,
        group: tl.constexpr,
    ):
        """A tile of outputs x rows, since what is unpacked on its way must be the left operand; each
        ``part`` outputs have levels of their own."""
        row, first_output = _tile_of(rows, out_features, block_rows, block_out, group)
        output = first_output + tl.arange(0, block_out)
        byte = tl.arange(0, block_bytes)
        exists, written = row < rows, output < out_features
        of_part = first_output // part * rows.to(tl.int64) + row
        of_row = levels + of_part[:, None] * (8 * row_bytes)
        of_output = signs + output[:, None].to(tl.int64) * row_bytes
        total = tl.zeros((block_out, block_rows), tl.int32)
        for start in range(0, row_bytes, block_bytes):
            given = start + byte < row_bytes
            if row_bytes % block_bytes == 0:  # no row of signs ends within a block
                given = byte >= 0
            where = of_output + (start + byte)[None, :]
            bits = tl.load(where, written[:, None] & given[None, :], 0).to(tl.int8, bitcast=True)
            for plane in tl.static_range(8):
                where = of_row + (plane * row_bytes + start + byte)[None, :]
                level = tl.load(where, exists[:, None] & given[None, :], 0)
                # Four bytes at a time: what a shift brings from one to the next is never looked at.
                if ptx:
                    ones = tl.inline_asm_elementwise(
                        "and.b32 $0, $1, 0x01010101;", "=r,r", [bits], tl.int8, True, 4
                    )
                    bits = tl.inline_asm_elementwise(
                        "shr.b32 $0, $1, 1;", "=r,r", [bits], tl.int8, True, 4
                    )
                else:
                    ones = bits & 1
                    bits = bits >> 1
                total = tl.dot(ones, level.trans(), total, out_dtype=tl.int32)
        step, levelled = tl.load(steps + of_part, exists, 0), tl.load(sums + of_part, exists, 0)
        value = (2 * total - levelled[None, :]).to(tl.float32) * step[None, :]
        value = value.trans()
        where = row[:, None].to(tl.int64) * out_features + output[None, :]
        there = exists[:, None] & written[None, :]
        value = _finished(
            value, h, bias, residual, output, written, where, there, activation, y.dtype.element_ty
        )
        tl.store(y + where, value, there)

    # A fused multiply-add would round levels differently from training.
    _levels = Launcher(_levels_kernel, enable_fp_fusion=False)
    _planes = Launcher(_planes_kernel, enable_fp_fusion=False)
    # Triton's interpreter, and GPUs of others, know no PTX.
    PTX = isinstance(_planes_kernel, triton.runtime.JITFunction) and torch.version.cuda is not None


def sign_matmul(
    x: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    *,
    parts: int = 1,
    norm: Norm | None = None,
    activation: int = NONE,
    residual: Tensor | None = None,
    normed: Tensor | None = None,
    tile: tuple[int, int, int] | None = None,
) -> Tensor:
    """As ``gpu_whole.sign_matmul``, for any number of rows of at most ``quantize.WIDEST`` inputs."""
    *shape, in_features = x.shape
    out_features, row_bytes = signs.shape
    rows = x.numel() // in_features
    levels, steps, sums = _level(x, g, row_bytes, parts, norm, normed)
    y = x.new_empty((*shape, out_features))
    part = out_features // parts
    block_rows, block_out, warps = tile or tile_for(rows, part, parts, processors(x.device))
    constants = (
        out_features,
        row_bytes,
        part,
        activation,
        PTX,
        block_rows,
        block_out,
        BLOCK_BYTES if row_bytes % BLOCK_BYTES == 0 else BLOCK_BYTES // 2,
        GROUP,
    )
    programs = cover(rows, block_rows) * cover(out_features, block_out), 1, 1
    tensors = levels, steps, sums, signs, h, bias, residual, y
    _planes(programs, tensors, (rows,), constants, warps)
    return y


def _level(
    x: Tensor,
    g: Tensor | None,
    row_bytes: int,
    parts: int,
    norm: Norm | None,
    normed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Levels (parts x rows x 8 bytes), steps and sums of levels (parts x rows) of the rows of x."""
    in_features = x.shape[-1]
    rows = x.numel() // in_features
    levels = x.new_empty((parts, rows, 8 * row_bytes), dtype=torch.int8)
    steps = x.new_empty((parts, rows), dtype=torch.float32)
    sums = x.new_empty((parts, rows), dtype=torch.int32)
    weight, bias, eps = norm or (None, None, 0.0)
    block_rows, block, warps = quantize.row_tile(max(LEAST, 8 * row_bytes))
    constants = in_features, row_bytes, parts, eps, block_rows, block // 8
    tensors = x, g, weight, bias, levels, steps, sums, normed
    _levels((cover(rows, block_rows), 1, 1), tensors, (rows,), constants, warps)
    return levels, steps, sums


@functools.lru_cache(1024)
def tile_for(rows: int, part: int, parts: int, at_once: int) -> tuple[int, int, int]:
    """Rows and outputs of a program, and its warps, where so many programs run at once.

    Large tiles read less, if there are enough of them.
    """

    def programs(tile: tuple[int, int, int]) -> int:
        return cover(rows, tile[0]) * cover(part, tile[1]) * parts

    whole = parts == 1 or part % LARGE[1] == 0  # no tile reaches into the next part
    if whole and programs(LARGE) >= LEAST_LARGE * at_once:
        return LARGE
    return SMALL if programs(SMALL) <= at_once else MEDIUM
