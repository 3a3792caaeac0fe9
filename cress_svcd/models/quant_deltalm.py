"""``hubert_deltalm`` with few-bit layers: the arch of its SVCD training."""

from dataclasses import dataclass

from fairseq.models import register_model

from cress_svcd.models.hubert_deltalm import HubertDeltaLM, HubertDeltaLMConfig
from cress_svcd.models.quantized import QuantizationOptions, Quantized, left_open


@dataclass
class QuantDeltaLMConfig(QuantizationOptions, left_open(HubertDeltaLMConfig)):
    """Options of ``hubert_deltalm``, and those of the quantisation."""


@register_model("quant_deltalm", dataclass=QuantDeltaLMConfig)
class QuantDeltaLM(Quantized, HubertDeltaLM):
    """``hubert_deltalm``, the layers that a policy names quantised (fc3 and fc4 too)."""

    base_config = HubertDeltaLMConfig
    start_archs = ("hubert_deltalm",)
