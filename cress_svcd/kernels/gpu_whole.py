"""8-bit products of few rows on CUDA, by one Triton kernel that holds them whole.

A product of a decoding step is over before a launch is: what counts is how many launches there are,
and how often one waits for memory.  So memory is waited for once, and what stands around a product
is done on the way: the layer norm before it, activation and residual after it, and several layers
side by side that read the same rows, as query, key and value do.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from cress_svcd.kernels.launching import Launcher, cover

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

WIDEST = 2048  # inputs of a row
MOST_ROWS = 192  # with more, rows are better rounded once, and not by each program (on an H200)
ROWS = 16  # of a program
OUTPUTS = 16, 32, 64  # of a program
PROGRAMS = 132  # that run at once
LEAST_SHARED = 48 << 10  # bytes of memory that every GPU gives a program
NONE, RELU, GELU = 0, 1, 2  # activations


class Norm(NamedTuple):
    """A layer norm over the inputs: vectors (in) and epsilon."""

    weight: Tensor
    bias: Tensor
    eps: float


if triton is not None:

    @triton.jit
    def _rounded(values):
        # Below 2^22 this rounds to an integer, halves to even, as torch.round does.
        return (values + 12582912.0) - 12582912.0

    @triton.jit
    def _signs_of(packed):
        """Bytes (out x bytes) to -1 and +1 (out x 8 bytes) of int8."""
        bit = tl.arange(0, 8).to(tl.uint8)
        ones = (packed[:, :, None] >> bit[None, None, :]) & 1
        return (ones.to(tl.int8) * 2 - 1).reshape(packed.shape[0], packed.shape[1] * 8)

    @triton.jit(do_not_specialize=["rows"])
    def _whole_rows_kernel(
        x, signs, g, h, bias, norm_weight, norm_bias, residual, y, rows,
        in_features: tl.constexpr, out_features: tl.constexpr, row_bytes: tl.constexpr,
        part: tl.constexpr, eps: tl.constexpr, activation: tl.constexpr,
        block_rows: tl.constexpr, block_out: tl.constexpr, block_in: tl.constexpr,
    ):  # fmt: skip
        """A tile of outputs; each ``part`` outputs have their own g."""
        kind = x.dtype.element_ty
        row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
        first = tl.program_id(1) * block_out
        output = first + tl.arange(0, block_out)
        column = tl.arange(0, block_in)
        byte = tl.arange(0, block_in // 8)
        exists, inside = row < rows, column < in_features
        written = output < out_features
        where = signs + output[:, None].to(tl.int64) * row_bytes + byte[None, :]
        packed = tl.load(where, written[:, None] & (byte < row_bytes)[None, :], 0)
        where = x + row[:, None].to(tl.int64) * in_features + column[None, :]
        value = tl.load(where, exists[:, None] & inside[None, :], 0).to(tl.float32)
        if norm_weight is not None:
            centred = value - (tl.sum(value, 1) * (1.0 / in_features))[:, None]
            centred = tl.where(inside[None, :], centred, 0.0)
            variance = tl.sum(centred * centred, 1) * (1.0 / in_features)
            value = centred * tl.rsqrt(variance + eps)[:, None]
            value *= tl.load(norm_weight + column, inside, 0).to(tl.float32)[None, :]
            value += tl.load(norm_bias + column, inside, 0).to(tl.float32)[None, :]
            value = value.to(kind).to(tl.float32)  # as it would come from memory
        if g is not None:
            g += first // part * in_features
            value *= tl.load(g + column, inside, 0).to(tl.float32)[None, :]
        damage = tl.sum(value * 0.0, 1)  # NaN where a value is NaN or infinite
        step = tl.max(tl.abs(value), 1) * (1.0 / 127) + damage
        inverse = tl.div_rn(1.0, tl.maximum(step, 1e-32, propagate_nan=tl.PropagateNan.ALL))
        value = tl.where(damage[:, None] == 0, _rounded(value * inverse[:, None]), 0.0)
        total = tl.dot(value.to(tl.int8), _signs_of(packed).trans(), out_dtype=tl.int32)
        result = total.to(tl.float32) * step[:, None]
        if h is not None:
            result *= tl.load(h + output, written, 0).to(tl.float32)[None, :]
        if bias is not None:
            result += tl.load(bias + output, written, 0).to(tl.float32)[None, :]
        if activation != 0:
            result = result.to(kind).to(tl.float32)
            if activation == 1:
                result = tl.maximum(result, 0.0, propagate_nan=tl.PropagateNan.ALL)
            else:
                result = 0.5 * result * (1.0 + tl.erf(result * 0.7071067811865476))
        where = row[:, None].to(tl.int64) * out_features + output[None, :]
        there = exists[:, None] & written[None, :]
        if residual is not None:
            result = result.to(kind).to(tl.float32)
            result += tl.load(residual + where, there, 0).to(tl.float32)
        tl.store(y + where, result.to(kind), there)

    # A fused multiply-add would round levels differently from training.
    _whole = Launcher(_whole_rows_kernel, enable_fp_fusion=False)


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
    tile: tuple[int, int, int] | None = None,
) -> Tensor:
    """activation(signs @ level(g * norm(x)) * step * h + bias) + residual, levels of 8 bits.

    Everything is rounded to x's type where it would be if each part stood by itself.

    Args:
        x: ... x in, dense, of float32 or half types, that ``fits``.
        signs: out x bytes, in storage form.
        g: in, or None for ones; with ``parts`` layers side by side parts x in.
        h, bias: out, or None for ones and zeros.
        parts: layers of equally many outputs, a multiple of OUTPUTS[-1] unless there is one layer.
        activation: NONE, RELU or GELU.
        residual: ... x out, dense.
        tile: rows and outputs of a program, and its warps, for measurements.
    """
    *shape, in_features = x.shape
    out_features, row_bytes = signs.shape
    rows = x.numel() // in_features
    y = x.new_empty((*shape, out_features))
    room = shared_memory(x.device)
    block_rows, block_out, warps = tile or tile_for(rows, in_features, out_features, room)
    norm_weight, norm_bias, eps = norm or (None, None, 0.0)
    constants = (
        in_features, out_features, row_bytes, out_features // parts, eps, activation,
        block_rows, block_out, _width(in_features),
    )  # fmt: skip
    programs = cover(rows, block_rows), cover(out_features, block_out), 1
    tensors = x, signs, g, h, bias, norm_weight, norm_bias, residual, y
    _whole(programs, tensors, (rows,), constants, warps)
    return y


def fits(rows: int, in_features: int, device: torch.device) -> bool:
    """Whether ``sign_matmul`` is for so many rows of so many inputs there."""
    held = 0 < rows <= MOST_ROWS and in_features <= WIDEST
    return held and _bytes(in_features, OUTPUTS[0]) <= shared_memory(device)


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes that the operands of a program may take; the rest is the compiler's."""
    if device.type != "cuda":
        return LEAST_SHARED
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", LEAST_SHARED) * 3 // 4


def _bytes(in_features: int, block_out: int) -> int:
    return (ROWS + block_out) * _width(in_features)


@functools.cache
def tile_for(rows: int, in_features: int, out_features: int, room: int) -> tuple[int, int, int]:
    """Rows and outputs of a program, and its warps (measured on an H200).

    The fewer outputs, the sooner a program is done, as long as all run at once.
    """
    chosen = OUTPUTS[0]
    for block_out in OUTPUTS:
        if _bytes(in_features, block_out) > room:
            break
        chosen = block_out
        if cover(rows, ROWS) * cover(out_features, block_out) <= PROGRAMS:
            break
    return ROWS, chosen, 8 if chosen == OUTPUTS[-1] or in_features > 1024 else 4


@functools.cache
def _width(in_features: int) -> int:
    """The block of inputs that holds so many; 32 is the least that the tensor cores take."""
    return max(32, 1 << (in_features - 1).bit_length())
