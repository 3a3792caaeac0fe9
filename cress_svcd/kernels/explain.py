"""``kernels.explain``: the dispatch table for one call, in words."""

from typing import Any, Protocol

from torch import Tensor

from cress_svcd.errors import ConfigError
from cress_svcd.kernels import dispatch
from cress_svcd.kernels.cpu import sign_gemm as cpu_sign_gemm


class Explained(Protocol):
    """A layer that says which call of the dispatch table computes it."""

    def kernel_call(self, x: Tensor) -> tuple[str, tuple[Any, ...]]:
        """The operation, a key of ``dispatch.TABLE``, and its deciding arguments for ``x``."""


def explain(x: Tensor, layer: Explained) -> str:
    """What would compute ``layer`` for ``x``, and what each implementation before it needs.

    One line for the call and one for each implementation that was tried, the last of which runs:

        sign_gemm of float32 (8, 512) on cpu
          not   cpu/sign_gemm: needs signs in tiles (back end cpu)
          runs  torch_int8: signs expanded (back end torch)
    """
    operation, deciding = layer.kernel_call(x)
    lines = [f"{operation} of {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device}"]
    for candidate in dispatch.TABLE[operation]:
        missing = candidate.missing(*deciding)
        if missing is None:
            isa = f"; {_isa()}" if candidate.name.startswith("cpu/") else ""
            return "\n".join([*lines, f"  runs  {candidate.name}: {candidate.when}{isa}"])
        lines.append(f"  not   {candidate.name}: needs {missing}")
    raise AssertionError(f"{operation}: the last implementation fits always")


def _isa() -> str:
    """The instruction set of all C kernels: they share the choice."""
    try:
        return cpu_sign_gemm.ISAS[cpu_sign_gemm.isa_number()]
    except (ConfigError, cpu_sign_gemm.UnavailableError) as error:
        return str(error)
