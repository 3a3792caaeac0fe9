"""Reading pretrained checkpoints and saying what was taken from them."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoint_files import explained, is_packed, read_mapped, read_other_format
from cress_svcd.models.checkpoint_structure import require_sound

logger = logging.getLogger(__name__)


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint file onto the CPU without executing anything that is in it.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain data.
    """
    with explained(path):
        state = read_other_format(path)
        if state is None:
            state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: holds a {type(state).__name__}, expected the dictionary of a checkpoint"
        )
    require_unpacked(state, path)
    require_sound(state, path)
    return state


def require_unpacked(state: Any, path: str | os.PathLike) -> None:
    """Raise CheckpointError if ``state``, read from ``path``, is a packed model."""
    if is_packed(state):
        raise CheckpointError(
            f"{path}: is a packed model, which translates only; 'cress-svcd unpack' makes a "
            "checkpoint of it, or give the checkpoint that was packed"
        )


def model_options(path: str | os.PathLike) -> dict[str, Any]:
    """The model's options in a checkpoint of fairseq-train; its tensors are not read.

    Raises:
        CheckpointError: the file is missing, damaged, or another kind of checkpoint.
    """
    return options_in(read_mapped(path), path)


def option_of(options: Any, name: str) -> Any:
    """One of the ``options`` of a model, of ours or of a checkpoint; None where older ones lack
    it."""
    if isinstance(options, Mapping):
        return options.get(name)
    return getattr(options, name, None)


def options_in(state: Any, path: str | os.PathLike) -> dict[str, Any]:
    """The model's options in ``state``, a checkpoint of fairseq-train that was read from ``path``.

    Raises:
        CheckpointError: it is another kind of checkpoint.
    """
    require_unpacked(state, path)
    options = state.get("cfg") if isinstance(state, dict) else None
    options = options.get("model") if isinstance(options, dict) else None
    if not isinstance(options, dict) or not isinstance(state.get("model"), dict):
        raise CheckpointError(
            f"{path}: holds no 'model' with its options ('cfg.model'); expected a checkpoint of "
            "fairseq-train"
        )
    return options


def require_dictionary(state: Mapping, path: str | os.PathLike, dictionary_digest: str) -> None:
    """Raise CheckpointError if the checkpoint was trained with another dictionary.

    Args:
        state: the checkpoint; one that does not tell its dictionary is let through.
        path: its file, for the message.
        dictionary_digest: of the dictionary of the task's data.
    """
    digest = (state.get("task_state") or {}).get("dictionary_digest", dictionary_digest)
    if digest != dictionary_digest:
        raise CheckpointError(
            f"{path}: it was trained with another dictionary than this data's; prepare the data "
            "with that model's (prepare-mustc --spm-model … --dictionary …), or train the "
            "model on this data"
        )


@dataclasses.dataclass
class TransferReport:
    """What became of a checkpoint's tensors when they were offered to a module."""

    taken: list[str]
    missing: list[str]
    unused: list[str]
    mismatched: list[str]

    def log(self, title: str) -> None:
        logger.info(
            "%s: %d tensors taken, %d of the model's not in the file, %d of the file's not used",
            title,
            len(self.taken),
            len(self.missing),
            len(self.unused),
        )
        for what, names in (("not in the file", self.missing), ("not used", self.unused)):
            if names:
                logger.info("%s: %s: %s", title, what, shorten(names))


def shorten(names: list[str], most: int = 8) -> str:
    """The names as one line, the tail of a long list counted only."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def transfer(
    module: nn.Module, state: Mapping[str, torch.Tensor], source: str | os.PathLike
) -> TransferReport:
    """Copy the tensors of ``state`` into ``module`` by name.

    Args:
        module: receives the tensors.
        state: name → tensor, names as in ``module.state_dict()``.
        source: the file they come from, for messages.

    Raises:
        CheckpointError: a tensor has the right name and another shape; nothing is copied then.
    """
    own = module.state_dict()
    report = TransferReport([], [], [], [])
    for name, tensor in state.items():
        if name not in own:
            report.unused.append(name)
        elif own[name].shape != tensor.shape:
            report.mismatched.append(
                f"{name}: file {tuple(tensor.shape)}, model {tuple(own[name].shape)}"
            )
        else:
            report.taken.append(name)
    report.missing = [name for name in own if name not in state]
    if report.mismatched:
        raise CheckpointError(
            f"{source}: {len(report.mismatched)} tensors have another shape than the model's: "
            f"{shorten(report.mismatched, 4)}. Give the model the dimensions of the checkpoint "
            "(--encoder-embed-dim, --encoder-layers, … or the same vocabulary)."
        )
    # Not load_state_dict: fairseq's takes a partial state without version numbers for one of an
    # old release, and removes the encoder's final layer norm.
    with torch.no_grad():
        for name in report.taken:
            own[name].copy_(state[name])
    return report
