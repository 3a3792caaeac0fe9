"""Reading checkpoint files safely, with errors that name the file and the reason."""

import contextlib
import os
import pickle
import re
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from cress_svcd.errors import CheckpointError, CressError
from cress_svcd.models.checkpoint_structure import refuse_odd_options, require_sound

PACKED_HEADER = "packed"  # the key of a packed model's file that no other checkpoint has


def is_packed(state: Any) -> bool:
    """Whether what torch.load returned is a packed model, of any version, sound or not."""
    return isinstance(state, dict) and PACKED_HEADER in state


_checks: list[Callable[[str], None]] = []


def check_before_reading(check: Callable[[str], None]) -> None:
    """Have fairseq call ``check`` with the path of every checkpoint that it is about to read."""
    _checks.append(check)


def run_checks(path: str) -> None:
    """Call what ``check_before_reading`` was given."""
    for check in _checks:
        check(path)


_readers: list[tuple[Callable[[Any], bool], Callable[[Any], dict]]] = []


def register_reader(is_mine: Callable[[Any], bool], read: Callable[[Any], dict]) -> None:
    """Have checkpoints of another format than torch's read by ``read`` where ``is_mine``, of the
    path."""
    _readers.append((is_mine, read))


def read_other_format(path) -> dict | None:
    """The checkpoint at ``path`` if it is of a registered format, else None."""
    return next((read(path) for is_mine, read in _readers if is_mine(path)), None)


# What readers raise at bytes that are no checkpoint, or at one without what it should hold.
UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)


def refused_part(message: str) -> str:
    """What torch refused to unpickle, without its advice to allow it all the same.

    ``…WeightsUnpickler error: Unsupported global: GLOBAL os.system was not an allowed…`` →
    ``os.system``.
    """
    reason = message.split("WeightsUnpickler error:")[-1].strip()
    named = re.search(r"GLOBAL (\S+)", reason) or re.search(r"\bgot (<class .*?>)", reason)
    if named:
        return named[1][:200]  # of a damaged file it may be a page of one letter
    (first, *_) = reason.splitlines() or ["no details"]
    return "objects of its own" if "safe_globals" in first or "weights_only" in first else first


class explained:
    """Context in which a failure to read the checkpoint at ``path`` becomes a clear error."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None or not issubclass(kind, Exception) or issubclass(kind, CressError):
            return False
        if issubclass(kind, pickle.UnpicklingError):
            raise CheckpointError(
                f"{self.path}: refused: it holds more than tensors and plain data, or is not a "
                f"checkpoint ({refused_part(str(error))}). Nothing in it was executed. Ask for a "
                "checkpoint as fairseq saves it."
            ) from None
        nowhere = issubclass(kind, FileNotFoundError | IsADirectoryError)
        if nowhere and not os.path.isfile(self.path):
            found = "is a folder" if os.path.isdir(self.path) else "does not exist"
            raise CheckpointError(
                f"{self.path}: {found}; expected a checkpoint, a file written by fairseq-train or "
                "by one of our commands: check the path"
            ) from None
        # Damaged bytes make torch raise what it will: struct.error, OverflowError, zlib.error, …
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{self.path}: cannot be read as a checkpoint "
            f"({kind.__name__}: {reason[0] if reason else 'no details'}). It is "
            "truncated or of another kind: expected a file written by fairseq-train or by "
            "one of our commands."
        ) from error


def with_options_of_today(state: dict) -> dict:
    """A checkpoint, in whose configuration options have the values that they may have now.

    ``--graph-training`` was a switch before it was a choice.
    """
    task = (state.get("cfg") or {}).get("task") or {}
    wish = task.get("graph_training")
    if isinstance(wish, bool):
        task["graph_training"] = "on" if wish else "off"
    return state


@contextlib.contextmanager
def explained_model(*paths, task=None) -> Iterator[None]:
    """Context in which a failure to build the model of the checkpoints at ``paths`` names them.

    Args:
        task: fairseq's, which builds the model: a checkpoint of another one is reported as such.
    """
    names = ", ".join(map(str, paths))
    try:
        yield
    except CressError as error:
        if str(error).startswith(names):
            raise
        raise type(error)(f"{names}: {error}") from None
    except (*UNREADABLE, AssertionError) as error:
        _refuse_other_task(paths, task, error)
        _refuse_odd_options(paths)
        if isinstance(error, (AttributeError, TypeError)):
            raise  # a bug of ours
        reason = textwrap.shorten(str(error), 500, placeholder=" …")
        raise CheckpointError(
            f"{names}: the model in it cannot be built ({type(error).__name__}: {reason}). "
            "Expected a checkpoint of one of our archs, written by this version of the code"
        ) from error


def _refuse_other_task(paths: tuple, task, error: Exception) -> None:
    """Raise CheckpointError for the first of ``paths`` that is of another task than ``task``."""
    expected = getattr(getattr(task, "cfg", None), "_name", None)
    for path in filter(os.path.isfile, paths if expected else ()):
        found, arch = task_and_arch(path)
        if found not in (None, expected):
            raise CheckpointError(
                f"{path}: is a checkpoint of the task {found} (arch {arch}); expected one of the "
                f"task {expected}, as fairseq-train saves it: give that to --path"
            ) from error


def _refuse_odd_options(paths: tuple) -> None:
    """Raise CheckpointError for the first of ``paths`` with an option that its arch cannot take."""
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    for path in filter(os.path.isfile, paths):
        options = (read_mapped(path).get("cfg") or {}).get("model") or {}
        name = options.get("_name") if isinstance(options, Mapping) else None
        if isinstance(name, str):
            refuse_odd_options(options, MODEL_DATACLASS_REGISTRY.get(name), path)


def task_and_arch(path) -> tuple[str | None, str | None]:
    """Names of task and arch in the checkpoint at ``path``, None where it does not say them.

    Raises CheckpointError if it cannot be read.
    """
    state = read_mapped(path)
    cfg, args = state.get("cfg"), state.get("args")
    if args is not None:
        return getattr(args, "task", None), getattr(args, "arch", None)
    task, model = ((cfg or {}).get(section) or {} for section in ("task", "model"))
    return task.get("_name"), model.get("_name")


def read_mapped(path) -> dict:
    """The checkpoint at ``path``, its tensors left on disk until they are used.

    Raises CheckpointError if it cannot be read.
    """
    other = read_other_format(path)
    if other is not None:
        return other
    with explained(path):
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        require_sound(state, path)
        return state


def refuse_other_model(path, model: torch.nn.Module) -> None:
    """Raise CheckpointError if the tensors of the checkpoint at ``path`` are not ``model``'s."""
    saved, own = read_mapped(path).get("model") or {}, model.state_dict()
    differing = [
        f"{name}: file {_shape(saved, name)}, model {_shape(own, name)}"
        for name in {**own, **saved}
        if _shape(saved, name) != _shape(own, name)
    ]
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        _, arch = task_and_arch(path)
        raise CheckpointError(
            f"{path}: cannot be resumed: the checkpoint (arch {arch}) is of another model than the "
            f"options describe: {'; '.join(differing[:4])}{more}. Give another --save-dir, or the "
            "arch and the dimensions of the checkpoint (--arch, --encoder-layers, "
            "--encoder-embed-dim, …)"
        ) from None


def _shape(tensors: dict, name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "has none"
