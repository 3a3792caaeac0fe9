"""Packed layers of a whole model: found, put in place, and told what computes them.

layers = {name: layer.description() for name, layer in packed_layers(model).items()}
state = model.state_dict()

rebuild_packed(fresh_model, layers)
fresh_model.load_state_dict(state)

``inference.packed_tensors`` packs a trained model's layers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cress_svcd.errors import CheckpointError
from cress_svcd.quantization.packed_linear import PackedLinear


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """The packed layers of ``model`` by their first names."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)
    }


def use_backend(model: nn.Module, backend: str | None) -> list[str]:
    """Let every packed layer of ``model`` compute with ``backend``; returns their names.

    So does any other module that has a ``use_backend``.

    Raises:
        ConfigError: see ``kernels.choose``.
    """
    for module in model.modules():
        choose = getattr(module, "use_backend", None)
        if choose is not None:
            choose(backend)
    return list(packed_layers(model))


def rebuild_packed(
    model: nn.Module,
    layers: Mapping[str, Mapping[str, Any]],
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
    device: torch.device | None = None,
) -> None:
    """Give a full-precision ``model`` packed layers in the place of its own, to load a state into.

    Args:
        layers: their names, and how each is made (``PackedLinear.description``).
        device: of the packed layers (default: of the layers that they replace).
    Raises:
        CheckpointError: the model has no linear layer of that name and size.
        ConfigError: a layer's method is not known here, or the back end cannot be used.
    """
    packed = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, data in layers.items():
        found = modules.get(name)
        sizes = data.get("out_features"), data.get("in_features")
        if not isinstance(found, nn.Linear) or (found.out_features, found.in_features) != sizes:
            what = "nothing" if found is None else repr(found)
            raise CheckpointError(
                f"packed layers: {name}: found {what} in the model, expected a linear layer of "
                f"{sizes[0]} x {sizes[1]}; build the model with the arch of the packed file first"
            )
        packed[name] = PackedLinear(
            **data, dtype=dtype, backend=backend, device=device or found.weight.device
        ).train(found.training)
    _replace(model, packed)


def _replace(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put ``layers`` in the place of the modules of these names, under all their names."""
    new = {id(model.get_submodule(name)): layer for name, layer in layers.items()}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in new:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, new[id(module)])
