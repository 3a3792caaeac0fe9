"""Training some layers only: selective fine-tuning, as QuEST for diffusion models does it.

Wang et al. 2025 (ICCV, arXiv:2402.03666) train the weights of the layers that lose most in few
bits, besides the quantisers' own parameters, and leave all others as they were.  Which layers those
are, ``cress-svcd report --sensitivity`` measures.
"""

import logging

from torch import nn

from cress_svcd.models.states import find_modules
from cress_svcd.quantization import quantized_layers

logger = logging.getLogger(__name__)


def train_only(model: nn.Module, patterns: str) -> int:
    """Freeze all but the modules that ``patterns`` name and the scales of quantised layers.

    Args:
        patterns: comma separated names; ``*`` stands for one part of a dotted name, a negative
            number counts from the end: ``decoder.layers.*.encoder_attn,decoder.layers.-1``.
    Returns:
        How many numbers are still trained.
    Raises:
        ConfigError: a pattern names no module.
    """
    chosen = find_modules(model, patterns, "--quant-train-only")
    kept = {id(parameter) for module in chosen.values() for parameter in module.parameters()}
    for layer in quantized_layers(model).values():
        kept |= {id(parameter) for parameter in layer.scale_parameters().values()}
    total = trained = 0
    for parameter in model.parameters():
        total += parameter.numel()
        if id(parameter) not in kept:
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            trained += parameter.numel()
    logger.info("training %s of %s numbers: %s", f"{trained:,}", f"{total:,}", patterns)
    return trained
