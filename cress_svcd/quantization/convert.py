"""Replacing a model's layers by quantised ones, and finding them again."""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.low_bit_modules import LOW_BIT_MODULES
from cress_svcd.quantization.policy import LayerSpec, Policy


@dataclasses.dataclass(frozen=True)
class Replacement:
    """What became of one layer.

    Attributes:
        name: its first name in the model.
        aliases: further names of the same module.
        was: type of the layer that was replaced.
        method, weight_bits, activation_bits: of the layer that stands there now.
    """

    name: str
    aliases: tuple[str, ...]
    was: str
    method: str
    weight_bits: float
    activation_bits: int | None


def apply_policy(
    model: nn.Module, policy: Policy, types: tuple[type[nn.Linear], ...] = (nn.Linear,)
) -> list[Replacement]:
    """Quantise in place the layers of ``model`` that ``policy`` names; trained weights are kept.

    A module with several names is replaced once, under all of them.  A weight that another module
    holds as well, as an embedding does that of a tied output projection, is copied: the sign
    weights say what the layer computes and the embedding what it looks up, in training, packed and
    unpacked.
    Nothing changes if the policy does not fit.

    Args:
        types: the exact types that may be replaced.

    Returns:
        One entry a layer, in the model's order.

    Raises:
        ConfigError: see ``Policy.resolve``.
    """
    return _replace(model, policy.resolve(model, types))


def quantized_layers(model: nn.Module) -> dict[str, QuantLinear]:
    """The quantised layers of ``model`` by their first names."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, QuantLinear)
    }


def quantization_map(model: nn.Module) -> dict[str, dict[str, Any]]:
    """How each quantised layer is made: plain data from which ``rebuild`` makes it again.

    All settings are spelt out, so that a checkpoint does not depend on later defaults.
    """
    return {
        name: LayerSpec(layer.METHOD, layer.settings()).to_dict()
        for name, layer in quantized_layers(model).items()
    }


def rebuild(model: nn.Module, layers: Mapping[str, Mapping[str, Any]]) -> list[Replacement]:
    """Give a full-precision ``model`` the quantised layers of a ``quantization_map``, in place.

    The state of a saved model can then be loaded.

    Raises:
        CheckpointError: the model has no such layer, or it is no plain linear one.
        ConfigError: a layer's settings are not known here.
    """
    specs = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, data in layers.items():
        found = modules.get(name)
        if not isinstance(found, nn.Linear) or isinstance(found, QuantLinear):
            what = "nothing" if found is None else f"a {type(found).__name__}"
            raise CheckpointError(
                f"quantization map: {name}: found {what} in the model, expected a linear layer; "
                "build the model with the arch and sizes of the checkpoint first"
            )
        specs[name] = LayerSpec.from_dict(data, f"quantization map: {name}")
    return _replace(model, specs)


def require_same_map(
    saved: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise ConfigError unless both maps make the same layers, as when resuming a training.

    The message lists up to three differences.
    """
    if differences := map_differences(saved, current):
        raise ConfigError(
            "policy: it differs from the one that the checkpoint was trained under: "
            f"{differences}.  Resume with the same policy, or start another training from it: "
            "--finetuned-st-model, and another --save-dir"
        )


def map_differences(
    saved: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]]
) -> str:
    """In which layers both maps differ, up to three of them in words; empty where in none."""
    differences = [
        f"{name} was {_describe(saved.get(name))}, is {_describe(current.get(name))}"
        for name in dict.fromkeys([*saved, *current])
        if not _same_layer(saved.get(name), current.get(name))
    ]
    more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more


def _same_layer(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return LayerSpec.from_dict(one).same_as(LayerSpec.from_dict(other))


def _describe(data: Mapping[str, Any] | None) -> str:
    return "full precision" if data is None else str(dict(data))


def _replace(model: nn.Module, specs: Mapping[str, LayerSpec]) -> list[Replacement]:
    """Quantise the layers of these names; their weights become their own, see ``_untie``."""
    aliases: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        aliases.setdefault(id(module), []).append(name)
    replacements = []
    for name, spec in specs.items():
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)  # the policy names no other layers
        new = spec.quantize(old)
        names = aliases[id(old)]
        for alias in names:
            parent, _, attribute = alias.rpartition(".")
            setattr(model.get_submodule(parent), attribute, new)
        replacements.append(
            Replacement(
                name,
                tuple(other for other in names if other != name),
                type(old).__name__,
                new.METHOD,
                new.weight_bits,
                new.activation_bits,
            )
        )
    _untie(model, specs)
    return replacements


def _untie(model: nn.Module, names: Iterable[str]) -> None:
    """Copy the weight of each of these layers that another module of ``model`` holds as well.

    A packed file has the sign planes of a layer but no latent weight, and unpacking makes another
    one of them: written under a tie it would replace the embedding.
    """
    holders = collections.Counter(
        id(parameter) for module in model.modules() for parameter in module._parameters.values()
    )
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        weight = layer.weight
        if holders[id(weight)] > 1:
            holders[id(weight)] -= 1
            layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)


@contextlib.contextmanager
def quantized_meanwhile(model: nn.Module, specs: Mapping[str, LayerSpec]) -> Iterator[None]:
    """Quantise the named full-precision layers of ``model`` while the block runs."""
    layers = {name: model.get_submodule(name) for name in specs}
    places = {
        alias: layers[name]
        for name, module in layers.items()
        for alias, other in model.named_modules(remove_duplicate=False)
        if other is module
    }
    _replace(model, specs)
    try:
        yield
    finally:
        for alias, layer in places.items():
            parent, _, attribute = alias.rpartition(".")
            setattr(model.get_submodule(parent), attribute, layer)


@contextlib.contextmanager
def count_calls(model: nn.Module) -> Iterator[dict[str, int]]:
    """Count the forward calls of every quantised layer while the block runs.

    Yields a dictionary of counts by name, 0 from the start: a layer whose weight is read by other
    code instead of being called stays at 0.
    """
    calls = dict.fromkeys(quantized_layers(model), 0)

    def counter(name: str) -> Callable[..., None]:
        def count(module: nn.Module, inputs: Any) -> None:
            calls[name] += 1

        return count

    handles = [
        layer.register_forward_pre_hook(counter(name))
        for name, layer in quantized_layers(model).items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def parameters_by_kind(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of ``model``, each once, under "latent", "vectors" or "other".

    "latent" are the weights of quantised layers and of modules of few bits, "vectors" their scales
    (g, h, steps and norms) and "other" all else, the layers' biases included.
    """
    kinds: dict[int, str] = {}
    for layer in quantized_layers(model).values():
        kinds[id(layer.weight)] = "latent"
        kinds |= {id(scale): "vectors" for scale in layer.scale_parameters().values()}
    for module in model.modules():
        if isinstance(module, LOW_BIT_MODULES):
            kinds |= dict.fromkeys(map(id, module.latent_parameters()), "latent")
            kinds[id(module.log2_step)] = "vectors"
    result: dict[str, list[nn.Parameter]] = {"latent": [], "vectors": [], "other": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            result[kinds.get(id(parameter), "other")].append(parameter)
    return result


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    vector_lr: float | None = None,
    latent_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer: latent weights, scales (never decayed) and all else.

    Decay would pull the scales g and h of a layer to zero; its latent weights only decide signs.

    Args:
        lr, weight_decay: of the rest.
        vector_lr, latent_lr: those of scales and latent weights where they differ from ``lr``.

    Returns:
        Dictionaries with name, params, lr and weight_decay; empty groups are left out.
    """
    rates = {"latent": latent_lr, "vectors": vector_lr, "other": None}
    return [
        {
            "name": kind,
            "params": parameters,
            "lr": lr if rates[kind] is None else rates[kind],
            "weight_decay": 0.0 if kind == "vectors" else weight_decay,
        }
        for kind, parameters in parameters_by_kind(model).items()
        if parameters
    ]
