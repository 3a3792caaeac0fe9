"""8-bit products for large M on CUDA, by two Triton kernels: quantise, then multiply bit planes.

Unpacking a sign to a byte of -1 or +1 costs more than its multiply-add on the tensor cores, so the
kernel multiplies bit planes.  Bit k of all bytes is a matrix of zeros and ones, which one AND and
one shift take out of four bytes at a time.  Its product with q of every eighth input, doubled, less
the sum of a row's q, is the product with the signs.  q is written in that order.
"""

import functools

import torch
from torch import Tensor

from cress_svcd.kernels.triton import quantize
from cress_svcd.kernels.triton.common import Launcher, cover
from cress_svcd.kernels.triton.sign_gemm_fused import NONE, Norm, num_sms_on

try:
    import triton
    import triton.language as tl

    from cress_svcd.kernels.triton.sign_gemm_fused import _finished, _normed, _quantized, _tile_of
except ImportError:
    triton = None

# Tiles of a CTA: rows, outputs, warps (measured on an H200), and what asks for the largest one.
LARGE, MEDIUM, SMALL = (64, 128, 4), (32, 64, 4), (16, 32, 4)
LEAST_LARGE = 0.7  # of the multiprocessors have a CTA
BLOCK_BYTES = 64  # of a row of signs; half of them where that does not divide it
LEAST = 32  # inputs of a block of q
GROUP = 8  # tiles of rows whose grid run next to each other


if triton is not None:

    @triton.jit(do_not_specialize=["rows"])
    def _quantize_kernel(
        x,
        g,
        norm_weight,
        norm_bias,
        q,
        x_scales,
        sums,
        normed,
        rows,
        in_features: tl.constexpr,
        row_bytes: tl.constexpr,
        num_projections: tl.constexpr,
        eps: tl.constexpr,
        block_rows: tl.constexpr,
        block_bytes: tl.constexpr,
    ):
        """q of whole rows, bit by bit: of input 8 j + k at k row_bytes + j."""
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
        for projection in tl.static_range(num_projections):
            scaled = value
            if g is not None:
                own_g = tl.load(g + projection * in_features + column, inside, 0)
                scaled = value * own_g.to(tl.float32)[None, :]
            q_block, x_scale = _quantized(scaled)
            of_projection = projection * rows.to(tl.int64) + row
            tl.store(x_scales + of_projection, x_scale, exists)
            tl.store(sums + of_projection, tl.sum(q_block.to(tl.int32), 1), exists)
            q_block = q_block.reshape(block_rows, block_bytes, 8).permute(0, 2, 1)
            where_of_projection = (
                q + (of_projection * (8 * row_bytes))[:, None, None] + place[None, :, :]
            )
            tl.store(where_of_projection, q_block, given)

    @triton.jit(do_not_specialize=["rows"])
    def _bitplane_kernel(
        q,
        x_scales,
        sums,
        signs,
        h,
        bias,
        residual,
        y,
        rows,
        out_features: tl.constexpr,
        row_bytes: tl.constexpr,
        projection_size: tl.constexpr,
        activation: tl.constexpr,
        ptx: tl.constexpr,
        block_rows: tl.constexpr,
        block_out: tl.constexpr,
        block_bytes: tl.constexpr,
        group: tl.constexpr,
    ):
        """A tile (outputs, rows): what is unpacked on its way must be the left operand.  Each
        ``projection_size`` outputs have a q of their own."""
        row, first_output = _tile_of(rows, out_features, block_rows, block_out, group)
        output = first_output + tl.arange(0, block_out)
        byte = tl.arange(0, block_bytes)
        exists, written = row < rows, output < out_features
        of_projection = first_output // projection_size * rows.to(tl.int64) + row
        of_row = q + of_projection[:, None] * (8 * row_bytes)
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
                q_block = tl.load(where, exists[:, None] & given[None, :], 0)
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
                total = tl.dot(ones, q_block.trans(), total, out_dtype=tl.int32)
        x_scale, q_sum = (
            tl.load(x_scales + of_projection, exists, 0),
            tl.load(sums + of_projection, exists, 0),
        )
        value = (2 * total - q_sum[None, :]).to(tl.float32) * x_scale[None, :]
        value = value.trans()
        where = row[:, None].to(tl.int64) * out_features + output[None, :]
        there = exists[:, None] & written[None, :]
        value = _finished(
            value, h, bias, residual, output, written, where, there, activation, y.dtype.element_ty
        )
        tl.store(y + where, value, there)

    # A fused multiply-add would round q differently from training.
    _quantize = Launcher(_quantize_kernel, enable_fp_fusion=False)
    _bitplane = Launcher(_bitplane_kernel, enable_fp_fusion=False)
    # Triton's interpreter, and GPUs of others, know no PTX.
    PTX = (
        isinstance(_bitplane_kernel, triton.runtime.JITFunction) and torch.version.cuda is not None
    )


def sign_matmul(
    x: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    *,
    num_projections: int = 1,
    norm: Norm | None = None,
    activation: int = NONE,
    residual: Tensor | None = None,
    normed: Tensor | None = None,
    tile: tuple[int, int, int] | None = None,
) -> Tensor:
    """As ``sign_gemm_fused.sign_matmul``, for any M and at most ``quantize.WIDEST`` inputs."""
    *shape, in_features = x.shape
    out_features, row_bytes = signs.shape
    rows = x.numel() // in_features
    q, x_scales, sums = _quantized_rows(x, g, row_bytes, num_projections, norm, normed)
    y = x.new_empty((*shape, out_features))
    projection_size = out_features // num_projections
    block_rows, block_out, warps = tile or tile_for(
        rows, projection_size, num_projections, num_sms_on(x.device)
    )
    constants = (
        out_features,
        row_bytes,
        projection_size,
        activation,
        PTX,
        block_rows,
        block_out,
        BLOCK_BYTES if row_bytes % BLOCK_BYTES == 0 else BLOCK_BYTES // 2,
        GROUP,
    )
    grid = cover(rows, block_rows) * cover(out_features, block_out), 1, 1
    tensors = q, x_scales, sums, signs, h, bias, residual, y
    _bitplane(grid, tensors, (rows,), constants, warps)
    return y


def _quantized_rows(
    x: Tensor,
    g: Tensor | None,
    row_bytes: int,
    num_projections: int,
    norm: Norm | None,
    normed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q (num_projections, rows, 8 x bytes), scales and sums of q (num_projections, rows) of x."""
    in_features = x.shape[-1]
    rows = x.numel() // in_features
    q = x.new_empty((num_projections, rows, 8 * row_bytes), dtype=torch.int8)
    x_scales = x.new_empty((num_projections, rows), dtype=torch.float32)
    sums = x.new_empty((num_projections, rows), dtype=torch.int32)
    weight, bias, eps = norm or (None, None, 0.0)
    block_rows, block, warps = quantize.row_tile(max(LEAST, 8 * row_bytes))
    constants = in_features, row_bytes, num_projections, eps, block_rows, block // 8
    tensors = x, g, weight, bias, q, x_scales, sums, normed
    _quantize((cover(rows, block_rows), 1, 1), tensors, (rows,), constants, warps)
    return q, x_scales, sums


@functools.lru_cache(1024)
def tile_for(
    rows: int, projection_size: int, num_projections: int, num_sms: int
) -> tuple[int, int, int]:
    """Rows and outputs of a CTA, and its warps, on ``num_sms`` multiprocessors.

    Large tiles read less, if there are enough of them.
    """

    def tiles(tile: tuple[int, int, int]) -> int:
        return cover(rows, tile[0]) * cover(projection_size, tile[1]) * num_projections

    whole = (
        num_projections == 1 or projection_size % LARGE[1] == 0
    )  # no tile reaches into the next projection
    if whole and tiles(LARGE) >= LEAST_LARGE * num_sms:
        return LARGE
    return SMALL if tiles(SMALL) <= num_sms else MEDIUM
