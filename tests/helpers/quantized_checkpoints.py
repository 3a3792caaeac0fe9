"""Small checkpoints of every quantisation method, without any training."""

import torch

from cress_svcd.quantization import METHODS, Policy, quantized_layers
from tests.helpers.training_options import make_task, parse, save_checkpoint

EVERYWHERE = ["decoder.layers.*", "encoder.layers.*", "encoder.hubert.encoder.layers.*"]
MIXED = [
    {"match": "decoder.layers.*.encoder_attn.*"},
    {"match": "decoder.layers.*.fc*", "bits": 1.58},
    {"match": "encoder.layers.*", "method": "uniform", "bits": 4},
    {"match": "encoder.hubert.encoder.layers.*.fc1", "activation_bits": None},
    {"match": "encoder.hubert.encoder.layers.*.fc2", "options": {"variant": "paper"}},
]
RULES = {
    "svcd": [{"match": EVERYWHERE, "method": "svcd"}],
    "unrounded": [{"match": EVERYWHERE, "method": "svcd", "activation_bits": None}],
    "mixed": MIXED,
    "projection": [{"match": "decoder.output_projection"}],
    "everything": [{"match": ["*", "*.output_projection"]}],
    **{
        name: [{"match": EVERYWHERE, "method": name}]
        for name, method in METHODS.items()
        if name != "svcd" and not method.NOT_PACKED
    },
}


def quantize(path, prepared, start, rules, *flags):
    """Write a quantised checkpoint of these rules, its scales not at their initial values."""
    policy = path.with_suffix(".yaml")
    Policy.from_dict({"rules": rules}).save(policy)
    cfg = parse(
        prepared,
        "--finetuned-st-model",
        start,
        "--quant-policy",
        policy,
        *flags,
        arch="quant_transformer",
    )
    task = make_task(prepared)
    torch.manual_seed(4)
    model = task.build_model(cfg.model)
    with torch.no_grad():
        for layer in quantized_layers(model).values():
            if hasattr(layer, "calibrate"):
                layer.calibrate(torch.randn(50, layer.in_features))
            for scale in layer.scale_parameters().values():
                scale.mul_(torch.rand_like(scale) + 0.5)
    return save_checkpoint(path, cfg, task, model)
