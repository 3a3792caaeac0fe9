"""BiPer's layer (Vargas et al. 2024, arXiv:2404.01278): a periodic function in place of sign."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.row_scale import RowScaleLinear
from cress_svcd.quantization.sign_planes import SignPlanes

SMALLEST_MAGNITUDE = 1e-8  # of a matrix of zeros


class _SquareWave(torch.autograd.Function):
    """sign(sin(f w)) with ties +1; its derivative is taken to be that of sin(f w)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, frequency: Tensor) -> Tensor:
        angle = weight.to(frequency.dtype) * frequency
        ctx.save_for_backward(angle, frequency)
        return (torch.sin(angle) >= 0).to(weight.dtype) * 2 - 1 + weight * 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        angle, frequency = ctx.saved_tensors
        return (grad * (frequency * torch.cos(angle))).to(grad.dtype), None


class BiPerLinear(RowScaleLinear):
    """y = h * (sign(sin(f W)) Q(x)) + b with a trained scale h a row.

    As in the paper, a square wave forward and the sine of the same period backward: the surrogate
    gradient f cos(f W) turns round where a weight is beyond a quarter of the wave.  The paper
    trains with sin(f W) itself at first and draws h; here h begins at a row's mean magnitude, and a
    trained checkpoint takes the place of that first stage.  Activations are rounded to 8 bits per
    token (the paper: to their sign).

    Options:
        frequency: f; the paper has 20, for weights it drew itself.  None takes pi / (2 max |W|) of
            the present weights, at every step: no trained weight changes its sign, f W stays within
            the quarter of the wave where it rises, and forward this is the sign.

    Parameters: ``h`` (out).
    """

    METHOD = "biper"
    WEIGHT_BITS = (1,)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        frequency: float | None = None,
        **common: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, **common)
        is_number = isinstance(frequency, int | float) and not isinstance(frequency, bool)
        if frequency is not None and not (is_number and 0 < frequency < math.inf):
            raise ConfigError(f"frequency: found {frequency!r}, expected a number above 0, or null")
        self.frequency = frequency

    @torch.no_grad()
    def _frequency(self) -> Tensor:
        """f (1, 1), in the accumulation type."""
        weight = self.weight
        exact = accumulation_dtype(weight.dtype)
        if self.frequency is not None:
            return torch.full((1, 1), self.frequency, dtype=exact, device=weight.device)
        largest = weight.abs().amax().to(exact).clamp_min(SMALLEST_MAGNITUDE)
        return (math.pi / 2 / largest).view(1, 1)

    def estimated_weight(self) -> Tensor:
        return _SquareWave.apply(self.weight, self._frequency()) * self.h.unsqueeze(1)

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        return self.estimated_weight()

    @torch.no_grad()
    def to_sign_planes(self) -> SignPlanes:
        return SignPlanes(_SquareWave.apply(self.weight, self._frequency()), self.h.detach())

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        """The crests of the wave."""
        crest = 1.0 if self.frequency is None else math.pi / 2 / self.frequency
        self.weight.copy_(planes.q * crest)
