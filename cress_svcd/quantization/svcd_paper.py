"""The published BitLinear's arithmetic to the letter (``variant="paper"``).

    y = h * Q(sign(W - mean W) (g * LayerNorm(x)) + b)

with Q(o) = clamp(o * 2^7 / (max|o| + 1e-5), -2^7 + 1e-5, 2^7 - 1e-5).  Q neither rounds nor scales
back, and its maximum is one for the whole output, so a sentence's output depends on its batch.  In
two points alone this is safer than the published code, and equal to it wherever that one runs:
groups may be any number (there, one time step with two groups fails, and rows beyond a multiple of
the group size stay zero), and the quotient is taken before the product, which float16 survives.
"""

import torch
from torch import Tensor

from cress_svcd.quantization.binarize import row_chunks
from cress_svcd.quantization.fake_quant import straight_through

EPSILON = 1e-5
ACTIVATION_BITS = 8


def binarize_groupwise(weight: Tensor, num_groups: int) -> Tensor:
    """sign(w - mean) by groups of rows; straight through, the mean's own gradient included.

    A weight that equals its group's mean becomes 0 here, as published.
    """
    centred = torch.cat([chunk - chunk.mean() for chunk in row_chunks(weight, num_groups)])
    return straight_through(centred, centred.sign())


def quantize_groupwise(output: Tensor, num_groups: int) -> Tensor:
    """Each group along dim 0 of ``output`` scaled to +-2^7 by its largest magnitude, and clamped.

    The gradient runs through the maximum.
    """
    if output.numel() == 0:
        return output
    top = 2 ** (ACTIVATION_BITS - 1)
    return torch.cat(
        [
            (chunk * (top / (chunk.abs().max() + EPSILON))).clamp(-top + EPSILON, top - EPSILON)
            for chunk in row_chunks(output, num_groups)
        ]
    )
