"""DB-LLM's layer (Chen et al. 2024, arXiv:2402.11960): two binary matrices with trained scales."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.quantization.base import Holder
from cress_svcd.quantization.fake_quant import accumulation_dtype, fake_quantize_tokens
from cress_svcd.quantization.row_scale import RowScaleLinear
from cress_svcd.quantization.sign_planes import SignPlanes, midrise_plane_scales

SMALLEST_SCALE = 1e-8  # of a row of zeros
CLIPS = 40  # candidates of the search for a row's initial scale


class DBLLMLinear(RowScaleLinear):
    """y = (h B1 + h2 B2) Q(x) + b, B1 and B2 of 0 and 1, with trained scales h and h2 a row.

    Flexible Dual Binarization, with H(t) = 1 for t >= 0 and else 0:

        B1 = H(W - (h + h2) / 2),    B2 = H(-(W - h B1 - h2 / 2))

    which starts at h = 2 s and h2 = -s, the grid -s, 0, s, 2 s of two bits, and moves its values
    apart as training needs.  The gradient of W passes straight through, that of a scale is the sum
    over its binaries.  Rows have the scales (the paper: groups of 64 inputs), s has the least
    squared error, activations are rounded to 8 bits per token (the paper: none are).

    Parameters: ``h`` and ``h2`` (out).
    """

    METHOD = "db_llm"
    WEIGHT_BITS = (2,)
    DEFAULT_BITS = 2
    SCALES = ("h", "h2")
    PACKED_PARAMETERS = ("h2",)
    ADDS_BESIDE_PRODUCT = True
    h2: nn.Parameter

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if not self.h.is_meta:
            scale = best_scale(self.weight)
            self.h.copy_(2 * scale)
            self.h2.copy_(-scale)

    def _binaries(self) -> tuple[Tensor, Tensor]:
        """B1 and B2 (out, in), in the weight's type."""
        exact = accumulation_dtype(self.weight.dtype)
        weight, h, h2 = (
            tensor.detach().to(exact)
            for tensor in (self.weight, self.h.unsqueeze(1), self.h2.unsqueeze(1))
        )
        first, second = binaries(weight, h, h2)
        return first.to(self.weight.dtype), second.to(self.weight.dtype)

    def estimated_weight(self) -> Tensor:
        first, second = self._binaries()
        values = first * self.h.unsqueeze(1) + second * self.h2.unsqueeze(1)
        return values + (self.weight - self.weight.detach())

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        return self.estimated_weight()

    def quantized_forward(self, x: Tensor) -> Tensor:
        x = fake_quantize_tokens(self.norm(x), self.product_bits)
        return F.linear(x, self.estimated_weight(), self.bias)

    # Packed: B = (S + 1) / 2 with signs S, so that the sum has a term of the inputs' sum.

    @torch.no_grad()
    def to_sign_planes(self) -> SignPlanes:
        """q counts in binary: B2 is its lower digit, B1 its upper one."""
        first, second = self._binaries()
        return SignPlanes(2 * first + second - 1.5, self.h.detach())

    plane_scales = staticmethod(midrise_plane_scales)

    def product_scales(self, holder: Holder, planes: int) -> Tensor:
        if planes == 1:  # nothing but -1/2 and 1/2, where one of the two binaries is set
            return (holder.h - holder.h2) / 2
        return torch.cat([holder.h2, holder.h]) / 2

    def beside_product(self, x: Tensor, holder: Holder) -> Tensor:
        total = fake_quantize_tokens(x, self.product_bits).sum(-1, keepdim=True)
        return total * ((holder.h + holder.h2) / 2).to(x.dtype)

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        """The thresholds between the four values are h / 2 apart, from h2 / 2 on; in the order of
        the weight, the values are those of B2, none, both and B1."""
        order = torch.tensor([1, 0, 3, 2], device=planes.q.device)
        place = order.argsort()[(planes.q + 1.5).long()]
        low, width = (scale.float().unsqueeze(1) / 2 for scale in (self.h2, self.h))
        self.weight.copy_(low + (place - 0.5) * width)


def binaries(weight: Tensor, h: Tensor, h2: Tensor) -> tuple[Tensor, Tensor]:
    """B1 and B2 of a weight (out, in) for scales (out, 1), in its type."""
    first = (weight >= (h + h2) / 2).to(weight.dtype)
    return first, (weight - h * first <= h2 / 2).to(weight.dtype)


def best_scale(weight: Tensor) -> Tensor:
    """s (out) of least squared error of the grid -s, 0, s, 2 s, among CLIPS fractions of a row's
    largest magnitude."""
    weight = weight.to(accumulation_dtype(weight.dtype))
    widest = weight.abs().amax(dim=1, keepdim=True)
    best, least = widest, torch.full_like(widest, math.inf)
    for clip in range(CLIPS, 0, -1):
        scale = (widest * (clip / CLIPS)).clamp_min(SMALLEST_SCALE)
        first, second = binaries(weight, 2 * scale, -scale)
        error = ((2 * first - second) * scale - weight).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best.flatten()
