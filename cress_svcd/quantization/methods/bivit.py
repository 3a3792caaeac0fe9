"""BiViT's weights (He et al. 2022, arXiv:2211.07091): signs with trained scales."""

from typing import Any

import torch
from torch import Tensor, nn

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.binarize import binarize
from cress_svcd.quantization.sign_planes import SignPlanes


class BiViTLinear(QuantLinear):
    """y = h * (sign(W) Q(x)) + b with a trained scale h a row, at first its mean magnitude.

    The paper's parameterised weight scales, which train beside the weights instead of following
    them at every step as XNOR-Net's do (``tbt``); the weights' gradient passes where |W| <= 1.  Its
    softmax-aware binarisation is of attention weights, which stay in floating point here: no packed
    kernel multiplies them.

    Parameters: ``h`` (out).
    """

    METHOD = "bivit"
    WEIGHT_BITS = (1,)

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

    @torch.no_grad()
    def _signs(self) -> Tensor:
        return binarize(self.weight, self.weight.new_zeros(1, 1), self.weight.dtype)

    def estimated_weight(self) -> Tensor:
        clipped = self.weight.clamp(-1, 1)
        signs = self._signs() + (clipped - clipped.detach())
        return signs * self.h.unsqueeze(1)

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        return self._signs() * self.h.unsqueeze(1)

    def to_sign_planes(self) -> SignPlanes:
        return SignPlanes(self._signs(), self.h.detach())

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        self.weight.copy_(planes.q)
