"""``hubert_transformer`` with few-bit layers: the archs of SVCD training."""

from dataclasses import dataclass

from fairseq.models import register_model

from cress_svcd.models.hubert_transformer import HubertTransformer, HubertTransformerPostLN
from cress_svcd.models.hubert_transformer_config import HubertTransformerConfig
from cress_svcd.models.quantized import QuantizationOptions, Quantized, left_open


@dataclass
class QuantTransformerConfig(QuantizationOptions, left_open(HubertTransformerConfig)):
    """Options of ``hubert_transformer``, and those of the quantisation."""


@register_model("quant_transformer", dataclass=QuantTransformerConfig)
class QuantTransformer(Quantized, HubertTransformer):
    """``hubert_transformer``, the layers that a policy names quantised."""

    base_config = HubertTransformerConfig
    start_archs = ("hubert_transformer", "hubert_transformer_pruning_layer")


@register_model("quant_transformer_postln", dataclass=QuantTransformerConfig)
class QuantTransformerPostLN(Quantized, HubertTransformerPostLN):
    """``hubert_transformer_postln``, the layers that a policy names quantised."""

    base_config = HubertTransformerConfig
    start_archs = ("hubert_transformer_postln", "hubert_transformer_pruning_layer_postln")
