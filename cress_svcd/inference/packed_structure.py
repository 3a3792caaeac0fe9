"""What every reader of a packed file takes for granted, checked once when it has been read.

``checkpoint_structure`` has checked what all checkpoints have in common.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cress_svcd.errors import CheckpointError
from cress_svcd.inference.low_bits import require_described
from cress_svcd.kernels.packed_layout import row_bytes

_REMEDY = "the file is damaged, or of another program: copy it again, or pack the checkpoint again"
_TYPES = ("float32", "float16", "bfloat16", "int8")  # of a convolution
_MOST_PLANES = 8


def read_description(text: Any) -> dict[str, Any]:
    """The description in a packed model's options (``packed_tensors.pack_tensors``).

    Raises:
        CheckpointError: it is none; the message says what in it is wrong.
    """
    try:
        description = json.loads(text)
        missing = {"layers", "tables", "convolutions", "dtype"} - description.keys()
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"packed model: its description cannot be read ({error})") from None
    if missing:
        raise CheckpointError(f"packed model: its description lacks {', '.join(sorted(missing))}")
    for part, kind, is_sound, expected in _PARTS:
        if not isinstance(description[part], kind):
            _refuse(f"{part}: is {_shown(description[part])}, expected {expected}")
        items = description[part]
        for name, item in items.items() if isinstance(items, dict) else enumerate(items):
            if not is_sound(item):
                _refuse(f"{part}: {name!s:.80}: is {_shown(item)}, expected {expected}")
    require_described(description.get("low_bits", {}))
    known = {*description["tables"], *description["convolutions"]}
    for name in description.get("low_bits", {}):
        if name not in known:
            _refuse(f"low_bits: {name:.80}: is no table and no convolution of it")
    return description


def _refuse(problem: str) -> None:
    raise CheckpointError(f"packed model: the description's {problem}; {_REMEDY}")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_layer(how: Any) -> bool:
    return (
        isinstance(how, dict)
        and how.keys() == {"in_features", "out_features", "bias", "spec", "planes"}
        and all(_is_size(how[key]) for key in ("in_features", "out_features", "planes"))
        and how["planes"] <= _MOST_PLANES
        and isinstance(how["bias"], bool)
        and isinstance(how["spec"], dict)
    )


def _is_convolution(how: Any) -> bool:
    return (
        isinstance(how, dict)
        and {"dtype", "compute", "weight_norm"} <= how.keys()
        and how["dtype"] in _TYPES
        and how["compute"] in (None, "bfloat16")
        and (how["weight_norm"] is None or how["weight_norm"] in (0, 1, 2))
    )


# Part of a description, its type, what each entry must be, and that in words.
_PARTS: list[tuple[str, type, Callable[[Any], bool], str]] = [
    ("layers", dict, _is_layer, "in_features, out_features, bias, spec and planes of each layer"),
    ("tables", list, lambda name: isinstance(name, str), "names of modules"),
    ("convolutions", dict, _is_convolution, "dtype, compute and weight_norm of each convolution"),
    ("dtype", str, lambda letter: True, "a type"),
]


def require_packed(state: Mapping[str, Any], path: Any) -> None:
    """Raise CheckpointError unless ``state``, read from ``path``, has the parts of a packed file.

    It must be ``require_sound``.  The tensors are those that the description names, of the
    sizes that it gives.
    """
    for key in ("cfg", "model", "task_state"):
        _require(path, key, state.get(key), Mapping, "keys and values")
    for section in ("task", "model"):
        options = state["cfg"].get(section)
        _require(path, f"cfg.{section}", options, Mapping, "keys and values")
        _require(path, f"cfg.{section}._name", options.get("_name"), str, "a name")
    text = state["cfg"]["model"].get("packed")
    _require(path, "cfg.model.packed", text, str, "the description of its tensors")
    try:
        _require_tensors(state["model"], read_description(text))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _require(path: Any, key: str, value: Any, kind: type, expected: str) -> None:
    if not isinstance(value, kind):
        raise CheckpointError(
            f"{path}: its {key!r} is {_shown(value)}, expected {expected}: {_REMEDY}"
        )


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.60}"


def _require_tensors(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    for name, how in description["layers"].items():
        rows = how["planes"] * how["out_features"]
        signs = (rows, row_bytes(how["in_features"]))
        _require_tensor(tensors, f"{name}.signs", (torch.uint8,), signs)
        _require_tensor(tensors, f"{name}.h", None, (how["out_features"],))
    low_bits = description.get("low_bits", {})
    for name, how in description["convolutions"].items():
        kinds = (torch.uint8 if name in low_bits else getattr(torch, how["dtype"]),)
        _require_rows(tensors, name, kinds, how["dtype"] == "int8")
    for name in description["tables"]:
        _require_rows(tensors, name, (torch.uint8 if name in low_bits else torch.int8,), True)


def _require_rows(
    tensors: Mapping[str, Tensor], name: str, types: tuple[torch.dtype, ...], scaled: bool
) -> None:
    weight = _require_tensor(tensors, f"{name}.weight", types, None)
    if scaled:
        _require_tensor(tensors, f"{name}.scale", None, tuple(weight.shape[:1]))


def _require_tensor(
    tensors: Mapping[str, Tensor],
    key: str,
    types: tuple[torch.dtype, ...] | None,
    shape: tuple[int, ...] | None,
) -> Tensor:
    """The tensor ``key``; of any floating type where ``types`` is None."""
    found = tensors.get(key)
    fits = found is not None and (
        (found.dtype in types if types else found.is_floating_point())
        and (tuple(found.shape) == shape if shape is not None else found.dim() > 1)
    )
    if found is None or not fits:
        what = "missing" if found is None else f"{found.dtype} of {tuple(found.shape)}"
        kind = " or ".join(map(str, types)) if types else "a floating type"
        size = f" of {shape}" if shape is not None else ""
        raise CheckpointError(f"model: {key:.80}: is {what}, expected {kind}{size}; {_REMEDY}")
    return found
