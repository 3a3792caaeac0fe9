"""What a quantised model takes from an initial checkpoint that is quantised itself, in part."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.binary_attention import NONE, form_in
from cress_svcd.models.checkpoints import shorten, transfer
from cress_svcd.models.low_bit_options import trained_bits
from cress_svcd.quantization import map_differences, quantization_map
from cress_svcd.quantization.low_bit_grid import LowBits


def layers_in(options: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """How the quantised layers of an initial checkpoint are made, by name; none in one of full
    precision.

    Args:
        options: of the model in the checkpoint at ``path``.
    Raises:
        ConfigError: more than layers is quantised in it.
    """
    if trained_bits(options) != LowBits() or form_in(options) != NONE:
        raise ConfigError(
            f"--finetuned-st-model {path}: its embeddings, convolutions or attention weights were "
            "trained at few bits, from which no other training starts; give the checkpoint that it "
            "started from"
        )
    return json.loads(options.get("quantization_map") or "{}")


def take_layers(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    layers: Mapping[str, Mapping[str, Any]],
    path: str,
) -> None:
    """Give a converted ``model`` the ``layers`` of its initial checkpoint as they were trained.

    Args:
        weights: all tensors of the checkpoint at ``path``.
        layers: as ``layers_in`` gives them.
    Raises:
        CheckpointError: the checkpoint lacks a tensor of them.
        ConfigError: the policy makes one of them in another way, or leaves it in full precision.
    """
    today = quantization_map(model)
    kept = {name: made for name, made in today.items() if name in layers}
    if differences := map_differences(layers, kept):
        raise ConfigError(
            f"--finetuned-st-model {path}: the policy changes layers that are quantised there: "
            f"{differences}. Take a policy that adds layers to them, or start from a "
            "full-precision checkpoint"
        )
    # All of it: where output projection and embedding are tied in full precision, the one has
    # been loaded into the other.
    report = transfer(model, weights, path)
    prefixes = tuple(f"{name}." for name in layers)
    lost = [name for name in report.missing if name.startswith(prefixes)]
    if lost:
        raise CheckpointError(f"{path}: is damaged: it lacks {shorten(lost)}")
