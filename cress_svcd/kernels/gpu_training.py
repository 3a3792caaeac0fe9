"""Element-wise work of a 1-bit layer's training step on CUDA, fused by Triton.

Around the matrix products of a step stand a dozen element-wise operations; each would be a launch
and a pass over memory of its own.  Here they are one kernel before the product, one after it, and
two for the gradients of the weight and its vectors.  ``quantization.sign_linear`` has the same in
torch operations, for everything that is not a CUDA tensor of at most 32 bits.
"""

import torch
from torch import Tensor

from cress_svcd.kernels.gpu_rows import TILE, TYPES, WIDEST, fits, row_tile, why_unavailable

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
    def _codes_kernel(weight, middle, codes, size, block: tl.constexpr):
        """+1 where weight >= middle, else -1; NaN everywhere for a broken middle."""
        where = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        centre = tl.load(middle)
        value = tl.load(weight + where, where < size, 0).to(tl.float32)
        sign = tl.where(value >= centre, 1.0, -1.0)
        tl.store(codes + where, (sign + centre * 0.0).to(codes.dtype.element_ty), where < size)

    @triton.jit
    def _scale_kernel(
        product, steps, h, bias, y, rows, width,
        has_bias: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr,
    ):  # fmt: skip
        """y = product * step * h + bias."""
        row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.program_id(1) * block + tl.arange(0, block)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row[:, None] * width + column[None, :]
        value = tl.load(product + where, inside, 0).to(tl.float32)
        value *= tl.load(steps + row, row < rows, 0)[:, None]
        value *= tl.load(h + column, column < width, 0).to(tl.float32)[None, :]
        if has_bias:
            value += tl.load(bias + column, column < width, 0).to(tl.float32)[None, :]
        tl.store(y + where, value.to(y.dtype.element_ty), inside)

    @triton.jit
    def _effective_kernel(
        codes, g, h, out, rows, width, block_rows: tl.constexpr, block: tl.constexpr
    ):
        """out = h * codes * g."""
        row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.arange(0, block)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row[:, None] * width + column[None, :]
        value = tl.load(codes + where, inside, 0).to(tl.float32)
        value *= tl.load(h + row, row < rows, 0).to(tl.float32)[:, None]
        value *= tl.load(g + column, column < width, 0).to(tl.float32)[None, :]
        tl.store(out + where, value.to(out.dtype.element_ty), inside)

    @triton.jit
    def _by_rows_kernel(
        by_input, codes, g, h, grad_weight, grad_h, rows, width,
        block_rows: tl.constexpr, block: tl.constexpr,
    ):  # fmt: skip
        """grad_weight = by_input * h * g; grad_h = (by_input * codes) @ g."""
        row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.arange(0, block)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row[:, None] * width + column[None, :]
        value = tl.load(by_input + where, inside, 0).to(tl.float32)
        value *= tl.load(g + column, column < width, 0).to(tl.float32)[None, :]
        scale = tl.load(h + row, row < rows, 0).to(tl.float32)
        written = (value * scale[:, None]).to(grad_weight.dtype.element_ty)
        tl.store(grad_weight + where, written, inside)
        value *= tl.load(codes + where, inside, 0).to(tl.float32)
        tl.store(grad_h + row, tl.sum(value, 1), row < rows)

    @triton.jit
    def _by_columns_kernel(
        by_input, codes, h, grad_g, rows, width, block_rows: tl.constexpr, block: tl.constexpr
    ):
        """grad_g = h @ (by_input * codes)."""
        column = tl.program_id(0) * block + tl.arange(0, block)
        total = tl.zeros((block_rows, block), tl.float32)
        for start in range(0, rows, block_rows):
            row = start + tl.arange(0, block_rows)
            inside = (row < rows)[:, None] & (column < width)[None, :]
            where = row[:, None].to(tl.int64) * width + column[None, :]
            value = tl.load(by_input + where, inside, 0).to(tl.float32)
            value *= tl.load(codes + where, inside, 0).to(tl.float32)
            total += value * tl.load(h + row, row < rows, 0).to(tl.float32)[:, None]
        tl.store(grad_g + column, tl.sum(total, 0), column < width)


def sign_codes(weight: Tensor, middle: Tensor, dtype: torch.dtype) -> Tensor:
    """``quantization.codes.sign_codes`` for one ``middle`` (1 x 1, float32) of the whole weight."""
    weight = weight.contiguous()
    codes = torch.empty_like(weight, dtype=dtype)
    _codes_kernel[(triton.cdiv(codes.numel(), TILE),)](
        weight, middle, codes, codes.numel(), block=TILE
    )
    return codes


def scale(
    product: Tensor, steps: Tensor, h: Tensor, bias: Tensor | None, shape: torch.Size
) -> Tensor:
    """``product`` (rows x out) * ``steps`` (rows x 1) * h + bias, in product's type, as a tensor of
    ``shape`` that is no view."""
    rows, width = product.shape
    y = product.new_empty(shape)
    block = min(256, triton.next_power_of_2(width))
    block_rows = max(1, TILE // block)
    _scale_kernel[(triton.cdiv(rows, block_rows), triton.cdiv(width, block))](
        product, steps, h, bias, y, rows, width,
        has_bias=bias is not None, block_rows=block_rows, block=block,
    )  # fmt: skip
    return y


def effective_weight(codes: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """h * codes * g (out x in), in the type of the codes."""
    rows, width = codes.shape
    out, tile = torch.empty_like(codes), row_tile(width)
    _effective_kernel[(triton.cdiv(rows, tile["block_rows"]),)](
        codes, g, h, out, rows, width, **tile
    )
    return out


def split_gradient(
    by_input: Tensor, codes: Tensor, g: Tensor, h: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight (out x in, ``dtype``), g and h (float32) from that of h * codes * g.

    Args:
        by_input: out x in, the gradient of the matrix that stands for the weight.
    """
    rows, width = codes.shape
    grad_weight = torch.empty_like(codes, dtype=dtype)
    grad_g, grad_h = (codes.new_empty(size, dtype=torch.float32) for size in (width, rows))
    tile = row_tile(width)
    _by_rows_kernel[(triton.cdiv(rows, tile["block_rows"]),)](
        by_input, codes, g, h, grad_weight, grad_h, rows, width, **tile
    )
    _by_columns_kernel[(triton.cdiv(width, 16),)](
        by_input, codes, h, grad_g, rows, width, block_rows=128, block=16
    )
    return grad_weight, grad_g, grad_h
