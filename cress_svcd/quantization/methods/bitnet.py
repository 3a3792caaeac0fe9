"""BitNet's 1-bit layer (Wang et al. 2023, arXiv:2310.11453)."""

import torch
from torch import Tensor

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.binarize import binarize, group_means


class BitNetLinear(QuantLinear):
    """y = beta * sign(W - mean W) Q(LN(x)) + b, with beta = mean |W| over the whole matrix.

    Equations 1 to 11 of the paper, with three readings: activations are rounded (as in the
    authors' later code) and scaled per token always (the paper: one scale a tensor in training, one
    a token at inference), so that a sentence's output does not depend on its batch; a weight equal
    to the mean becomes +1, not -1.  The bias, which the paper does not have, is added last.
    """

    METHOD = "bitnet"
    WEIGHT_BITS = (1,)
    DEFAULT_NORMALIZATION = "layernorm"

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        mean = group_means(self.weight)
        beta = self.weight.abs().mean(dtype=mean.dtype)
        return binarize(self.weight, mean, self.weight.dtype).mul_(beta)
