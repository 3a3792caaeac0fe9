"""All methods by the name that a policy uses."""

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.methods.bitnet import BitNetLinear
from cress_svcd.quantization.methods.bitnet158 import BitNet158Linear
from cress_svcd.quantization.methods.onebit import OneBitLinear
from cress_svcd.quantization.methods.quest import QuESTLinear
from cress_svcd.quantization.methods.tbt import TBTLinear
from cress_svcd.quantization.methods.uniform import UniformLinear
from cress_svcd.quantization.svcd import BitLinear

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
