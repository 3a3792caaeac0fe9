"""The published BitLinear to the letter: ``variant: paper`` of method svcd.

    y = h * Q(sign(W - mean W) (g * LayerNorm(x)) + b)

with Q(o) = clamp(o * 2^7 / (max|o| + 1e-5), -2^7 + 1e-5, 2^7 - 1e-5).  Q neither rounds nor scales
back, and its maximum is one for the whole output, so an utterance's output depends on its batch.
In two points alone this is safer than the published code, and equal to it wherever that one runs:
groups may be any number (there, one time step with two groups fails, and rows beyond a multiple of
the group size stay zero), and the quotient is taken before the product, which float16 survives.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.base import Holder
from cress_svcd.quantization.binarize import row_groups
from cress_svcd.quantization.fake_quant import straight_through
from cress_svcd.quantization.sign_planes import SignPlanes
from cress_svcd.quantization.svcd import BitLinear

EPSILON = 1e-5
OUTPUT_BITS = 8
# The formula's own; other values would be another layer.
FIXED_OPTIONS = {
    "bits": 1,
    "activation_bits": OUTPUT_BITS,
    "normalization": "layernorm",
    "estimator": "identity",
    "estimator_width": None,
}


class PaperBitLinear(BitLinear):
    """The published layer: bias inside the scaling by h (and kept as it is in a conversion),
    LayerNorm, the *output* scaled to 8 bits by one maximum, sign(0) = 0."""

    VARIANT = "paper"
    DEFAULT_INIT = "constraint"
    DEFAULT_NORMALIZATION = "layernorm"
    AUTOCAST_LOWERS_OUTPUT = False
    DEPENDS_ON_BATCH = True
    FITS_SCALES = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name, value in FIXED_OPTIONS.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"{name}: found {getattr(self, name)!r}, but variant paper is the published "
                    f"formula and has {value!r} only; leave {name} out or use variant default"
                )

    def quantized_forward(self, x: Tensor) -> Tensor:
        signs = binarize_groupwise(self.weight, self.num_groups)
        y = F.linear(self.norm(x) * self.g, signs, self.bias)
        return self.finish_output(y, self)

    def prepare_input(self, x: Tensor, holder: Holder) -> Tensor:
        return x

    @property
    def product_bits(self) -> None:
        return None

    @property
    def finishes_output(self) -> bool:
        return True

    @property
    def scales_in_product(self) -> bool:
        return False

    def finish_output(self, y: Tensor, holder: Holder) -> Tensor:
        return quantize_groupwise(y, self.num_groups) * holder.h

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        return self.h.unsqueeze(1) * binarize_groupwise(self.weight, self.num_groups) * self.g

    def to_sign_planes(self) -> SignPlanes:
        """Two planes where a weight equals its group's mean: 0 has no 1-bit code."""
        signs = binarize_groupwise(self.weight, self.num_groups).detach()
        return SignPlanes(signs, self.h.detach())

    def set_progress(self, mix: float, ternary: float) -> None:
        self.mix = mix


def binarize_groupwise(weight: Tensor, num_groups: int) -> Tensor:
    """sign(w - mean) by groups of rows; straight through, the mean's own gradient included.

    A weight that equals its group's mean becomes 0 here, as published.
    """
    centred = torch.cat([group - group.mean() for group in row_groups(weight, num_groups)])
    return straight_through(centred, centred.sign())


def quantize_groupwise(output: Tensor, num_groups: int) -> Tensor:
    """Each group along dim 0 of ``output`` scaled to +-2^7 by its largest magnitude, and clamped.

    The gradient runs through the maximum.
    """
    if output.numel() == 0:
        return output
    limit = 2 ** (OUTPUT_BITS - 1)
    return torch.cat(
        [
            (group * (limit / (group.abs().max() + EPSILON))).clamp(
                -limit + EPSILON, limit - EPSILON
            )
            for group in row_groups(output, num_groups)
        ]
    )
