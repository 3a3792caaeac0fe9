"""What a quantised model takes from an initial checkpoint that is quantised itself, in part."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.binary_attention import NONE, form_in
from cress_svcd.models.checkpoints import shorten, transfer
from cress_svcd.models.low_bit_options import trained_bits
from cress_svcd.quantization import map_differences, quantization_map, quantized_layers
from cress_svcd.quantization.low_bit_grid import LowBits

logger = logging.getLogger(__name__)


def layers_in(options: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """How the quantised layers of an initial checkpoint are made, by name; none in one of full
    precision.

    Args:
        options: of the model in the checkpoint at ``path``.
    Raises:
        CheckpointError: its map is damaged.
        ConfigError: more than layers is quantised in it.
    """
    if trained_bits(options) != LowBits() or form_in(options) != NONE:
        raise ConfigError(
            f"--finetuned-st-model {path}: its embeddings, convolutions or attention weights were "
            "trained at few bits, from which no other training starts; give the checkpoint that it "
            "started from"
        )
    try:
        return json.loads(options.get("quantization_map") or "{}")
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path}: is damaged: its quantization_map is no JSON ({error})"
        ) from None


def take_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    layers: Mapping[str, Mapping[str, Any]],
    path: str,
) -> None:
    """Copy all that an initial checkpoint with quantised layers holds into a converted ``model``.

    Args:
        weights: all tensors of the checkpoint at ``path``.
        layers: as ``layers_in`` gives them.
    Raises:
        CheckpointError: the checkpoint lacks a tensor of a layer, has one too many, or has nothing
            left but the signs of its weights.
        ConfigError: the policy makes one of the layers in another way, or leaves it as it is.
    """
    _require_layers(model, layers, path)
    for name in layers:
        weight = weights.get(f"{name}.weight")
        if weight is not None and weight.numel() > 2 and _is_signs(weight):
            raise CheckpointError(
                f"--finetuned-st-model {path}: of the weights of {name} nothing is left but their "
                "signs, from which no training goes on: the file was unpacked. Give the checkpoint "
                "that was packed"
            )
    # The whole: where a quantised output projection had its weight from the embedding, both have
    # been loaded into one tensor.
    report = transfer(model, weights, path)
    prefixes = tuple(f"{name}." for name in layers)
    lost = [name for name in report.missing if name.startswith(prefixes)]
    unknown = [name for name in report.unused if name.startswith(prefixes)]
    if lost or unknown:
        raise CheckpointError(
            f"{path}: is damaged: its quantised layers lack {shorten(lost) or 'nothing'}; unknown: "
            f"{shorten(unknown) or 'none'}"
        )
    added = len(quantized_layers(model)) - len(layers)
    logger.info("%d quantised layers go on as in %s, %d are new", len(layers), path, added)


def _is_signs(weight: Tensor) -> bool:
    """Whether there are two magnitudes at most; the first row tells most weights apart at once."""
    return all(len(part.abs().unique()) <= 2 for part in (weight[0], weight))


def _require_layers(model: nn.Module, layers: Mapping[str, Mapping[str, Any]], path: str) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    if absent := [name for name in layers if name not in modules]:
        raise ConfigError(
            f"--finetuned-st-model {path}: quantised there and absent here: {shorten(absent)}; "
            "give the option that makes it (--ctc-head)"
        )
    kept = {name: made for name, made in quantization_map(model).items() if name in layers}
    try:
        differences = map_differences(layers, kept)
    except ConfigError as error:
        raise ConfigError(f"--finetuned-st-model {path}: {error}") from None
    if differences:
        raise ConfigError(
            f"--finetuned-st-model {path}: the policy, or an option that overrides it, changes "
            f"layers that are quantised there: {differences}. Take a policy that adds layers to "
            "them, or start from a full-precision checkpoint"
        )
