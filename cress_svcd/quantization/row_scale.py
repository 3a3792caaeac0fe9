"""What methods share whose weights are signs times one trained scale a row."""

from typing import Any

import torch
from torch import nn

from cress_svcd.quantization.base import QuantLinear


class RowScaleLinear(QuantLinear):
    """A layer with a trained scale a row, at first the mean magnitude of the row's weights.

    Parameters: ``h`` (out).
    """

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
        self.h = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_scales()

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if not self.h.is_meta:
            self.h.copy_(self.weight.abs().mean(dim=1, dtype=torch.float32))
