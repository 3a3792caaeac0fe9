"""Which kernel computes each kind of a model's layers: dispatch, asked for a whole model."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cress_svcd.inference.fused_layers import LayerProducts, products_of
from cress_svcd.kernels import backends, dispatch, explain

ROWS = (1, 8, 64, 1024)
FRAMES = 400  # of a convolution's input


def kernel_rows(model: nn.Module, rows: tuple[int, ...] = ROWS) -> list[dict[str, Any]]:
    """One dictionary for each kind of layer and number of rows, in the model's order.

    Keys: layer (the first of its kind), layers (how many), operation, shape, m (rows of the
    product, None for a convolution), kernel, when (its conditions), explanation (see
    ``kernels.explain``).
    """
    kinds: dict[tuple[Any, ...], list[str]] = {}
    examples: dict[tuple[Any, ...], Any] = {}
    for name, layer in _explained(model):
        kind = type(layer).__name__, _shape(layer), _deciding(layer)
        kinds.setdefault(kind, []).append(name)
        examples.setdefault(kind, layer)
    found = []
    for kind, names in kinds.items():
        for m, x in _inputs(examples[kind], rows):
            with torch.no_grad():
                operation, chosen = _chosen(examples[kind], x)
                explanation = explain(x, examples[kind])
            found.append(
                {
                    "layer": names[0],
                    "layers": len(names),
                    "operation": operation,
                    "shape": "x".join(map(str, kind[1])),
                    "m": m,
                    "kernel": chosen.name,
                    "when": chosen.when,
                    "explanation": explanation,
                }
            )
    return found


def _explained(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What ``kernels.explain`` takes, by name: layers, and those that are computed as a whole."""
    whole: str | None = None  # a module that computes what stands in it
    for name, module in model.named_modules():
        if whole is not None and name.startswith(f"{whole}."):
            continue
        products = products_of(module)
        if products is not None and products.blocks[0].norm.weight.is_cuda:
            yield name, products  # CUDA graphs run these; others call the modules, which follow
        if hasattr(module, "kernel_call"):
            yield name, module
            with torch.no_grad():
                ((_, x), *_) = _inputs(module, ROWS[:1])
                _, chosen = _chosen(module, x)
            whole = name if chosen.run is not None else None


def _chosen(layer: Any, x: torch.Tensor) -> tuple[str, dispatch.Implementation]:
    operation, deciding = layer.kernel_call(x)
    return operation, dispatch.implementation(operation, *deciding)


def _shape(module: Any) -> tuple[int, ...]:
    if isinstance(module, LayerProducts):
        return (module.channels,)
    shape = getattr(module, "shape", None)  # of a convolution: out, channels of a group, kernel
    return tuple(shape) if shape else (module.out_features, module.in_features)


def _deciding(module: Any) -> tuple[Any, ...]:
    """What the dispatch table sees of a layer, its input aside: sizes and types, numbers of bits.

    Layers that differ in it are of two kinds, even of equal shape: others may compute them.
    """
    ((_, x), *_) = _inputs(module, ROWS[:1])
    _, (_, *deciding) = module.kernel_call(x)
    return tuple(
        (value.dtype, value.shape) if isinstance(value, torch.Tensor) else value
        for value in deciding
    )


def _inputs(module: Any, rows: tuple[int, ...]) -> list[tuple[int | None, torch.Tensor]]:
    """Inputs that the dispatch table is asked about, with their numbers of rows."""
    if isinstance(module, LayerProducts):
        return [(None, module.blocks[0].norm.weight)]
    held = [*module.parameters(), *module.buffers()]
    like = {"device": held[0].device, "dtype": torch.float32}
    if held[0].is_cuda:
        like["dtype"] = next((t.dtype for t in held if t.is_floating_point()), torch.float32)
    if hasattr(module, "shape"):
        return [(None, torch.zeros(1, module.channels, FRAMES, **like))]
    return [(m, torch.zeros(m, module.in_features, **like)) for m in rows]


def format_kernels(rows: list[dict[str, Any]]) -> str:
    """The table for people, equal neighbours in one line."""
    merged: list[dict[str, Any]] = []
    for row in rows:
        last = merged[-1] if merged else None
        if last and (last["layer"], last["shape"], last["kernel"]) == (
            row["layer"],
            row["shape"],
            row["kernel"],
        ):
            last["last_m"] = row["m"]
        else:
            merged.append({**row, "last_m": row["m"]})
    names = [
        row["layer"] + (f" and {row['layers'] - 1} more" if row["layers"] > 1 else "")
        for row in merged
    ]
    width = max(map(len, ["layers", *names])) + 2
    lines = [f"{'layers':<{width}}{'operation':<12}{'out x in':>14}{'M':>12}  kernel"]
    for name, row in zip(names, merged, strict=True):
        m = "" if row["m"] is None else str(row["m"])
        if row["last_m"] != row["m"]:
            m += f"–{row['last_m']}"
        lines.append(
            f"{name:<{width}}{row['operation']:<12}{row['shape']:>14}{m:>12}  {row['kernel']}: "
            f"{row['when']}"
        )
    available = [f"{backend.name}: {backend.detail}" for backend in backends().values()]
    return "\n".join([*lines, "", "back ends here:", *(f"  {line}" for line in available)]) + "\n"
