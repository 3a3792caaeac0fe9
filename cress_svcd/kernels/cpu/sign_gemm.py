"""Back end ``cpu``: the C kernels (csrc/), called through ctypes.

Threads are those of torch's own OpenMP runtime, through its GOMP_parallel, so that a second pool
never competes with it.  After a fork that pool is gone: a forked child computes on one thread.
"""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cress_svcd.errors import ConfigError, CressError

ISA_VARIABLE = "CRESS_SVCD_ISA"
# Numbered as in csrc/runtime.h, where WebAssembly has the last number.
ISAS = ("portable", "avx2", "avx512_vnni", "amx", "neon", "neon_dotprod", "neon_i8mm")
THREAD_WORK = 1 << 22  # products worth a thread of their own
# OpenMP crashes where threads cannot be started.
MOST_THREADS = max(64, os.cpu_count() or 1)
_OUT_OF_MEMORY = -1

_pointer, _int64, _int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_ARGUMENTS: list[Any] = [
    _pointer,
    _int64,
    _int64,
    _pointer,
    _int64,
    _int64,
    *[_pointer] * 4,
    *[_int] * 3,
    _pointer,
]


class UnavailableError(CressError):
    """The library cannot be used; says why and what helps."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        UnavailableError: not built, or built from other sources.
    """
    from cress_svcd.kernels.cpu import build  # here, as it is also run as a program of its own

    path = Path(__file__).with_name(build.LIBRARY)
    remedy = "run python -m cress_svcd.kernels.cpu.build (needs a C compiler)"
    if not path.exists():
        raise UnavailableError(f"the C kernels are not built; {remedy}")
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.cress_source_digest.restype = ctypes.c_char_p
        digest = loaded.cress_source_digest().decode()
    except (OSError, AttributeError) as error:
        raise UnavailableError(f"{path.name} cannot be loaded ({error}); {remedy}") from None
    if digest != build.source_digest():
        raise UnavailableError(f"{path.name} was built from other sources; {remedy}")
    loaded.cress_sign_gemm.argtypes = _ARGUMENTS
    loaded.cress_conv1d.argtypes = [_pointer, _int, _int, _pointer]
    return loaded


def supported_isas() -> list[str]:
    """The instruction sets that this processor has kernels for, the fastest last."""
    return [name for number, name in enumerate(ISAS) if library().cress_supported(number)]


@functools.cache
def isa_number(name: str | None = None) -> int:
    """The number of an instruction set.

    Args:
        name: one of ISAS; None or "auto" takes what CRESS_SVCD_ISA says when it is first needed,
            and without it the fastest.

    Raises:
        ConfigError: there is none of that name, or this processor does not have it.
    """
    where = "isa"
    if name in (None, "auto"):
        name, where = os.environ.get(ISA_VARIABLE, "auto"), ISA_VARIABLE
    supported = supported_isas()
    if name == "auto":
        name = supported[-1]
    if name not in supported:
        raise ConfigError(
            f"{where}: found {name!r}, this processor has: auto, {', '.join(supported)}"
        )
    return ISAS.index(name)


@functools.cache
def _parallel() -> int | None:
    """Address of the GOMP_parallel that torch uses; None where its runtime has none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, _pointer).value
    except AttributeError:
        return None


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


def _threads(work: int) -> int:
    """Threads for so many products: at most torch's own number."""
    if work < 2 * THREAD_WORK or _forked:
        return 1
    return min(torch.get_num_threads(), work // THREAD_WORK, MOST_THREADS)


def bounded(threads: int | None, work: int) -> int:
    """``threads``, or as many as so many products are worth; never more than can run."""
    return min(threads or _threads(work), MOST_THREADS)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _float_scale(scale: Tensor | None) -> Tensor | None:
    if scale is None or (scale.dtype is torch.float32 and scale.is_contiguous()):
        return scale
    return scale.float().contiguous()


def sign_matmul(
    x: Tensor,
    tiles: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
    *,
    isa: str | None = None,
    threads: int | None = None,
) -> Tensor:
    """As ``reference.sign_matmul``, for signs as ``packed_layout.to_tiles``; computed in float32.

    With 8 bits q and the products are exactly those of the reference.  With 16 bits and None a row
    is rounded to 2 * 32639 + 1 values (a hi/lo split into int8), an error of at most 1 / 65278 of
    its largest magnitude (3e-5 to 5e-5 of a layer's output on normal inputs).

    Args:
        isa: one of ISAS (default: CRESS_SVCD_ISA, or the fastest).
        threads: how many (default: torch's number, fewer for little work).

    Raises:
        ConfigError: the processor does not have ``isa``.
        MemoryError: no memory for q.
    """
    in_features = x.shape[-1]
    rows = x if x.dim() == 2 else x.reshape(-1, in_features)
    if rows.dtype is not torch.float32:
        rows = rows.float()
    if rows.stride(1) != 1 and in_features > 1:
        rows = rows.contiguous()
    # Kept in variables: the memory must outlive the call.
    g, h, bias = _float_scale(g), _float_scale(h), _float_scale(bias)
    count = rows.shape[0]
    y = torch.empty(count, out_features)
    status = library().cress_sign_gemm(
        rows.data_ptr(),
        count,
        rows.stride(0),
        tiles.data_ptr(),
        in_features,
        out_features,
        _address(g),
        _address(h),
        _address(bias),
        y.data_ptr(),
        1 if bits == 8 else 2,
        isa_number(isa),
        bounded(threads, count * in_features * out_features),
        _parallel(),
    )
    if status:
        reason = "no memory" if status == _OUT_OF_MEMORY else f"status {status}"
        raise MemoryError(f"sign_matmul of {count} rows x {in_features} inputs: {reason}")
    if x.dtype is not torch.float32:
        y = y.to(x.dtype)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], out_features)
