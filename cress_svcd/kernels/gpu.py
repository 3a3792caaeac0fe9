"""Back end ``gpu``: one fused Triton kernel for few rows, unpacked signs and cuBLAS for many.

Few rows: scale by g, maximum, rounding, product, step, h and bias in a single launch; a program
computes BLOCK_OUT outputs of one row.  Many: the integer product of ``torch._int_mm`` where the
sizes allow it, otherwise a float32 product, which is as exact below 2^24.
"""

import functools

import torch
from torch import Tensor

from cress_svcd.kernels import bitpack, reference

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

FEW_ROWS = 32  # beyond, unpacking the signs costs less than reading them once a row
BLOCK_OUT, BLOCK_IN = 32, 256


@functools.cache
def why_unavailable() -> str | None:
    """Why this back end cannot be used here; None if it can."""
    if triton is None:
        return "Triton is not installed (it comes with torch for CUDA)"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


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


def _many_rows(
    rows: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    inputs, outputs = rows.shape[1], len(signs)
    if bits == 8 and inputs % 8 == 0 and outputs % 8 == 0:  # what cuBLAS wants of int8
        levels, step = reference.levels_and_step(rows, g, 127)
        matrix = bitpack.unpack_signs(signs, inputs, torch.int8)
        product = torch._int_mm(levels.to(torch.int8), matrix.t()) * step
        return reference.scale_and_shift(product, h, bias).to(rows.dtype)
    if bits is None and rows.dtype != torch.float32:  # what the full-precision model would do
        scaled = rows if g is None else (rows * g).to(rows.dtype)
        product = (scaled @ bitpack.unpack_signs(signs, inputs, rows.dtype).t()).float()
        return reference.scale_and_shift(product, h, bias).to(rows.dtype)
    matrix = bitpack.unpack_signs(signs, inputs, torch.float32)
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

    Without rounding (``bits`` None) and many rows of a half type, the product is of that type.
    """
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    function = _few_rows if 0 < len(rows) <= FEW_ROWS else _many_rows
    y = function(rows, signs.contiguous(), g, h, bias, bits)
    return y.view(*x.shape[:-1], len(signs))
