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
    """What would compute ``layer`` for ``x``, and the conditions of what stands before it.

    One line for the call and one for each implementation that was tried, the last of which runs:

        sign_gemm of float32 (8, 512) on cpu
          runs  cpu/sign_gemm: signs in tiles (back end cpu), x on the CPU; amx
    """
    operation, deciding = layer.kernel_call(x)
    chosen = dispatch.implementation(operation, *deciding)
    lines = [f"{operation} of {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device}"]
    for candidate in dispatch.TABLE[operation]:
        runs = candidate is chosen
        detail = f"; {_isa()}" if runs and candidate.name.startswith("cpu/") else ""
        lines.append(f"  {'runs' if runs else 'not '}  {candidate.name}: {candidate.when}{detail}")
        if runs:
            break
    return "\n".join(lines)


def _isa() -> str:
    try:
        return cpu_sign_gemm.ISAS[cpu_sign_gemm.isa_number()]
    except (ConfigError, cpu_sign_gemm.UnavailableError) as error:
        return str(error)
