"""Launches of Triton kernels that cost Python little.

Triton looks its compiled code up by the types, sizes and alignment of all arguments: some 20
microseconds a launch, longer than most kernels around a small batch run.  Here the look-up is by
what a kernel of this package can differ in, and half as long.
"""

from typing import Any

from torch import Tensor

ALIGNED = 16  # bytes; Triton compiles other code for pointers that are not


class Launcher:
    """A Triton kernel whose arguments are tensors, then sizes, then constants.

    The kernel names its sizes in ``do_not_specialize``, so that one compiled form serves them all.
    """

    def __init__(self, kernel: Any, **options: Any) -> None:
        """``options`` are Triton's own, such as enable_fp_fusion."""
        self._kernel = kernel
        self._options = options
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: tuple[Tensor | None, ...],
        sizes: tuple[int, ...],
        constants: tuple[Any, ...],
        warps: int = 4,
    ) -> None:
        """Run a ``grid`` of CTAs on the device of the first tensor, the current one."""
        first = tensors[0]
        assert first is not None
        types: list[Any] = []
        addresses = 0
        for tensor in tensors:
            if tensor is None:
                types.append(None)
            else:
                types.append(tensor.dtype)
                addresses |= tensor.data_ptr()
        key = constants, warps, first.device, *types
        compiled = self._compiled.get(key)
        aligned = addresses % ALIGNED == 0
        if compiled is not None and aligned:
            compiled[grid](*tensors, *sizes, *constants)
            return
        compiled = self._kernel[grid](
            *tensors, *sizes, *constants, num_warps=warps, **self._options
        )
        if aligned and compiled is not None:  # Triton's interpreter compiles nothing
            self._compiled[key] = compiled


def cover(size: int, block: int) -> int:
    """How many blocks ``size`` entries take."""
    return -(-size // block)
