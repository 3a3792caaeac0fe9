"""What methods share whose weights are signs or other binaries times trained scales a row."""

from typing import Any, ClassVar

import torch
from torch import nn

from cress_svcd.quantization.base import QuantLinear


class RowScaleLinear(QuantLinear):
    """A layer with trained scales a row; ``h`` is at first the mean magnitude of its weights.

    Parameters: ``h`` (out), or those of SCALES.
    """

    SCALES: ClassVar[tuple[str, ...]] = ("h",)
    h: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype, **common)
        for name in self.SCALES:
            scale = torch.empty(out_features, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(scale))
        self.reset_scales()

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if not self.h.is_meta:
            self.h.copy_(self.weight.abs().mean(dim=1, dtype=torch.float32))
