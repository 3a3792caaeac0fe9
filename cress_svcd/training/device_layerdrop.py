"""Layers that are left out at random, decided on the device.

fairseq decides on the host which layers a step runs, so that no two steps are alike.  Here a layer
always runs, and what it gives is taken or not: a step takes as long as without --layerdrop, but it
can be captured.  A layer that is left out has gradients of zero.
"""

from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder
from fairseq.modules import LayerDropModuleList
from torch import Tensor, nn


def install(model: nn.Module) -> None:
    """Have all layers of ``model`` that its host would leave out left out by the device."""
    for module in model.modules():
        if isinstance(module, LayerDropModuleList) and module.p > 0:
            _drop(list(module), module.p)
            module.p = 0.0
        elif isinstance(module, TransformerEncoder) and module.layerdrop > 0:
            _drop(list(module.layers), module.layerdrop)
            module.layerdrop = 0.0


def _drop(layers: list[nn.Module], share: float) -> None:
    def choose(layer: nn.Module, inputs: tuple, options: dict[str, Any], output: Any) -> Any:
        if not layer.training:
            return output
        entering = inputs[0]
        if not isinstance(output, tuple):
            return _either(output, entering, share)
        return _either(output[0], entering, share), *output[1:]

    for layer in layers:
        layer.register_forward_hook(choose, with_kwargs=True)


def _either(leaving: Tensor, entering: Tensor, share: float) -> Tensor:
    return torch.where(torch.rand((), device=leaving.device) < share, entering, leaving)
