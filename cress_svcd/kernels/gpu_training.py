"""Element-wise work of a 1-bit layer's training step on CUDA, fused by Triton.

Around the matrix products of a step stand a dozen element-wise operations; each would be a launch
and a pass over memory of its own.  Here they are one kernel before the product, one after it, and
two for the gradients of the weight and its vectors.  ``quantization.sign_linear`` has the same in
torch operations, for everything that is not a CUDA tensor of at most 32 bits.
"""

import torch
from torch import Tensor

from cress_svcd.kernels.gpu import why_unavailable

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

WIDEST = 16384  # a row is held in one program; wider rows are left to torch
TILE = 2048  # entries of a program of several rows
TYPES = (torch.float16, torch.bfloat16, torch.float32)


def is_for(x: Tensor, weight: Tensor) -> bool:
    """Whether these kernels take ``x`` (... x in) and a layer's ``weight`` (out x in)."""
    return (
        x.is_cuda
        and x.dtype in TYPES
        and weight.dtype in TYPES
        and max(weight.shape) <= WIDEST
        and x.numel() > 0
        and why_unavailable() is None
        and not torch.compiler.is_compiling()  # a compiler fuses by itself
    )


if triton is not None:

    @triton.jit
    def _codes_kernel(weight, middle, codes, size, block: tl.constexpr):
        """+1 where weight >= middle, else -1; NaN everywhere for a broken middle."""
        where = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        centre = tl.load(middle)
        sign = tl.where(tl.load(weight + where, where < size, 0).to(tl.float32) >= centre, 1.0, -1.0)
        tl.store(codes + where, (sign + centre * 0.0).to(codes.dtype.element_ty), where < size)

    @triton.jit
    def _quantize_kernel(
        x, g, levels, steps, rows, width,
        top: tl.constexpr, unit: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr,
    ):  # fmt: skip
        """levels = round(g * x / step) / unit, step = max |g * x| / top * unit, by rows."""
        row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
        column = tl.arange(0, block)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row[:, None] * width + column[None, :]
        value = tl.load(x + where, inside, 0).to(tl.float32)
        value *= tl.load(g + column, column < width, 0).to(tl.float32)[None, :]
        broken = tl.sum(value * 0.0, 1)  # NaN where a value is NaN or infinite, which max may pass
        step = tl.max(tl.abs(value), 1) * (1.0 / top) + broken
        inverse = tl.div_rn(1.0, tl.maximum(step, 1e-32, propagate_nan=tl.PropagateNan.ALL))
        value *= inverse[:, None]
        if top > 1:
            # Below 2^22 this rounds to an integer, halves to even, as torch.round does.
            value = (value + 12582912.0) - 12582912.0
        tl.store(levels + where, (value * (1.0 / unit)).to(levels.dtype.element_ty), inside)
        tl.store(steps + row, step * unit, row < rows)

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
    def _effective_kernel(codes, g, h, out, rows, width, block_rows: tl.constexpr, block: tl.constexpr):  # fmt: skip
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


def _tile(width: int) -> dict[str, int]:
    """Rows and columns of a program that holds whole rows of ``width``, and its warps."""
    block = triton.next_power_of_2(width)
    rows = max(1, TILE // block)
    return {"block_rows": rows, "block": block, "num_warps": 4 if block <= 4096 else 8}


def sign_codes(weight: Tensor, middle: Tensor, dtype: torch.dtype) -> Tensor:
    """``quantization.codes.sign_codes`` for one ``middle`` (1 x 1, float32) of the whole weight."""
    weight = weight.contiguous()
    codes = torch.empty_like(weight, dtype=dtype)
    _codes_kernel[(triton.cdiv(codes.numel(), TILE),)](
        weight, middle, codes, codes.numel(), block=TILE
    )
    return codes


def quantize(x: Tensor, g: Tensor, bits: int | None) -> tuple[Tensor, Tensor]:
    """``quantization.activations.quantize_tokens`` of g * x, for x ... x in: levels and steps."""
    x = x.contiguous()
    width = x.shape[-1]
    rows = x.numel() // width
    levels, steps = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    # Halves hold levels below 1, so that a sum of many cannot overflow.
    unit = 1 if x.dtype == torch.float32 or bits is None else 2 ** (bits - 1)
    tile = _tile(width)
    _quantize_kernel[(triton.cdiv(rows, tile["block_rows"]),)](
        x, g, levels, steps, rows, width,
        top=1 if bits is None else 2 ** (bits - 1) - 1, unit=unit,
        enable_fp_fusion=False, **tile,  # a fused multiply-add would round levels differently
    )  # fmt: skip
    return levels, steps


def scale(product: Tensor, steps: Tensor, h: Tensor, bias: Tensor | None) -> Tensor:
    """``product`` (... x out) * ``steps`` (... x 1) * h + bias, in product's type."""
    width = product.shape[-1]
    rows = product.numel() // width
    y = torch.empty_like(product)
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
    out, tile = torch.empty_like(codes), _tile(width)
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
    tile = _tile(width)
    _by_rows_kernel[(triton.cdiv(rows, tile["block_rows"]),)](
        by_input, codes, g, h, grad_weight, grad_h, rows, width, **tile
    )
    _by_columns_kernel[(triton.cdiv(width, 16),)](
        by_input, codes, h, grad_g, rows, width, block_rows=128, block=16
    )
    return grad_weight, grad_g, grad_h
