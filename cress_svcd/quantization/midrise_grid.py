"""Symmetric uniform grids without a zero, and those that fit normally distributed values best."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cress_svcd.quantization.fake_quant import accumulation_dtype

SMALLEST_STEP = 1e-8  # above float16's smallest number, so that a step of zeros stays harmless

# Half-range of the grid of 2^bits equally spaced values, symmetric about 0 and without it, that has
# the least mean squared error on a standard normal variable (Max 1960, table II).
HALF_RANGE = {
    1: 0.7978845608,
    2: 1.4935346200,
    3: 2.0510683541,
    4: 2.5139305786,
    8: 3.8849386788,
}


def gaussian_scale(bits: int) -> float:
    """Distance between neighbouring values, in standard deviations."""
    return 2 * HALF_RANGE[bits] / (2**bits - 1)


def midrise_q(ratio: Tensor, bits: int) -> Tensor:
    """The nearest of the 2^bits values ..., -1.5, -0.5, 0.5, 1.5, ... to each entry, ties upwards.

    Zero goes to +0.5, so that every entry has a code; one bit gives the sign (halved).
    """
    half = 2 ** (bits - 1)
    return ratio.floor().clamp(-half, half - 1) + 0.5


class LearnedStep(torch.autograd.Function):
    """step * q(w / step) of a weight (rows x n), a step a row (rows x 1), q of ``midrise_q``; both
    gradients as in LSQ (Esser et al. 2020, eq. 3 and 5)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, bits: int) -> Tensor:
        exact = accumulation_dtype(weight.dtype)
        step = step.to(exact).clamp_min(SMALLEST_STEP)
        ctx.save_for_backward(weight, step)
        ctx.bits = bits
        return (midrise_q(weight.to(exact) / step, bits) * step).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, step = ctx.saved_tensors
        ratio = weight.to(step.dtype) / step
        half = 2 ** (ctx.bits - 1)
        inside = ratio.abs() <= half
        grad_step = None
        if ctx.needs_input_grad[1]:
            error = midrise_q(ratio, ctx.bits) - ratio * inside
            grad_step = (error * grad).sum(dim=1, keepdim=True)
            grad_step /= math.sqrt(weight.shape[1] * (half - 0.5))
        return grad * inside, grad_step, None
