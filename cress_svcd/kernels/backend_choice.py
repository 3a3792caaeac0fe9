"""Back ends of packed signs: what there is, which one a layer gets, and the form it computes from.

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

import torch
from torch import Tensor

from cress_svcd.errors import ConfigError
from cress_svcd.kernels import packed_layout, torch_int8
from cress_svcd.kernels.cpu import sign_gemm as cpu_sign_gemm
from cress_svcd.kernels.triton import quantize

BACKEND_VARIABLE = "CRESS_SVCD_BACKEND"
BACKENDS = ("reference", "torch", "cpu", "gpu")


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
