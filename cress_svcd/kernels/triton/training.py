"""Element-wise work of a 1-bit layer's training step on CUDA, fused by Triton.

Around the matrix products of a step stand a dozen element-wise operations; each would be a launch
and a pass over memory of its own.  Here they are one kernel before the product, one after it, and
two for the gradients of the weight and its scales.  ``quantization.svcd`` has the same in
torch operations, for everything that is not a CUDA tensor of at most 32 bits.
"""

import torch
from torch import Tensor

from cress_svcd.kernels.triton.common import Launcher, cover
from cress_svcd.kernels.triton.quantize import (
    TILE,
    TYPES,
    WIDEST,
    fits,
    quantize,  # noqa: F401 - training calls it by this module
    row_tile,
    why_unavailable,
)

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


def is_for(x: Tensor, weight: Tensor) -> bool:
    """Whether these kernels take ``x`` (... x in) and a layer's ``weight`` (out x in)."""
    return (
        x.is_cuda
        and fits(x)
        and weight.dtype in TYPES
        and max(weight.shape) <= WIDEST
        and why_unavailable() is None
        and not torch.compiler.is_compiling()  # a compiler fuses by itself
    )


if triton is not None:

    @triton.jit
    def _binarize_kernel(weight, mean, signs, size: tl.constexpr, block: tl.constexpr):
        """+1 where weight >= mean, else -1; NaN everywhere for a broken mean."""
        where = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        threshold = tl.load(mean)
        value = tl.load(weight + where, where < size, 0).to(tl.float32)
        sign = tl.where(value >= threshold, 1.0, -1.0)
        tl.store(signs + where, (sign + threshold * 0.0).to(signs.dtype.element_ty), where < size)

    @triton.jit(do_not_specialize=["rows"])
    def _scale_kernel(
        product,
        x_scales,
        h,
        bias,
        y,
        rows,
        width: tl.constexpr,
        block_rows: tl.constexpr,
        block: tl.constexpr,
    ):
        """y = product * scale * h + bias."""
        row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.program_id(1) * block + tl.arange(0, block)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row[:, None] * width + column[None, :]
        value = tl.load(product + where, inside, 0).to(tl.float32)
        value *= tl.load(x_scales + row, row < rows, 0)[:, None]
        value *= tl.load(h + column, column < width, 0).to(tl.float32)[None, :]
        if bias is not None:
            value += tl.load(bias + column, column < width, 0).to(tl.float32)[None, :]
        tl.store(y + where, value.to(y.dtype.element_ty), inside)

    @triton.jit
    def _effective_kernel(
        signs,
        g,
        h,
        out,
        rows: tl.constexpr,
        width: tl.constexpr,
        block_rows: tl.constexpr,
        block: tl.constexpr,
    ):
        """out = h * signs * g."""
        row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.arange(0, block)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row[:, None] * width + column[None, :]
        value = tl.load(signs + where, inside, 0).to(tl.float32)
        value *= tl.load(h + row, row < rows, 0).to(tl.float32)[:, None]
        value *= tl.load(g + column, column < width, 0).to(tl.float32)[None, :]
        tl.store(out + where, value.to(out.dtype.element_ty), inside)

    @triton.jit
    def _split_rows(
        by_input,
        signs,
        g,
        h,
        grad_weight,
        grad_h,
        first,
        rows: tl.constexpr,
        width: tl.constexpr,
        block_rows: tl.constexpr,
        block: tl.constexpr,
    ):
        """grad_weight = by_input * h * g; grad_h = (by_input * signs) @ g."""
        row = first.to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.arange(0, block)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row[:, None] * width + column[None, :]
        value = tl.load(by_input + where, inside, 0).to(tl.float32)
        value *= tl.load(g + column, column < width, 0).to(tl.float32)[None, :]
        scale = tl.load(h + row, row < rows, 0).to(tl.float32)
        written = (value * scale[:, None]).to(grad_weight.dtype.element_ty)
        tl.store(grad_weight + where, written, inside)
        value *= tl.load(signs + where, inside, 0).to(tl.float32)
        tl.store(grad_h + row, tl.sum(value, 1).to(grad_h.dtype.element_ty), row < rows)

    @triton.jit
    def _split_columns(
        by_input,
        signs,
        h,
        grad_g,
        first,
        rows: tl.constexpr,
        width: tl.constexpr,
        block_rows: tl.constexpr,
        block: tl.constexpr,
    ):
        """grad_g = h @ (by_input * signs)."""
        column = first * block + tl.arange(0, block)
        total = tl.zeros((block_rows, block), tl.float32)
        for start in range(0, rows, block_rows):
            row = start + tl.arange(0, block_rows)
            inside = (row < rows)[:, None] & (column < width)[None, :]
            where = row[:, None].to(tl.int64) * width + column[None, :]
            value = tl.load(by_input + where, inside, 0).to(tl.float32)
            value *= tl.load(signs + where, inside, 0).to(tl.float32)
            total += value * tl.load(h + row, row < rows, 0).to(tl.float32)[:, None]
        sums = tl.sum(total, 0).to(grad_g.dtype.element_ty)
        tl.store(grad_g + column, sums, column < width)

    @triton.jit
    def _split_kernel(
        by_input,
        signs,
        g,
        h,
        grad_weight,
        grad_g,
        grad_h,
        rows: tl.constexpr,
        width: tl.constexpr,
        block_rows: tl.constexpr,
        block: tl.constexpr,
        tall: tl.constexpr,
        narrow: tl.constexpr,
    ):
        """Both in one launch: the first grid take whole rows, the others whole columns."""
        by_rows: tl.constexpr = (rows + block_rows - 1) // block_rows
        first = tl.program_id(0)
        if first < by_rows:
            _split_rows(
                by_input, signs, g, h, grad_weight, grad_h, first, rows, width, block_rows, block
            )
        else:
            _split_columns(by_input, signs, h, grad_g, first - by_rows, rows, width, tall, narrow)

    _binarize, _scale = Launcher(_binarize_kernel), Launcher(_scale_kernel)
    _effective, _split = Launcher(_effective_kernel), Launcher(_split_kernel)


TALL, NARROW = 128, 16  # of the tiles in which columns are summed


def binarize(weight: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """As ``quantization.binarize``'s for one ``mean`` (1, 1), in float32, of the whole weight."""
    weight = weight.contiguous()
    signs = torch.empty_like(weight, dtype=dtype)
    size = signs.numel()
    _binarize((cover(size, TILE), 1, 1), (weight, mean, signs), (), (size, TILE))
    return signs


def scale(
    product: Tensor, x_scales: Tensor, h: Tensor, bias: Tensor | None, shape: torch.Size
) -> Tensor:
    """``product`` (M, out) * ``x_scales`` (M, 1) * h + bias, in product's type, as a tensor of
    ``shape`` that is no view."""
    rows, width = product.shape
    y = product.new_empty(shape)
    block = min(256, 1 << (width - 1).bit_length())
    block_rows = max(1, TILE // block)
    grid = cover(rows, block_rows), cover(width, block), 1
    _scale(grid, (product, x_scales, h, bias, y), (rows,), (width, block_rows, block))
    return y


def effective_weight(signs: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """h * signs * g (out, in), in the type of the signs."""
    rows, width = signs.shape
    out = torch.empty_like(signs)
    block_rows, block, warps = row_tile(width)
    constants = rows, width, block_rows, block
    _effective((cover(rows, block_rows), 1, 1), (signs, g, h, out), (), constants, warps)
    return out


def split_gradient(
    by_input: Tensor, signs: Tensor, g: Tensor, h: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the weight (out, in) in ``dtype``, g and h (in their types), from that of
    h * signs * g.

    Args:
        by_input: (out, in), the gradient of the matrix that stands for the weight.
    """
    rows, width = signs.shape
    grad_weight = torch.empty_like(signs, dtype=dtype)
    grad_g, grad_h = torch.empty_like(g), torch.empty_like(h)
    block_rows, block, warps = row_tile(width)
    grid = cover(rows, block_rows) + cover(width, NARROW), 1, 1
    constants = rows, width, block_rows, block, TALL, NARROW
    tensors = by_input, signs, g, h, grad_weight, grad_g, grad_h
    _split(grid, tensors, (), constants, warps)
    return grad_weight, grad_g, grad_h
