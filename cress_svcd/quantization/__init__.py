"""Quantised linear layers, which layers of a model become them, and how to train them.

This floor is pure torch: it knows neither fairseq nor speech.

    apply_policy(model, Policy.load("configs/quant/decoder.yaml"))   # in place, weights kept
    ...                                                              # train on
    saved = {"layers": quantization_map(model), "state": model.state_dict()}

    rebuild(fresh_model, saved["layers"])
    fresh_model.load_state_dict(saved["state"])

A step by step way in: ``Schedule`` with ``set_progress``.  What to learn from the full-precision
model: ``training.distillation``.  What became of the layers: ``report``.
"""

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.convert import (
    Replacement,
    apply_policy,
    count_calls,
    map_differences,
    parameter_groups,
    parameters_by_kind,
    quantization_map,
    quantized_layers,
    rebuild,
    require_same_map,
)
from cress_svcd.quantization.methods import METHODS
from cress_svcd.quantization.policy import LayerSpec, Policy, Rule
from cress_svcd.quantization.schedule import Schedule, set_progress, weight_decay_factor
from cress_svcd.quantization.svcd import BitLinear

__all__ = [
    "METHODS",
    "BitLinear",
    "LayerSpec",
    "Policy",
    "QuantLinear",
    "Replacement",
    "Rule",
    "Schedule",
    "apply_policy",
    "count_calls",
    "map_differences",
    "parameter_groups",
    "parameters_by_kind",
    "quantization_map",
    "quantized_layers",
    "rebuild",
    "require_same_map",
    "set_progress",
    "weight_decay_factor",
]
