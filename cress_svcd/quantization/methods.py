"""All methods by the name that a policy uses."""

from cress_svcd.quantization.bitlinear import BitLinear
from cress_svcd.quantization.bitnet import BitNetLinear
from cress_svcd.quantization.bitnet158 import BitNet158Linear
from cress_svcd.quantization.layer import QuantLinear
from cress_svcd.quantization.onebit import OneBitLinear
from cress_svcd.quantization.quest import QuESTLinear
from cress_svcd.quantization.tbt import TBTLinear
from cress_svcd.quantization.uniform import UniformLinear

METHODS: dict[str, type[QuantLinear]] = {
    method.METHOD: method
    for method in (
        BitLinear,
        BitNetLinear,
        BitNet158Linear,
        OneBitLinear,
        TBTLinear,
        QuESTLinear,
        UniformLinear,
    )
}
