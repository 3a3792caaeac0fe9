"""Gradient estimators: what stands for the derivative of sign(w), which is zero almost everywhere.

Each takes u, the centred weight over the estimator's width, and returns d sign / dw as a tensor
of u's shape, or None for "one everywhere" (which then costs nothing).  With ``width`` None u is the
centred weight as it is, the unit of the sources; a number is the width in units of the root
mean square of the centred weight, which makes the window fit a trained matrix whose entries are
of the order of 0.03.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cress_svcd.quantization.validation import require_choice

Slope = Callable[[Tensor], Tensor]


def _clip(u: Tensor) -> Tensor:
    """1 for |u| <= 1, else 0: the derivative of hard tanh (Hubara et al. 2016, eq. 4)."""
    return (u.abs() <= 1).to(u.dtype)


def _tanh(u: Tensor) -> Tensor:
    """1.001 - tanh(u)^2, never quite zero (OneBit: Xu et al. 2024, its training code)."""
    return 1.001 - torch.tanh(u).square()


def _polynomial(u: Tensor) -> Tensor:
    """max(0, 2 - 2|u|): the derivative of Bi-Real Net's piecewise quadratic (Liu et al. 2018)."""
    return (2 - 2 * u.abs()).clamp_min(0)


SLOPES: dict[str, Slope | None] = {
    "identity": None,  # straight-through (Bengio, Leonard and Courville 2013), as in BitNet
    "clip": _clip,
    "tanh": _tanh,
    "polynomial": _polynomial,
}


def slope(name: str, centred: Tensor, width: float | None = None) -> Tensor | None:
    """The estimated derivative of sign at ``centred`` (any shape); None where it is one everywhere.

    The chain rule's 1/width is left out on purpose, as in OneBit: it would only rescale the
    gradient of the whole matrix, by a factor that depends on the weights' scale.

    Raises:
        ConfigError: ``name`` is not a key of SLOPES.
    """
    function = SLOPES[require_choice("estimator", name, SLOPES)]
    if function is None:
        return None
    if width is None:
        return function(centred)
    scale = width * centred.square().mean().sqrt()
    return function(centred / scale.clamp_min(torch.finfo(centred.dtype).tiny))
