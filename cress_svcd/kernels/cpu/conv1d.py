"""conv1d in (time, channels) order, by AMX or AVX-512-VNNI, about as precise as float32.

Implicit GEMM: the input frames of an output are a row of adjacent numbers in memory, so that a
convolution is a product of overlapping rows with the weights (csrc/conv1d.h).  AMX multiplies a
hi/lo split of the input, two numbers of bf16.  AVX-512-VNNI multiplies int8 weights with a split of
the input into three bytes, and others, or few channels, in float32.  Where the processor has no
such instructions, or another instruction set or back end is asked for, ``is_available`` says no and
torch convolves.
"""

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from cress_svcd.errors import ConfigError
from cress_svcd.kernels.cpu import sign_gemm

WEIGHT_TYPES = (torch.int8, torch.bfloat16, torch.float16)  # numbered as in csrc/conv1d.h
TILE_OUT, STEP_IN = 16, 32
FEWEST_INPUTS = 16  # of weights in rows, as in conv1d_in_integers of csrc/conv1d.h

_pointer, _int64, _int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


class _Call(ctypes.Structure):
    """struct conv1d of csrc/conv1d.h."""

    _fields_ = [
        ("x", _pointer),
        *[(name, _int64) for name in ("batch", "frames", "x_stride", "x_batch_stride")],
        *[(name, _int64) for name in ("groups", "channels", "out")],
        *[(name, _int64) for name in ("kernel_size", "stride", "padding", "count")],
        ("weights", _pointer),
        ("weight_type", _int),
        ("num_parts", _int),
        ("weights_in_rows", _int),
        ("scale", _pointer),
        ("bias", _pointer),
        ("scale_stride", _int64),
        ("gelu", _int),
        ("y", _pointer),
        ("y_batch_stride", _int64),
    ]


def is_available() -> bool:
    """Whether ``convolve`` can be used: the processor has it, and nothing else was asked for."""
    try:
        return bool(sign_gemm.library().cress_conv1d_supported(sign_gemm.isa_number()))
    except (sign_gemm.UnavailableError, ConfigError):
        return False


def is_fast(dtype: torch.dtype, num_parts: int) -> bool:
    """Whether it is faster than torch for weights of ``dtype``, where it is available.

    Without AMX, halves are multiplied in float32: torch's products in bf16 take half as long.
    """
    return dtype == torch.int8 or num_parts == 2 or sign_gemm.ISAS[sign_gemm.isa_number()] == "amx"


def prepare(weight: Tensor, groups: int = 1) -> Tensor:
    """A weight (out, channels of a group, kernel_size) of WEIGHT_TYPES in the layout of
    ``convolve``.

    Returns:
        The same numbers, (groups, output tiles, steps, 16, 16, 2), padded with zeros.
    """
    out, channels, kernel_size = weight.shape
    rows = weight.transpose(1, 2).reshape(groups, out // groups, kernel_size * channels)
    rows = F.pad(rows, (0, -rows.shape[2] % STEP_IN, 0, -rows.shape[1] % TILE_OUT))
    tiles = rows.view(groups, -1, TILE_OUT, rows.shape[2] // STEP_IN, STEP_IN // 2, 2)
    return tiles.permute(0, 1, 3, 4, 2, 5).contiguous()


def blank(shape: tuple[int, int, int], dtype: torch.dtype, groups: int = 1) -> Tensor:
    """A weight of zeros of ``shape``, as ``prepare`` returns it: memory to load another into."""
    tiles = tile_shape(shape, groups)
    return torch.zeros(*tiles, STEP_IN // 2, TILE_OUT, 2, dtype=dtype)


def tile_shape(shape: tuple[int, int, int], groups: int) -> tuple[int, int, int]:
    """Groups, output tiles of a group, and steps of inputs of a weight of ``shape``."""
    out, channels, kernel_size = shape
    return groups, -(-out // groups // TILE_OUT), -(-kernel_size * channels // STEP_IN)


def restore(tiles: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The inverse of ``prepare`` for a weight of ``shape``."""
    out, channels, kernel_size = shape
    groups = len(tiles)
    rows = tiles.permute(0, 1, 4, 2, 3, 5).reshape(groups, tiles.shape[1] * TILE_OUT, -1)
    rows = rows[:, : out // groups, : kernel_size * channels]
    return rows.reshape(out, kernel_size, channels).transpose(1, 2).contiguous()


def convolve(
    x: Tensor,
    tiles: Tensor,
    shape: tuple[int, int, int],
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    gelu: bool = False,
    num_parts: int = 2,
    out: Tensor | None = None,
    threads: int | None = None,
) -> Tensor:
    """act(convolution(x) * scale + bias), computed and returned in float32.

    An output depends on its own input frames alone, whatever else is in the batch.  Infinity in
    one of them makes it NaN.  With AMX nothing is rounded within 16 bits of the input and of fp16
    weights: a relative error of about 3e-6 on normal inputs.  With AVX-512-VNNI it is 2e-7, that of
    float32.

    Args:
        x: (batch, time, channels), float32, the channels next to each other.
        tiles: the weight as ``prepare`` gives it.
        shape: the weight's own, (out, channels / groups, kernel_size).
        scale, bias: (out), or (batch, out).
        stride, padding: of the convolution; padding is frames of zeros at both ends.
        gelu: act is GELU, not the identity.
        num_parts: 1 to round x to bf16; with AVX-512-VNNI, to 16 bits a frame (an error of 3e-5)
            where the weights are int8.
        out: memory for the result, of which each utterance's must be dense.
        threads: how many (default: torch's number, fewer for little work).
    Returns:
        (batch, time, out).
    Raises:
        ValueError: shapes or types do not fit together.
        MemoryError: no memory for a thread's part.
    """
    outputs, channels, kernel_size = shape
    batch, frames, width = x.shape
    count = (frames + 2 * padding - kernel_size) // max(stride, 1) + 1
    _check(x, tiles, shape, count, stride, padding, num_parts)
    if (x.stride(2) != 1 and width > 1) or (x.stride(1) < width and frames > 1):
        x = x.contiguous()
    scale, bias = _scale_and_bias(scale, bias, batch, outputs)
    y = torch.empty(batch, count, outputs) if out is None else out
    _check_output(y, (batch, count, outputs))
    call = _describe(x, tiles, shape, scale, bias, y)
    call.stride, call.padding, call.gelu, call.num_parts = stride, padding, gelu, num_parts
    _run(call, batch * count * outputs * channels * kernel_size, threads)
    return y


def _describe(
    x: Tensor,
    tiles: Tensor,
    shape: tuple[int, int, int],
    scale: Tensor,
    bias: Tensor | None,
    y: Tensor,
) -> _Call:
    """The tensors of a convolution, which must live until it is computed."""
    outputs, channels, kernel_size = shape
    batch, frames, width = x.shape
    groups = len(tiles)
    return _Call(
        x=x.data_ptr(),
        batch=batch,
        frames=frames,
        x_stride=max(x.stride(1), width),
        x_batch_stride=x.stride(0),
        groups=groups,
        channels=channels,
        out=outputs // groups,
        kernel_size=kernel_size,
        count=y.shape[1],
        weights=tiles.data_ptr(),
        weight_type=WEIGHT_TYPES.index(tiles.dtype),
        scale=scale.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        scale_stride=outputs if scale.dim() == 2 else 0,
        y=y.data_ptr(),
        y_batch_stride=y.stride(0),
    )


def _scale_and_bias(
    scale: Tensor, bias: Tensor | None, batch: int, outputs: int
) -> tuple[Tensor, Tensor | None]:
    """Both in float32, dense, and of one shape: (outputs), or (batch, outputs)."""
    scale = _per_output(scale, batch, outputs)
    bias = None if bias is None else _per_output(bias, batch, outputs)
    if bias is not None and bias.dim() != scale.dim():
        scale, bias = (values.expand(batch, outputs).contiguous() for values in (scale, bias))
    return scale, bias


def _check(
    x: Tensor,
    tiles: Tensor,
    shape: tuple[int, int, int],
    count: int,
    stride: int,
    padding: int,
    num_parts: int,
) -> None:
    """The C code trusts these: raise ValueError for what would be read beyond a tensor's end."""
    if (
        not x.is_cpu
        or x.dtype != torch.float32
        or x.shape[2] != len(tiles) * shape[1]
        or tuple(tiles.shape[:3]) != tile_shape(shape, len(tiles))
        or tiles.dtype not in WEIGHT_TYPES
        or not tiles.is_contiguous()
        or count < 1
        or stride < 1
        or padding < 0
        or num_parts not in (1, 2)
    ):
        raise ValueError(
            f"convolve: {x.dtype} of {tuple(x.shape)} does not fit a weight of {tuple(shape)} as "
            f"{tiles.dtype} of {tuple(tiles.shape)}, stride {stride}, padding {padding}"
        )


def _check_output(y: Tensor, shape: tuple[int, int, int]) -> None:
    if y.shape != shape or y.dtype != torch.float32 or y.stride()[1:] != (shape[2], 1):
        raise ValueError(
            f"convolve: out is {y.dtype} of {tuple(y.shape)} with strides {y.stride()}, expected "
            f"float32 of {shape}, dense but for the first dimension"
        )


def can_project(x: Tensor, weight: Tensor) -> bool:
    """Whether ``project`` takes these, and is faster than torch's product of integers.

    That has AMX where there is any.
    """
    return (
        is_available()
        and sign_gemm.ISAS[sign_gemm.isa_number()] == "avx512_vnni"
        and weight.dtype == torch.int8
        and weight.shape[1] % 4 == 0
        and weight.shape[1] >= FEWEST_INPUTS
        and x.is_cpu
        and x.dtype != torch.float64
    )


def project(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """(x @ weight.T) * scale + bias with rows rounded to 16 bits: an error of 3e-5 at most.

    Args:
        x: (…, in); NaN or infinity in a row makes its outputs NaN.
        weight: (out, in), int8, as ``can_project`` takes it.
        scale, bias: (out).
    Returns:
        (…, out), in x's type.
    """
    outputs, inputs = weight.shape
    rows, weight = x.reshape(-1, inputs).float().contiguous(), weight.contiguous()
    scale = _per_output(scale, 1, outputs)
    bias = None if bias is None else _per_output(bias, 1, outputs)
    y = torch.empty(len(rows), outputs)
    call = _Call(
        x=rows.data_ptr(),
        batch=1,
        frames=len(rows),
        x_stride=inputs,
        groups=1,
        channels=inputs,
        out=outputs,
        kernel_size=1,
        stride=1,
        count=len(rows),
        weights=weight.data_ptr(),
        weight_type=WEIGHT_TYPES.index(weight.dtype),
        num_parts=1,
        weights_in_rows=1,
        scale=scale.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        y=y.data_ptr(),
    )
    _run(call, len(rows) * weight.numel(), None)
    return y.to(x.dtype).view(*x.shape[:-1], outputs)


def _run(call: _Call, work: int, threads: int | None) -> None:
    """Compute what ``call`` describes, ``work`` products.

    Raises:
        MemoryError: no memory for a thread's part.
    """
    status = sign_gemm.library().cress_conv1d(
        ctypes.byref(call),
        sign_gemm.isa_number(),
        sign_gemm.bounded(threads, work),
        sign_gemm._parallel(),
    )
    if status:
        raise MemoryError(f"convolution of {call.batch} x {call.frames} frames: status {status}")


def _per_output(values: Tensor, batch: int, out: int) -> Tensor:
    """``values`` in float32 and dense.

    Raises:
        ValueError: it is neither (out) nor (batch, out).
    """
    if values.shape not in ((out,), (batch, out)):
        raise ValueError(
            f"convolve: a tensor of {tuple(values.shape)}, expected ({out},) or ({batch}, {out})"
        )
    return values.float().contiguous()
