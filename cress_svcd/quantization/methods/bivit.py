"""BiViT's weights (He et al. 2022, arXiv:2211.07091): signs with trained scales."""

import torch
from torch import Tensor

from cress_svcd.quantization.binarize import signs_of
from cress_svcd.quantization.row_scale import RowScaleLinear
from cress_svcd.quantization.sign_planes import SignPlanes


class BiViTLinear(RowScaleLinear):
    """y = h * (sign(W) Q(x)) + b with a trained scale h a row, at first its mean magnitude.

    The paper's parameterised weight scales, which train beside the weights instead of following
    them at every step as XNOR-Net's do (``tbt``); the weights' gradient passes where |W| <= 1.  Its
    softmax-aware binarisation of attention weights is ``--quant-attention softmax_aware``.

    Parameters: ``h`` (out).
    """

    METHOD = "bivit"
    WEIGHT_BITS = (1,)

    @torch.no_grad()
    def _signs(self) -> Tensor:
        return signs_of(self.weight)

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
