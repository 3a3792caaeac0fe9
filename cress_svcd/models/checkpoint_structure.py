"""What every reader of a checkpoint takes for granted, checked once when it has been read."""

import dataclasses
import re
import types
import typing
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cress_svcd.errors import CheckpointError

# More elements than a tensor has memory for: one number that stands for all, in real checkpoints
# at most for small buffers.
_MOST_REPEATED = 1_000_000
_TENSORS = ("model", "weights")
_SECTIONS = ("task", "model", "checkpoint")
# Options that say how large a model is; none may be larger than the whole of its tensors.
_SIZE = re.compile(r"(?:layers|dim|channels|heads)$")


def require_sound(state: Mapping[str, Any], path: Any) -> None:
    """Raise CheckpointError unless the parts of ``state``, read from ``path``, are of their types.

    Parts that are not there are for the reader to miss.  Tensors are plain ones in memory, or in
    the file, as large as they say.
    """
    for key in ("cfg", "extra_state", "task_state"):
        _require(path, key, state.get(key), (Mapping,))
    _require(path, "args", state.get("args"), (Namespace,))
    history = state.get("optimizer_history")
    _require(path, "optimizer_history", history, (list, tuple))
    for number, entry in enumerate(history or ()):
        _require(path, f"optimizer_history[{number}]", entry, (Mapping,))
    sections = state.get("cfg") or {}
    for name in _SECTIONS:
        if name in sections:
            _require(path, f"cfg.{name}", sections[name], (Mapping, Namespace))
    for key in _TENSORS:
        if isinstance(state.get(key), Mapping):
            _require_tensors(path, key, state[key])
    files = state.get("vocabulary")
    _require(path, "vocabulary", files, (Mapping,))
    for name, content in (files or {}).items():
        _require(path, f"vocabulary.{name!s:.80}", content, (Tensor,))
        if content is None or not isinstance(name, str) or content.dtype != torch.uint8:
            raise CheckpointError(
                f"{path}: vocabulary: {name!s:.80}: is no bytes of a file; it is damaged: copy it "
                "again"
            )
    if isinstance(state.get("model"), Mapping) and isinstance(sections.get("model"), Mapping):
        _require_size(path, sections["model"], state["model"])


def _require(path: Any, key: str, value: Any, kinds: tuple[type, ...]) -> None:
    if value is not None and not isinstance(value, kinds):
        expected = " or ".join("keys and values" if k is Mapping else k.__name__ for k in kinds)
        raise CheckpointError(
            f"{path}: its {key!r} is {_shown(value)}, expected {expected}: the file is damaged, or "
            "of another program; copy it again"
        )


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, Tensor) else f"{value!r:.60}"


def _require_tensors(path: Any, key: str, tensors: Mapping) -> None:
    for name, tensor in tensors.items():
        problem = "" if isinstance(name, str) else f"its name is {_shown(name)} and no text"
        if not isinstance(tensor, Tensor):
            problem = f"is {_shown(tensor)} and no tensor"
        elif tensor.layout != torch.strided or tensor.is_meta:
            problem = "is a sparse tensor, or one without values"
        elif tensor.is_complex():
            problem = "holds complex numbers"
        elif not has_values(tensor):
            size = tensor.numel() * tensor.element_size()
            problem = f"says that it has {size:,} bytes, for which the file has no values"
        if problem:
            raise CheckpointError(
                f"{path}: {key}: {name!s:.80}: {problem}; the file is damaged, or of another "
                "program: copy it again"
            )


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor is a plain one with about as much memory as it says."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    size = tensor.numel() * tensor.element_size()
    return size <= max(tensor.untyped_storage().nbytes(), _MOST_REPEATED)


def _require_size(path: Any, options: Mapping, tensors: Mapping[str, Tensor]) -> None:
    values = sum(tensor.numel() for tensor in tensors.values())
    for name, value in options.items():
        if not isinstance(value, int | float) or not _SIZE.search(str(name)):
            continue
        most = len(tensors) if str(name).endswith("layers") else max(values, 1024)
        if not -1 <= value <= max(most, 64):
            raise CheckpointError(
                f"{path}: cfg.model.{name} is {value!r:.40}, but the model in the file has "
                f"{len(tensors)} tensors of {values:,} numbers; the file is damaged: copy it again"
            )


def refuse_odd_options(options: Any, schema: type | None, path: Any) -> None:
    """Raise CheckpointError for the first of a model's ``options`` that has not the type which
    ``schema``, the dataclass of its arch, gives it."""
    if not isinstance(options, Mapping) or not dataclasses.is_dataclass(schema):
        return
    try:
        hints = typing.get_type_hints(schema)
    except (NameError, TypeError):
        return
    for name, value in options.items():
        if name in hints and not _fits(value, hints[name]):
            raise CheckpointError(
                f"{path}: cfg.model.{name} is {_shown(value)}, expected "
                f"{getattr(hints[name], '__name__', hints[name])}; the file is damaged: copy it "
                "again"
            )


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if isinstance(value, str) and value.startswith("${"):
        return True  # the value of another option
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    return True
