"""All methods by the name that a policy uses.

To add one: a file here with a subclass of ``QuantLinear`` (its hooks: ``quantization.base``), and a
line in METHODS.
"""

from cress_svcd.quantization import svcd_paper  # noqa: F401 - registers itself as a variant
from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.methods.bibert import BiBERTLinear
from cress_svcd.quantization.methods.biper import BiPerLinear
from cress_svcd.quantization.methods.bipft import BiPFTLinear
from cress_svcd.quantization.methods.bitnet import BitNetLinear
from cress_svcd.quantization.methods.bitnet158 import BitNet158Linear
from cress_svcd.quantization.methods.bitnet158_reloaded import BitNet158ReloadedLinear
from cress_svcd.quantization.methods.bivit import BiViTLinear
from cress_svcd.quantization.methods.db_llm import DBLLMLinear
from cress_svcd.quantization.methods.onebit import OneBitLinear
from cress_svcd.quantization.methods.pb_llm import PBLLMLinear
from cress_svcd.quantization.methods.ptq161 import PTQ161Linear
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
        BitNet158ReloadedLinear,
        OneBitLinear,
        TBTLinear,
        QuESTLinear,
        UniformLinear,
        BiPerLinear,
        BiPFTLinear,
        DBLLMLinear,
        PBLLMLinear,
        PTQ161Linear,
        BiBERTLinear,
        BiViTLinear,
    )
}
