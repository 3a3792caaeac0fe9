"""BitNet b1.58's ternary layer (Ma et al. 2024, arXiv:2402.17764)."""

import torch
from torch import Tensor

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.sign_planes import SignPlanes

SMALLEST_SCALE = 1e-5  # as in the authors' code: a matrix of zeros stays zeros


class BitNet158Linear(QuantLinear):
    """y = W~ Q(norm(x)) + b with W~ = gamma * RoundClip(W / gamma, -1, 1), gamma = mean |W|.

    Equations 1 to 3 of the paper ("absmean" over the whole matrix); activations absmax per token in
    8 bits.  The bias, which the paper does not have, is added last.
    """

    METHOD = "bitnet158"
    WEIGHT_BITS = (1.58,)
    DEFAULT_BITS = 1.58
    DEFAULT_NORMALIZATION = "rmsnorm"

    @staticmethod
    def scale_of(weight: Tensor) -> Tensor:
        """gamma of a weight (out, in)."""
        return weight.abs().mean()

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        weight = self.weight.to(accumulation_dtype(self.weight.dtype))
        gamma = self.scale_of(weight).clamp_min(SMALLEST_SCALE)
        ternary = (weight / gamma).round_().clamp_(-1, 1)
        return ternary.mul_(gamma).to(self.weight.dtype)

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        """Their mean magnitude is gamma again; a row of zeros does not know it, the matrix does."""
        share = planes.q.abs().mean().clamp_min(1e-30)
        self.weight.copy_(planes.q * (planes.scale.max() / share))
