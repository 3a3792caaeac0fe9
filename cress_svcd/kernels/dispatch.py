"""Who computes what: one table.

An operation has implementations, tried from the top: the first one whose condition holds for a call
computes it.  ``kernels.explain`` prints the same table for a call.

The form of packed signs tells the back end that they were prepared for, so that nothing else needs
to be carried along:

    back end    signs
    reference   rows: uint8, (out, ceil(in / 8)), the storage format
    gpu         rows, on a CUDA device
    cpu         tiles: uint8, 3 dimensions
    torch       int8 (float32 where there is no integer product), (out, in)
"""

import dataclasses
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cress_svcd.errors import ConfigError
from cress_svcd.kernels import packed_layout, reference, torch_int8
from cress_svcd.kernels.cpu import conv1d as cpu_conv1d
from cress_svcd.kernels.cpu import sign_gemm as cpu_sign_gemm
from cress_svcd.kernels.triton import conv1d as triton_conv1d
from cress_svcd.kernels.triton import (
    quantize,
    sign_gemm_bitplane,
    sign_gemm_float,
    sign_gemm_fused,
    training,
)

BACKEND_VARIABLE = "CRESS_SVCD_BACKEND"
BACKENDS = ("reference", "torch", "cpu", "gpu")

# What fused products take: ``sign_gemm_fused`` has the numbers.
NONE, RELU, GELU = sign_gemm_fused.NONE, sign_gemm_fused.RELU, sign_gemm_fused.GELU
Norm = sign_gemm_fused.Norm
FUSED_TYPES, FUSED_WIDEST, FUSED_OUTPUTS = (
    quantize.TYPES,
    quantize.WIDEST,
    sign_gemm_fused.OUTPUTS[-1],
)


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an operation.

    Attributes:
        name: its module under ``kernels``.
        when: the condition, in words.
        fits: the condition, of the arguments that decide (see ``TABLE``).
        run: computes the operation; None where the caller does, as its own operands tell.
    """

    name: str
    when: str
    fits: Callable[..., bool]
    run: Callable[..., Any] | None = None


# Conditions


def is_on_gpu(x: Tensor) -> bool:
    """Whether Triton's kernels run where ``x`` is, for its type."""
    return x.is_cuda and x.dtype != torch.float64 and quantize.why_unavailable() is None


def is_plain_cpu_call(x: Tensor) -> bool:
    """Whether ``x`` may go to a C kernel that torch knows nothing of: no gradient, no compiler."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not _wants_gradient(x)
    )


def _wants_gradient(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _m(x: Tensor) -> int:
    """Rows of a product."""
    return x.numel() // x.shape[-1]


def _is_rows_on_gpu(x: Tensor, signs: Tensor) -> bool:
    return signs.dim() == 2 and is_on_gpu(x)


def _has_fused_tile(x: Tensor, signs: Tensor) -> bool:
    tile = sign_gemm_fused.tile_on(x.device, _m(x), x.shape[-1], signs.shape[0])
    return tile is not None


# Implementations of sign_gemm


def _by_cpu(x: Tensor, signs: Tensor, out_features: int, *rest: Any) -> Tensor:
    return cpu_sign_gemm.sign_matmul(x, signs.contiguous(), out_features, *rest)


def _by_torch_int8(x: Tensor, signs: Tensor, out_features: int, *rest: Any) -> Tensor:
    return torch_int8.sign_matmul(x, signs, *rest)


def _fused(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    return sign_gemm_fused.sign_matmul(x.contiguous(), signs.contiguous(), g, h, bias)


def _by_bitplanes(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    return sign_gemm_bitplane.sign_matmul(x.contiguous(), signs.contiguous(), g, h, bias)


def _row_by_row(x: Tensor, signs: Tensor, out_features: int, *rest: Any) -> Tensor:
    return sign_gemm_float.by_rows(x.contiguous(), signs.contiguous(), *rest)


def _by_float_tiles(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    q, scale = quantize.quantize(x.contiguous(), g, None)
    return sign_gemm_float.by_tiles(q, scale, signs.contiguous(), h, bias, x.dtype)


def _by_reference(x: Tensor, signs: Tensor, out_features: int, *rest: Any) -> Tensor:
    exact = reference.exact_type(x.dtype)
    matrix = packed_layout.dense(signs, out_features, x.shape[-1], exact)
    return reference.sign_matmul(x, matrix, *rest)


SIGN_GEMM = (
    Implementation(
        "cpu/sign_gemm",
        "signs in tiles (back end cpu), x on the CPU",
        lambda x, signs, bits: (
            signs.dim() == 3
            and signs.dtype is torch.uint8
            and x.is_cpu
            and x.dtype is not torch.float64
        ),
        _by_cpu,
    ),
    Implementation(
        "torch_int8",
        "signs expanded (back end torch)",
        lambda x, signs, bits: signs.dtype is not torch.uint8,
        _by_torch_int8,
    ),
    Implementation(
        "triton/sign_gemm_fused",
        "x on CUDA, 8 bits, small M: all CTAs run at once, rows held whole",
        lambda x, signs, bits: (
            bits == 8
            and _is_rows_on_gpu(x, signs)
            and quantize.fits(x)
            and _has_fused_tile(x, signs)
        ),
        _fused,
    ),
    Implementation(
        "triton/sign_gemm_bitplane",
        "x on CUDA, 8 bits",
        lambda x, signs, bits: bits == 8 and _is_rows_on_gpu(x, signs) and quantize.fits(x),
        _by_bitplanes,
    ),
    Implementation(
        "triton/sign_gemm_float by_rows",
        f"x on CUDA, M at most {sign_gemm_float.SMALL_M}",
        lambda x, signs, bits: _is_rows_on_gpu(x, signs) and 0 < _m(x) <= sign_gemm_float.SMALL_M,
        _row_by_row,
    ),
    Implementation(
        "triton/sign_gemm_float by_tiles",
        "x on CUDA in half precision, not rounded",
        lambda x, signs, bits: (
            bits is None
            and _is_rows_on_gpu(x, signs)
            and x.dtype != torch.float32
            and quantize.fits(x)
        ),
        _by_float_tiles,
    ),
    Implementation("reference", "always: signs are unpacked", lambda *_: True, _by_reference),
)

# Operation → implementations in the order of trial, and what decides between them.
TABLE: dict[str, tuple[Implementation, ...]] = {
    # (x, signs, bits)
    "sign_gemm": SIGN_GEMM,
    # (x, weight)
    "int8_gemm": (
        Implementation(
            "cpu/conv1d project",
            "AVX-512-VNNI without AMX, no gradient",
            lambda x, weight: cpu_conv1d.can_project(x, weight) and is_plain_cpu_call(x),
            cpu_conv1d.project,
        ),
        Implementation(
            "torch_int8",
            "x on the CPU, no gradient",
            lambda x, weight: x.device.type == "cpu" and not _wants_gradient(x),
            lambda x, weight, scale, bias: torch_int8.sign_matmul(
                x, weight, None, scale, bias, bits=None
            ),
        ),
        Implementation("torch", "always: the weight is dequantised", lambda *_: True),
    ),
    # (x, weight, stride)
    "conv1d": (
        Implementation(
            "cpu/conv1d",
            "weight in the kernel's layout, no gradient",
            lambda x, weight, stride: weight.dim() > 3 and is_plain_cpu_call(x),
        ),
        Implementation(
            "triton/conv1d",
            "half precision on CUDA, no gradient, stride 1",
            lambda x, weight, stride: stride == 1 and is_conv1d_on_gpu(x),
        ),
        Implementation("torch", "always: F.conv1d", lambda *_: True),
    ),
    # (x, weight)
    "training": (
        Implementation(
            "triton/training",
            "x and weight on CUDA, not compiled",
            lambda x, weight: training.is_for(x, weight),
        ),
        Implementation("torch", "always", lambda *_: True),
    ),
}


def implementation(operation: str, *deciding: Any) -> Implementation:
    """What computes a call of ``operation``, a key of TABLE, with these deciding arguments."""
    for candidate in TABLE[operation]:
        if candidate.fits(*deciding):
            return candidate
    raise AssertionError(f"{operation}: the last implementation fits always")


def sign_gemm(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    """See ``operator.sign_matmul``."""
    chosen = implementation("sign_gemm", x, signs, bits)
    return chosen.run(x, signs, out_features, g, h, bias, bits)  # type: ignore[misc]


def fused_sign_gemm(
    x: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    **fused: Any,
) -> Tensor:
    """``sign_gemm_fused.sign_matmul``, all arguments included, or for large or wide x
    ``sign_gemm_bitplane``'s: 8-bit products on CUDA with what stands around them."""
    if _has_fused_tile(x, signs):
        return sign_gemm_fused.sign_matmul(x, signs, g, h, bias, **fused)
    return sign_gemm_bitplane.sign_matmul(x, signs, g, h, bias, **fused)


def training_kernels(x: Tensor, weight: Tensor) -> ModuleType | None:
    """``triton.training`` where it takes ``x`` (…, in) and a layer's ``weight`` (out, in)."""
    return training if training.is_for(x, weight) else None


def is_conv1d_on_gpu(x: Tensor) -> bool:
    """Whether ``conv1d_on_gpu`` takes ``x`` (batch, time, channels)."""
    return (
        triton_conv1d.is_for(x)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


CONV1D_WIDEST = triton_conv1d.WIDEST
conv1d_on_gpu = triton_conv1d.convolve


# Back ends


@dataclasses.dataclass(frozen=True)
class Backend:
    """Whether a back end can be used here.

    Attributes:
        name: one of BACKENDS.
        available: it can.
        detail: what it would use, or why it cannot be used and what helps.
    """

    name: str
    available: bool
    detail: str


def backends() -> dict[str, Backend]:
    """All back ends by name."""
    integer = "int8 and torch._int_mm" if torch_int8.has_int_mm() else "float32: no torch._int_mm"
    found = [
        Backend("reference", True, "plain torch, unpacks at every call"),
        Backend("torch", True, f"signs expanded to {integer}"),
    ]
    try:
        isas = cpu_sign_gemm.supported_isas()
        found.append(Backend("cpu", True, f"C kernels: {', '.join(isas)}"))
    except cpu_sign_gemm.UnavailableError as error:
        found.append(Backend("cpu", False, str(error)))
    reason = quantize.why_unavailable()
    found.append(Backend("gpu", reason is None, reason or "Triton and cuBLAS"))
    return {backend.name: backend for backend in found}


def choose(device: torch.device, backend: str | None = None) -> str:
    """The back end for a layer on ``device``.

    Args:
        backend: one of BACKENDS; None or "auto" takes what CRESS_SVCD_BACKEND says, and without it
            gpu on CUDA and cpu on the CPU, or where that is missing reference and torch.  A layer
            on the CPU does so where the variable says gpu, too: that is where models are loaded
            before they are moved.

    Raises:
        ConfigError: unknown, not available here, or not for this device.
    """
    where = "backend"
    if backend in (None, "auto"):
        backend, where = os.environ.get(BACKEND_VARIABLE, "auto"), BACKEND_VARIABLE
    fast, plain = ("gpu", "reference") if device.type == "cuda" else ("cpu", "torch")
    meant_elsewhere = where == BACKEND_VARIABLE and backend == "gpu" and fast != "gpu"
    if backend == "auto" or (meant_elsewhere and _is_available("gpu")):
        # On a meta device nothing is computed; the form is that of the CPU, where most models go.
        return fast if _is_available(fast) else plain
    if backend not in BACKENDS:
        raise ConfigError(
            f"{where}: found {backend!r}, expected auto or one of: {', '.join(BACKENDS)}"
        )
    if not _is_available(backend):
        raise ConfigError(f"{where}: {backend} cannot be used: {backends()[backend].detail}")
    if backend in ("cpu", "gpu") and backend != fast:
        raise ConfigError(f"{where}: {backend} is not for a layer on {device}")
    return backend


def _is_available(backend: str) -> bool:
    if backend == "cpu":
        try:
            return bool(cpu_sign_gemm.library())
        except cpu_sign_gemm.UnavailableError:
            return False
    return backend != "gpu" or quantize.why_unavailable() is None


def prepare(rows: Tensor, in_features: int, backend: str) -> Tensor:
    """Packed signs in storage order (uint8, (out, ceil(in / 8))) → the form of ``backend``."""
    if backend == "cpu":
        return packed_layout.to_tiles(rows, in_features)
    if backend == "torch":
        return torch_int8.expand(packed_layout.unpack_signs(rows, in_features, torch.int8))
    return rows


def blank(out_features: int, in_features: int, backend: str, device: torch.device) -> Tensor:
    """Signs that are all -1, as ``prepare`` returns them: memory to load others into."""
    if backend == "cpu":
        shape = packed_layout.tile_shape(out_features, in_features)
        return torch.zeros(shape, dtype=torch.uint8, device=device)
    rows = out_features, packed_layout.row_bytes(in_features)
    return prepare(torch.zeros(rows, dtype=torch.uint8, device=device), in_features, backend)
