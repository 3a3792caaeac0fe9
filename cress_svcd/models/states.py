"""What the layers of a model put out while it runs, by the names of their modules."""

import contextlib
import fnmatch
from collections.abc import Iterator
from typing import Any

from fairseq.models import BaseFairseqModel
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from cress_svcd.errors import ConfigError
from cress_svcd.models.attention import call_projections

# State of one call and its padding: (batch, time), True beyond the ends; None without any.
Calls = list[tuple[Tensor, Tensor | None]]
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside fairseq's wrappers for data parallel training."""
    return next(module for module in model.modules() if isinstance(module, BaseFairseqModel))


def find_modules(model: nn.Module, patterns: str, option: str) -> dict[str, nn.Module]:
    """The modules of ``model`` that ``patterns`` name.

    Args:
        patterns: comma separated; ``*`` stands for one part of a dotted name, a negative number
            counts from the end: ``decoder.layers.*,encoder.layers.-1``.
        option: where they were given, for messages.

    Raises:
        ConfigError: a pattern names none.
    """
    found: dict[str, nn.Module] = {}
    for pattern in patterns.split(","):
        matching = {"": model}
        for part in pattern.strip().split("."):
            matching = {
                f"{name}.{child}".lstrip("."): module
                for name, parent in matching.items()
                for child, module in _children(parent, part).items()
            }
        if not matching:
            raise ConfigError(
                f"{option}: {pattern.strip()!r} names no module of the model; expected names such "
                "as decoder.layers.*, encoder.layers.-1 or encoder.hubert.encoder.layers.*"
            )
        found |= matching
    return found


def _children(module: nn.Module, part: str) -> dict[str, nn.Module]:
    children = dict(module.named_children())
    if part.startswith("-") and part[1:].isdigit():
        names = list(children)[int(part) :][:1] if len(children) >= int(part[1:]) else []
    else:
        names = fnmatch.filter(children, part)
    return {name: children[name] for name in names if children[name] is not None}


@contextlib.contextmanager
def watch_layers(layers: dict[str, nn.Module]) -> Iterator[dict[str, Calls]]:
    """Keep the output of each call of Transformer ``layers`` while the block runs.

    A state is (time, batch, channels).
    """
    seen: dict[str, Calls] = {name: [] for name in layers}

    def watcher(name: str):
        def watch(module: nn.Module, inputs: tuple, options: dict[str, Any], output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else output
            padding = options.get("self_attn_padding_mask", options.get("encoder_padding_mask"))
            seen[name].append((state, padding))

        return watch

    handles = [
        layer.register_forward_hook(watcher(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def watch_projections(
    attentions: dict[str, MultiheadAttention],
) -> Iterator[dict[str, Calls]]:
    """Keep queries, keys and values of self-attentions while the block runs.

    Yields the calls, (time, batch, channels) each, by names such as
    ``decoder.layers.5.self_attn.q_proj``.
    """
    seen = {f"{name}.{part}": [] for name in attentions for part in PROJECTIONS}
    handles = []
    for name, attention in attentions.items():
        call_projections(attention)
        padding: list[Tensor | None] = [None]

        def keep_padding(module, inputs, options, padding=padding):
            padding[0] = options.get("key_padding_mask")

        handles.append(attention.register_forward_pre_hook(keep_padding, with_kwargs=True))
        for part in PROJECTIONS:

            def keep(module, inputs, output, calls=seen[f"{name}.{part}"], padding=padding):
                # A copy: fairseq scales the queries in place.
                calls.append((output.clone(), padding[0]))

            handles.append(getattr(attention, part).register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def find_attentions(model: nn.Module, patterns: str, option: str) -> dict[str, MultiheadAttention]:
    """``find_modules`` for self-attentions alone; raises ConfigError if one is anything else."""
    found = find_modules(model, patterns, option)
    for name, module in found.items():
        if not isinstance(module, MultiheadAttention) or not module.self_attention:
            raise ConfigError(
                f"{option}: {name} is a {type(module).__name__}, expected a self-attention such as "
                "decoder.layers.-1.self_attn"
            )
    return found
