"""Initial values of the input scale g (in) and the output scale h (out).

Each function takes the weight (out, in) and the support of its sign weights ((out, in) of 0 and 1,
or None for all ones) and returns (g, h) in float32 at least.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.validation import require_choice

Scales = tuple[Tensor, Tensor]


def _constraint(weight: Tensor, support: Tensor | None) -> Scales:
    """Both uniform in +-1/sqrt(fan_in): the published constraint.  Forgets the weight's scale."""
    bound = 1 / math.sqrt(weight.shape[1])
    g, h = (weight.new_empty(size).uniform_(-bound, bound) for size in reversed(weight.shape))
    return g, h


def _unconstrained(weight: Tensor, support: Tensor | None) -> Scales:
    """Both standard normal: the control of the description's comparison, unstable in float16."""
    g, h = (weight.new_empty(size).normal_() for size in reversed(weight.shape))
    return g, h


def _svid(weight: Tensor, support: Tensor | None) -> Scales:
    """The best rank-1 h g^T for |W| on the support: OneBit's sign-value-independent decomposition.

    Source: Xu et al. 2024, eq. 4.  Of all scales it brings h * sign(W) * g nearest to W in the
    least-squares sense.
    """
    h, g = rank_one(weight.abs(), support)
    return _balanced(g, h)


def _row(weight: Tensor, support: Tensor | None) -> Scales:
    """h the mean |W| of each row over the support, g ones (XNOR-Net: Rastegari et al. 2016)."""
    magnitude = weight.abs()
    if support is None:
        h = magnitude.mean(1)
    else:
        h = (magnitude * support).sum(1) / support.sum(1).clamp_min(1)
    return weight.new_ones(weight.shape[1]), h


def _svd(weight: Tensor, support: Tensor | None) -> Scales:
    """The first singular vectors of W, without their singular value, as published.

    The description's code names U[:, 0] g and VT[0, :] h, which fits a matrix of in x out: g is the
    right and h the left singular vector of the (out, in) weight.  Kept for comparison: it ignores
    the sign that the sign weights already carry.
    """
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    return right[0], left[:, 0]


INITS: dict[str, Callable[[Tensor, Tensor | None], Scales]] = {
    "svid": _svid,
    "row": _row,
    "constraint": _constraint,
    "unconstrained": _unconstrained,
    "svd": _svd,
}


@torch.no_grad()
def initial_scales(init: str, weight: Tensor, support: Tensor | None = None) -> Scales:
    """(g, h) for ``weight`` by the method named ``init``, in float32 (float64 for float64).

    Raises:
        ConfigError: ``init`` is not a key of INITS.
    """
    function = INITS[require_choice("init", init, INITS)]
    exact = accumulation_dtype(weight.dtype)
    return function(weight.to(exact), None if support is None else support.to(exact))


def channel_magnitudes(inputs: Tensor, power: float = 0.5) -> Tensor:
    """s (in): (mean |x_j|)^power over the rows of (…, in), 0.5 as in ASVD; at least a thousandth
    of the mean of s, which is to be divided by.

    In the accumulation type.
    """
    exact = accumulation_dtype(inputs.dtype)
    size = inputs.to(exact).abs().flatten(0, -2).mean(0).pow(power)
    return size.clamp_min(max(1e-3 * float(size.mean()), 1e-12))


def rank_one(
    magnitude: Tensor, support: Tensor | None = None, steps: int = 200, tolerance: float = 1e-7
) -> Scales:
    """The non-negative (left, right) that minimise sum(support * (magnitude - left right^T)^2).

    By alternating least squares; without a support that is the power iteration on the largest
    singular pair, which is non-negative for a non-negative matrix (Perron and Frobenius).  A matrix
    of |weights| has one dominant singular value, so a few steps suffice.

    Args:
        magnitude: (out, in), non-negative.
        support: (out, in) of 0 and 1; entries outside it are free.
        steps, tolerance: stop after so many steps, or when ``right`` moves less than this
            relative to its length.

    Returns:
        ``left`` (out) and ``right`` (in); zero where a row or column of the magnitude is zero.
    """
    masked = magnitude if support is None else magnitude * support
    right = torch.ones_like(masked[0])
    left = _fit(masked, right, support)
    for _ in range(steps):
        previous = right
        right = _fit(masked.t(), left, None if support is None else support.t())
        left = _fit(masked, right, support)
        # Each pass keeps the length of the product; only the direction has to settle.
        if (right - previous).norm() <= tolerance * right.norm():
            break
    return left, right


def _fit(masked: Tensor, vector: Tensor, support: Tensor | None) -> Tensor:
    """Least-squares coefficient of ``vector`` in each row of ``masked``; 0 for an empty row."""
    square = vector.square()
    weight = square.sum() if support is None else support @ square
    return torch.where(weight > 0, masked @ vector / weight.clamp_min(1e-30), 0)


def _balanced(g: Tensor, h: Tensor) -> Scales:
    """Share the scale so that g and h have the same root mean square.

    Their product is all that matters to the layer's output, but not to float16 (neither may
    become tiny) nor to an optimizer with one learning rate for both.
    """
    size_g, size_h = g.square().mean().sqrt(), h.square().mean().sqrt()
    if size_g == 0 or size_h == 0:
        return g, h
    factor = (size_h / size_g).sqrt()
    return g * factor, h / factor
