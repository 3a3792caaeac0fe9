"""Fully sharded training: each process keeps a share of every parameter, of its gradient and of
the optimizer's state (torch's ``fully_shard``).

A Transformer layer is gathered whole while it runs, forward and backward; what is outside of the
layers (embeddings, convolutions) from the start of the forward to the end of the backward pass.
:mod:`sharded_trainer` offers this to fairseq.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(
    model: nn.Module,
    layers: tuple[type, ...],
    group: dist.ProcessGroup,
    device: torch.device,
    reshard: bool = True,
    reduce_dtype: torch.dtype | None = None,
) -> nn.Module:
    """Cut the parameters of ``model`` among the processes of ``group``, in place, onto ``device``.

    All processes must hold the same parameters.  The whole model is never on ``device`` at once.

    Args:
        layers: classes of the modules that are gathered one by one, as far as they share no
            parameter with others.
        reshard: drop gathered layers after the forward pass and gather them again for the backward.
        reduce_dtype: type in which gradients are summed; the parameters' own by default.
    Returns:
        ``model``.
    """
    mesh = DeviceMesh.from_group(group, device.type)
    # Attributes of parameters (the groups of quant_adam) do not reach their shares by themselves.
    attributes = {name: dict(vars(parameter)) for name, parameter in model.named_parameters()}
    options = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=reduce_dtype)}
    uses = _uses(model)
    for module in model.modules():
        # A parameter that others use as well would be torn from them.
        if isinstance(module, layers) and _uses(module).items() <= uses.items():
            fully_shard(module, reshard_after_forward=reshard, **options)
    fully_shard(model, reshard_after_forward=False, **options)
    for name, parameter in model.named_parameters():
        vars(parameter).update(attributes[name])
    model.layers_reshard = reshard
    for module in model.modules():
        module.register_load_state_dict_pre_hook(_place)
    return model


def _uses(module: nn.Module) -> Counter[int]:
    """How often each parameter, by its identity, occurs in ``module``."""
    return Counter(id(tensor) for _, tensor in module.named_parameters(remove_duplicate=False))


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` has cut it."""
    return isinstance(model, FSDPModule)


def here(parameters: Iterable[Tensor]) -> int:
    """Elements of ``parameters`` that this process keeps."""
    return sum(
        parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()
        for parameter in parameters
    )


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Keep all parameters gathered while the block runs, so that processes need not keep step.

    All processes must enter and leave together, after a first forward pass of the model.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(
                part is not model and model.layers_reshard, recurse=False
            )


def gather(state: Any, keep: bool) -> Any:
    """A copy of ``state``, nested dictionaries and lists, with whole tensors in place of shares.

    All processes must call it with states of the same form.

    Args:
        keep: return the whole tensors, on the CPU; otherwise None for each.
    """
    if isinstance(state, DTensor):
        tensor = state.detach().full_tensor()
        return tensor.cpu() if keep else None
    if isinstance(state, dict):
        return type(state)((key, gather(value, keep)) for key, value in state.items())
    if isinstance(state, (list, tuple)):
        return type(state)(gather(value, keep) for value in state)
    return state


def gather_model(model: nn.Module, state: dict[str, Any], keep: bool) -> dict[str, Any]:
    """:func:`gather` for the ``state_dict`` of ``model``: shared parameters stay one tensor."""
    first: dict[int, str] = {}
    same = {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    found = gather(
        {name: value for name, value in state.items() if same.get(name, name) == name}, keep
    )
    return {name: found[same.get(name, name)] for name in state}


def like(value: Any, parameter: Tensor) -> Any:
    """This process's share of the whole tensor ``value``, where ``parameter`` is a share of one of
    the same shape; otherwise ``value``."""
    if (
        not isinstance(parameter, DTensor)
        or not isinstance(value, Tensor)
        or isinstance(value, DTensor)
        or value.shape != parameter.shape
    ):
        return value
    with torch.no_grad():
        share = torch.empty_like(parameter, dtype=value.dtype)
        mesh, placements = parameter.device_mesh, parameter.placements
        # A copy: the share of a tensor that every process has keeps the whole one's memory.
        return share.copy_(distribute_tensor(value, mesh, placements, src_data_rank=None))


def _place(module: nn.Module, state: dict[str, Any], prefix: str, *_) -> None:
    """Before ``module`` loads ``state``: put shares in the place of whole tensors."""
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in state:
            state[prefix + name] = like(state[prefix + name], parameter)


def place_optimizer_state(state: dict, groups: list[dict]) -> dict:
    """An optimizer's ``state`` of whole tensors as that of the shares in its parameter ``groups``.

    All tensors of a parameter's shape are shared out; counters are left as they are.
    """
    names = itertools.chain(*(group["params"] for group in state["param_groups"]))
    parameters = itertools.chain(*(group["params"] for group in groups))
    placed = dict(state["state"])
    for name, parameter in zip(names, parameters):
        if name in placed:
            entry = placed[name]
            placed[name] = {key: like(value, parameter) for key, value in entry.items()}
    return {**state, "state": placed}


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Norm of the whole gradient, which is scaled down to ``max_norm`` (0: as it is) if longer."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    mesh = gradients[0].device_mesh
    local = [gradient.to_local() for gradient in gradients]
    norms = [torch.linalg.vector_norm(part, dtype=torch.float32) for part in local]
    square = torch.stack(norms).square().sum()
    dist.all_reduce(square, group=mesh.get_group())
    norm = square.sqrt()
    if max_norm > 0:
        torch._foreach_mul_(local, (max_norm / (norm + 1e-6)).clamp(max=1))
    return norm
