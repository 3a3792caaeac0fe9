"""Symmetric uniform grids without a zero, and those that fit normally distributed values best."""

from torch import Tensor

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
