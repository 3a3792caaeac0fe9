"""BitNet b1.58 Reloaded's layer (Nielsen and Schneider-Kamp 2024, arXiv:2407.09527)."""

from torch import Tensor

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.methods.bitnet158 import BitNet158Linear
from cress_svcd.quantization.sign_planes import SignPlanes


class BitNet158ReloadedLinear(BitNet158Linear):
    """y = W~ Q(LN(x)) + b with W~ = gamma * RoundClip(W / gamma, -1, 1), gamma = median |W|.

    BitNet b1.58 with the median of the magnitudes in place of their mean, and a layer norm in place
    of the RMS norm; of an even number of weights the median is the lower of the two in the middle,
    as in the authors' code.  That norm has no parameters and spans all tokens of a sentence; here
    it has some, and one token's output depends on no other.
    """

    METHOD = "bitnet158_reloaded"
    DEFAULT_NORMALIZATION = "layernorm"

    @staticmethod
    def scale_of(weight: Tensor) -> Tensor:
        return weight.abs().median()

    def from_sign_planes(self, planes: SignPlanes) -> None:
        """Fewer than half of the weights are 0, as those lie below half of the median: the median
        of what is left is the scale again."""
        QuantLinear.from_sign_planes(self, planes)
