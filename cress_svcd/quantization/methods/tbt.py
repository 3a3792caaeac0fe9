"""The layer of Binary and Ternary Natural Language Generation (Liu et al. 2023, arXiv:2306.01841).

Statistics-based weights: the scale of a row is computed from its latent weights at every step.
Elastic activations: the step of an activation is a trained parameter (from BiT, Liu et al. 2022,
and LSQ, Esser et al. 2020).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cress_svcd.quantization.base import Holder, QuantLinear
from cress_svcd.quantization.binarize import signs_of
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.sign_planes import SignPlanes
from cress_svcd.quantization.validation import require_choice

SMALLEST_STEP = 1e-5  # as in the authors' code: a step must not reach zero
GAUSSIAN_MEAN_MAGNITUDE = math.sqrt(2 / math.pi)


class _ElasticQuantize(torch.autograd.Function):
    """alpha * round(clip(x / alpha, low, high)); one bit: alpha * sign(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, bits: int, low: int, high: int) -> Tensor:
        exact = accumulation_dtype(x.dtype)
        alpha = alpha.to(exact).clamp_min(SMALLEST_STEP)
        ctx.save_for_backward(x, alpha)
        ctx.range = bits, low, high
        return (_round(x.to(exact) / alpha, bits, low, high) * alpha).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha = ctx.saved_tensors
        bits, low, high = ctx.range
        ratio = x.to(alpha.dtype) / alpha
        inside = (ratio >= low) & (ratio <= high)
        # LSQ: d/d alpha is the rounded ratio, less the ratio where the input passes straight
        # through; scaled so that steps of large and small tensors learn alike.
        error = _round(ratio, bits, low, high)
        if bits > 1:
            error = error - ratio * inside
        grad_alpha = (error * grad).sum() / math.sqrt(max(1, x.numel() * high))
        return grad * inside, grad_alpha.view(1), None, None, None


def elastic_quantize(x: Tensor, step: Tensor, bits: int, low: int, high: int) -> Tensor:
    """``x`` rounded to low .. high times the trained ``step`` (1), and scaled back."""
    return _ElasticQuantize.apply(x, step, bits, low, high)


def _round(ratio: Tensor, bits: int, low: int, high: int) -> Tensor:
    if bits == 1 and low < 0:
        return torch.where(ratio < 0, -1.0, 1.0).to(ratio.dtype)
    return ratio.round().clamp(low, high)


class TBTLinear(QuantLinear):
    """y = W_q Q(x) + b with statistics-based weights and elastic activations.

    Weights, per row and with alpha = mean |W|: 1 bit alpha * sign(W); ternary
    a * round(clip(W / a, -1, 1)) with a = 4/3 alpha.  (The paper's equations subtract the mean; its
    code, which is followed here, does not.)  Activations: alpha_x * round(clip(x / alpha_x)), one
    trained step a layer, so the output does not depend on the batch.

    Options:
        activation_bits: 1, 2 (ternary where signed), 4, 8, 16 or None.
        signed: False for inputs that are never negative, after a ReLU: 0 .. 2^bits - 1
            (2 bits: 0 .. 2).

    Parameters: ``step`` (1), the activations' step.  Initially the paper's rule gives it, for
    inputs of unit variance; ``calibrate`` applies the rule to real ones.
    """

    METHOD = "tbt"
    WEIGHT_BITS = (1, 1.58)
    ACTIVATION_BITS = (1, 2, 4, 8, 16, None)
    PACKED_PARAMETERS = ("step",)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        signed: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype, **common)
        self.signed = require_choice("signed", signed, (True, False))
        self.step = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_scales()

    def q_range(self) -> tuple[int, int]:
        """Smallest and largest q of the activations."""
        bits = self.activation_bits
        if not self.signed:
            return 0, 2 if bits == 2 else 2**bits - 1
        return (-1, 1) if bits <= 2 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def _initial_step(self, mean_magnitude: float | Tensor) -> float | Tensor:
        """The authors' initial step for inputs of this mean magnitude."""
        bits = self.activation_bits
        qmax = 2 ** (bits - 1) - 1 if self.signed else 2**bits - 1
        return (2 if self.signed else 4) * mean_magnitude / math.sqrt(max(qmax, 1))

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        self.step.fill_(
            1 if self.activation_bits is None else self._initial_step(GAUSSIAN_MEAN_MAGNITUDE)
        )

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the step from a batch of inputs (…, in), by the rule of the authors' code."""
        if self.activation_bits is not None:
            self.step.fill_(self._initial_step(x.abs().mean(dtype=torch.float32)))

    def prepare_input(self, x: Tensor, holder: Holder) -> Tensor:
        if self.activation_bits is None:
            return x
        return elastic_quantize(x, holder.step, self.activation_bits, *self.q_range())

    @property
    def product_bits(self) -> None:
        return None

    def steps_around_product(self) -> dict[str, Any]:
        bits = self.activation_bits
        if bits is None:
            return {}
        low, high = self.q_range()
        signs = bits == 1 and low < 0
        return {"input": "signs" if signs else "steps", "low": low, "high": high}

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        weight = self.weight.to(accumulation_dtype(self.weight.dtype))
        scale = weight.abs().mean(dim=1, keepdim=True)
        if self.bits == 1:
            q = signs_of(weight)
        else:
            scale = scale * (4 / 3)
            q = (weight / scale.clamp_min(1e-30)).clamp_(-1, 1).round_()
        return q.mul_(scale).to(self.weight.dtype)

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        """The mean magnitude of each row is that of before."""
        factor = 1 if self.bits == 1 else 4 / 3
        share = planes.q.abs().mean(dim=1, keepdim=True)
        scale = planes.scale.unsqueeze(1) / (factor * share).clamp_min(1e-30)
        self.weight.copy_(planes.q * scale)
