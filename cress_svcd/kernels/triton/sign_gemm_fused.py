"""8-bit products for small M on CUDA, by one Triton kernel that holds rows whole.

A product of a decoding step ends before the next launch: the number of launches counts, and how
often one waits for memory.  So the kernel waits for memory once and does what stands around a
product on the way: the layer norm before it, activation and residual after it, and several layers
next to each other that read the same rows, as query, key and value do.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from cress_svcd.kernels.triton.common import Launcher, cover

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

WIDEST = 1024  # inputs of a row; wider ones are quantised once, and not by each CTA
ROWS = 16  # of a CTA
OUTPUTS = 16, 32, 64  # of a CTA
WARPS = 8
LEAST_SHARED = 48 << 10  # bytes of memory that every GPU gives a CTA
NUM_SMS = 132  # of the GPU that tiles were measured on
NONE, RELU, GELU = 0, 1, 2  # activations


class Norm(NamedTuple):
    """A layer norm over the inputs: weight and bias (in,) and epsilon."""

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

    @triton.jit
    def _normed(
        value,
        weight,
        bias,
        column,
        inside,
        in_features: tl.constexpr,
        eps: tl.constexpr,
        kind: tl.constexpr,
    ):
        """Layer norm of rows, rounded as if it came from memory; 0 outside."""
        centred = value - (tl.sum(value, 1) * (1.0 / in_features))[:, None]
        centred = tl.where(inside[None, :], centred, 0.0)
        variance = tl.sum(centred * centred, 1) * (1.0 / in_features)
        value = centred * tl.rsqrt(variance + eps)[:, None]
        value *= tl.load(weight + column, inside, 0).to(tl.float32)[None, :]
        value += tl.load(bias + column, inside, 0).to(tl.float32)[None, :]
        return value.to(kind).to(tl.float32)

    @triton.jit
    def _quantized(value):
        """q of rows (int8) and their scales; of a broken row zeros, and NaN for its scale."""
        damage = tl.sum(value * 0.0, 1)  # NaN where a value is NaN or infinite
        x_scale = tl.max(tl.abs(value), 1) * (1.0 / 127) + damage
        inverse = tl.div_rn(1.0, tl.maximum(x_scale, 1e-32, propagate_nan=tl.PropagateNan.ALL))
        q = tl.where(damage[:, None] == 0, _rounded(value * inverse[:, None]), 0.0)
        return q.to(tl.int8), x_scale

    @triton.jit
    def _tile_of(
        rows,
        out_features: tl.constexpr,
        block_rows: tl.constexpr,
        block_out: tl.constexpr,
        group: tl.constexpr,
    ):
        """The rows of a CTA, and the first of its outputs: tiles in groups of rows,
        so that those that run together share what they read."""
        down, across = tl.cdiv(rows, block_rows), tl.cdiv(out_features, block_out)
        first = tl.program_id(0) // (group * across) * group
        height = min(down - first, group)
        inner = tl.program_id(0) % (group * across)
        row = (first + inner % height) * block_rows + tl.arange(0, block_rows)
        return row, inner // height * block_out

    @triton.jit
    def _finished(
        value,
        h,
        bias,
        residual,
        output,
        written,
        where,
        there,
        activation: tl.constexpr,
        kind: tl.constexpr,
    ):
        """activation(value * h + bias) + residual, rounded where each would be by itself."""
        if h is not None:
            value *= tl.load(h + output, written, 0).to(tl.float32)[None, :]
        if bias is not None:
            value += tl.load(bias + output, written, 0).to(tl.float32)[None, :]
        if activation != 0:
            value = value.to(kind).to(tl.float32)
            if activation == 1:
                value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
            else:
                value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
        if residual is not None:
            value = value.to(kind).to(tl.float32)
            value += tl.load(residual + where, there, 0).to(tl.float32)
        return value.to(kind)

    @triton.jit(do_not_specialize=["rows"])
    def _fused_kernel(
        x,
        signs,
        g,
        h,
        bias,
        norm_weight,
        norm_bias,
        residual,
        y,
        normed,
        rows,
        in_features: tl.constexpr,
        out_features: tl.constexpr,
        row_bytes: tl.constexpr,
        projection_size: tl.constexpr,
        eps: tl.constexpr,
        activation: tl.constexpr,
        block_rows: tl.constexpr,
        block_out: tl.constexpr,
        block_in: tl.constexpr,
    ):
        """A tile of outputs; each ``projection_size`` outputs have their own g."""
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
        where = row[:, None].to(tl.int64) * in_features + column[None, :]
        there = exists[:, None] & inside[None, :]
        value = tl.load(x + where, there, 0).to(tl.float32)
        if norm_weight is not None:
            value = _normed(value, norm_weight, norm_bias, column, inside, in_features, eps, kind)
            # Nested: whether a pointer is None is known when this compiles, the program id is not.
            if normed is not None:  # noqa: SIM102
                if tl.program_id(1) == 0:
                    tl.store(normed + where, value.to(kind), there)
        if g is not None:
            g += first // projection_size * in_features
            value *= tl.load(g + column, inside, 0).to(tl.float32)[None, :]
        q, x_scale = _quantized(value)
        total = tl.dot(q, _signs_of(packed).trans(), out_dtype=tl.int32)
        value = total.to(tl.float32) * x_scale[:, None]
        where = row[:, None].to(tl.int64) * out_features + output[None, :]
        there = exists[:, None] & written[None, :]
        value = _finished(value, h, bias, residual, output, written, where, there, activation, kind)
        tl.store(y + where, value, there)

    # A fused multiply-add would round q differently from training.
    _fused = Launcher(_fused_kernel, enable_fp_fusion=False)


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
    """activation((signs @ q(g * norm(x))) * scale * h + bias) + residual, q of 8 bits.

    Everything is rounded to x's type where it would be if each projection_size stood by itself.

    Args:
        x: (…, in), dense, of float32 or half types, for which there is a ``tile_on``.
        signs: (out, bytes), in storage form.
        g: (in), or None for ones; of several projections (num_projections x in).
        h, bias: (out), or None for ones and zeros.
        num_projections: layers next to each other, of equally many outputs, which are a multiple of
            OUTPUTS[-1] unless there is one layer.
        activation: NONE, RELU or GELU.
        residual: (…, out), dense.
        normed: (…, in), dense: norm(x) is written there.
        tile: rows and outputs of a CTA, and its warps, for measurements.
    """
    *shape, in_features = x.shape
    out_features, row_bytes = signs.shape
    rows = x.numel() // in_features
    y = x.new_empty((*shape, out_features))
    tile = tile or tile_on(x.device, rows, in_features, out_features)
    if tile is None:
        raise ValueError(f"sign_matmul: no tile holds {rows} rows of {in_features} inputs")
    block_rows, block_out, warps = tile
    norm_weight, norm_bias, eps = norm or (None, None, 0.0)
    constants = (
        in_features,
        out_features,
        row_bytes,
        out_features // num_projections,
        eps,
        activation,
        block_rows,
        block_out,
        _width(in_features),
    )
    grid = cover(rows, block_rows), cover(out_features, block_out), 1
    tensors = x, signs, g, h, bias, norm_weight, norm_bias, residual, y, normed
    _fused(grid, tensors, (rows,), constants, warps)
    return y


@functools.lru_cache(1024)
def tile_on(
    device: torch.device, rows: int, in_features: int, out_features: int
) -> tuple[int, int, int] | None:
    """``tile_for`` a device."""
    return tile_for(rows, in_features, out_features, shared_memory(device), num_sms_on(device))


def tile_for(
    rows: int, in_features: int, out_features: int, capacity: int, num_sms: int
) -> tuple[int, int, int] | None:
    """Rows and outputs of a CTA, and its warps (measured on an H200); None if the rows are too
    wide for a CTA, or too many for all CTAs to run at once.

    The fewer outputs, the sooner a CTA is done.

    Args:
        capacity: bytes for the operands of a CTA.
        num_sms: CTAs that run at the same time.
    """
    if rows > 0 and in_features <= WIDEST:
        for outputs in OUTPUTS:
            held = (ROWS + outputs) * _width(in_features) <= capacity
            if held and cover(rows, ROWS) * cover(out_features, outputs) <= num_sms:
                return ROWS, outputs, WARPS
    return None


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes that the operands of a CTA may take; the rest is the compiler's."""
    if device.type != "cuda":
        return LEAST_SHARED
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", LEAST_SHARED) * 3 // 4


@functools.cache
def num_sms_on(device: torch.device) -> int:
    """Multiprocessors, that is, CTAs that run at once."""
    if device.type != "cuda":
        return NUM_SMS
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def _width(in_features: int) -> int:
    """The block of inputs that holds so many; 32 is the least that the tensor cores take."""
    return max(32, 1 << (in_features - 1).bit_length())
