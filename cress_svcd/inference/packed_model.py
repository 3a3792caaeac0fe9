"""The model that runs on packed tensors, made without ever holding its full size in memory."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fairseq.modules import SinusoidalPositionalEmbedding
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cress_svcd.errors import CheckpointError
from cress_svcd.inference.install import install
from cress_svcd.inference.int8_modules import CompactConv1d, Int8Embedding, Int8Projection, constant
from cress_svcd.models.attention import call_quantized_projections
from cress_svcd.quantization.packing import rebuild_packed


class _Shapes(TorchFunctionMode):
    """Context in which modules are made without memory for their parameters.

    Unlike a meta device it leaves alone what is computed from numbers, such as positions.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            kwargs["device"] = "meta"
        # Initial values: fairseq has those of HuBERT made on the CPU and copied.  Normal ones, and
        # norms, would import torch's compiler, which takes 80 MB.
        initialises = getattr(function, "__module__", "") == nn.init.__name__
        if initialises or function in (Tensor.cpu, Tensor.normal_):
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        if function is torch.norm_except_dim and args[0].is_meta:  # of a weight normalisation
            weight, _, dimension = args
            return weight.new_empty(
                [size if number == dimension else 1 for number, size in enumerate(weight.shape)]
            )
        if function is torch._weight_norm and args[0].is_meta:
            return args[0].detach()
        return function(*args, **kwargs)


def build_packed(
    build: Callable[[], nn.Module], description: Mapping[str, Any], backend: str | None = None
) -> nn.Module:
    """The model that ``build`` makes, ready for the packed tensors.

    Args:
        build: makes the full-precision model; its initial weights are never computed.
        description: see ``pack_tensors``.
        backend: of the packed layers and the convolutions.
    Raises:
        CheckpointError: the model is not the one that was packed.
    """
    with _Shapes():
        model = build()
    rebuild_packed(model, description["layers"], backend=backend, device=torch.device("cpu"))
    _replace_convolutions(model, description["convolutions"], backend)
    _replace_tables(model, description["tables"])
    _give_memory(model)
    _share_positions(model)
    call_quantized_projections(model)
    install(model)
    return model.requires_grad_(False)


def _replace_convolutions(
    model: nn.Module, convolutions: Mapping[str, Mapping], backend: str | None
) -> None:
    for name, how in convolutions.items():
        found = _find(model, name, nn.Conv1d)
        compute = how["compute"] and getattr(torch, how["compute"])
        keep = ".feature_extractor." in name  # one convolution follows another there
        dtype = getattr(torch, how["dtype"])
        _put(model, name, CompactConv1d(found, dtype, compute, keep, backend))


def _replace_tables(model: nn.Module, names: list[str]) -> None:
    """int8 modules for the tables of these names, tied as they were."""
    kinds = {name: _find(model, name, (nn.Embedding, nn.Linear)) for name in names}
    shared: dict[int, tuple[Tensor, Tensor]] = {}
    made: dict[int, nn.Module] = {}
    for name, old in kinds.items():
        if id(old.weight) not in shared:
            q = torch.empty(old.weight.shape, dtype=torch.int8)
            shared[id(old.weight)] = constant(q), constant(torch.empty(len(q)))
        if id(old) not in made:
            kind = Int8Embedding if isinstance(old, nn.Embedding) else Int8Projection
            made[id(old)] = kind(old, *shared[id(old.weight)])
        _put(model, name, made[id(old)])


def _find(model: nn.Module, name: str, kind: type | tuple[type, ...]) -> nn.Module:
    found = dict(model.named_modules(remove_duplicate=False)).get(name)
    if not isinstance(found, kind):
        raise CheckpointError(
            f"packed model: {name}: found {type(found).__name__ if found else 'nothing'} in the "
            "model that its options make; this program's model is another than the packer's"
        )
    return found


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def _give_memory(model: nn.Module) -> None:
    """Uninitialised memory for the parameters and buffers that have none, tied as they were."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in made:
                    # Not empty_like, for which torch would import its compiler and sympy: 40 MB.
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(empty) if is_parameter else empty
                held[name] = made[id(tensor)]


def _share_positions(model: nn.Module) -> None:
    """One table for the computed positions of encoder and decoder, where they are equal."""
    made: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, SinusoidalPositionalEmbedding):
            equal = (table for table in made if torch.equal(table, module.weights))
            module.weights = next(equal, module.weights)
            made.append(module.weights)
