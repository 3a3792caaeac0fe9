"""A model with packed layers, without a file between."""

from torch import nn

from cress_svcd.inference.packed_tensors import Precision, pack_tensors
from cress_svcd.quantization import quantization_map
from cress_svcd.quantization.packing import packed_layers, rebuild_packed


def pack_model(model: nn.Module, backend: str | None = None) -> list[str]:
    """Replace every quantised layer of ``model`` by what ``cress-svcd pack`` makes of it, in place.

    Args:
        backend: see ``kernels.choose``.
    Returns:
        The names of the layers, in the model's order.
    """
    tensors, description = pack_tensors(
        model.state_dict(), quantization_map(model), Precision("fp32")
    )
    rebuild_packed(model, description["layers"], backend=backend)
    layers = packed_layers(model)
    for name, layer in layers.items():
        prefix = f"{name}."
        layer.load_state_dict(
            {
                key.removeprefix(prefix): tensor
                for key, tensor in tensors.items()
                if key.startswith(prefix)
            }
        )
    return list(layers)
