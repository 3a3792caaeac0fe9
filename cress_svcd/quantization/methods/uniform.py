"""Plain k-bit weights: symmetric, uniform, one scale a row."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.midrise_grid import SMALLEST_STEP, LearnedStep, midrise_q
from cress_svcd.quantization.sign_planes import SignPlanes, midrise_plane_scales
from cress_svcd.quantization.validation import require_choice

SCALES = ("learned", "absmax")
CLIPS = 40  # candidates of the search for a row's initial step


class UniformLinear(QuantLinear):
    """y = W_q Q(x) + b with W_q = step * q, q one of 2^bits values ..., -1.5, -0.5, 0.5, 1.5, ...

    They are symmetric without a zero, so that 2 bits give four of them and not three.

    Options:
        scale: learned (the step of each row is trained; initially at the least squared error) or
            absmax (computed from the row's largest weight at every step; rounding straight
            through).

    Parameters: ``step`` (out x 1), where the scale is learned.
    """

    METHOD = "uniform"
    WEIGHT_BITS = (2, 4, 8)
    DEFAULT_BITS = 4

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scale: str = "learned",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype, **common)
        self.scale = require_choice("scale", scale, SCALES)
        if scale == "learned":
            self.step = nn.Parameter(torch.empty(out_features, 1, device=device, dtype=dtype))
        self.reset_scales()

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if self.scale == "learned" and not self.step.is_meta:
            self.step.copy_(best_step(self.weight, self.bits))

    def _step(self) -> Tensor:
        if self.scale == "learned":
            return self.step
        return absmax_step(self.weight.detach(), self.bits)

    def estimated_weight(self) -> Tensor:
        return LearnedStep.apply(self.weight, self._step(), self.bits)

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        return self.estimated_weight()

    def to_sign_planes(self) -> SignPlanes:
        exact = accumulation_dtype(self.weight.dtype)
        scale = self._step().detach().to(exact).clamp_min(SMALLEST_STEP)
        q = midrise_q(self.weight.detach().to(exact) / scale, self.bits)
        return SignPlanes(q, scale.flatten())

    plane_scales = staticmethod(midrise_plane_scales)

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        super().from_sign_planes(planes)
        if self.scale == "learned":
            self.step.copy_(planes.scale.unsqueeze(1))


def absmax_step(weight: Tensor, bits: int) -> Tensor:
    """The step (out x 1) at which the outermost value is the row's largest magnitude."""
    exact = accumulation_dtype(weight.dtype)
    return weight.abs().amax(dim=1, keepdim=True).to(exact) / (2 ** (bits - 1) - 0.5)


def best_step(weight: Tensor, bits: int) -> Tensor:
    """The step (out x 1) of least squared error a row, among CLIPS fractions of ``absmax_step``."""
    weight = weight.to(accumulation_dtype(weight.dtype))
    widest = absmax_step(weight, bits)
    best, least = widest, torch.full_like(widest, math.inf)
    for clip in range(CLIPS, 0, -1):
        step = (widest * (clip / CLIPS)).clamp_min(SMALLEST_STEP)
        error = (midrise_q(weight / step, bits) * step - weight).square().sum(1, keepdim=True)
        better = error < least
        best, least = torch.where(better, step, best), torch.where(better, error, least)
    return best
