"""Averages of the checkpoints of a training."""

import re
from pathlib import Path

import torch
from tqdm import tqdm

from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoint_files import read_mapped
from cress_svcd.models.checkpoints import read_checkpoint, require_unpacked, shorten
from cress_svcd.models.ties import tie_equal


def list_numbered(folder: Path, pattern: re.Pattern) -> list[Path]:
    """Numbered checkpoints of a folder, oldest first.

    Raises:
        CheckpointError: there are none.
    """
    try:
        files = list(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror})") from None
    found = [(int(match[1]), file) for file in files if (match := pattern.fullmatch(file.name))]
    if not found:
        example = re.sub(r"\(?\\d\+\)?", "7", pattern.pattern).replace("\\", "")
        others = sorted(file.name for file in folder.glob("*.pt"))
        raise CheckpointError(
            f"{folder}: no checkpoint named like {example} (found: "
            f"{shorten(others) or 'no .pt file'}); train without --no-epoch-checkpoints, or give "
            "--by update with --save-interval-updates"
        )
    return [file for _, file in sorted(found)]


def pick_last(files: list[Path], count: int, folder: Path) -> list[Path]:
    """The newest ``count``; raises CheckpointError if there are fewer."""
    if count > len(files):
        raise CheckpointError(
            f"{folder}: --last {count} asked for, but there are {len(files)} numbered checkpoints; "
            "keep more (--keep-last-epochs) or ask for fewer"
        )
    return files[-count:]


def pick_best(files: list[Path], count: int) -> list[Path]:
    """The ``count`` with the best validation metric, as the training itself compares them."""
    scored = []
    for file in tqdm(files, desc="reading metrics", unit="file", disable=None):
        state = read_checkpoint(file)
        value = (state.get("extra_state") or {}).get("val_loss")
        if value is None:
            raise CheckpointError(
                f"{file}: no validation metric in it: it was saved without validation before it; "
                "average the --last N, or name files"
            )
        maximize = state["cfg"]["checkpoint"]["maximize_best_checkpoint_metric"]
        scored.append((-value if maximize else value, file))
    if count > len(scored):
        raise CheckpointError(f"--best {count} asked for, but there are {len(scored)} checkpoints")
    return [file for _, file in sorted(scored, key=lambda pair: pair[0])[:count]]


def average(files: list[Path]) -> dict:
    """The newest file's checkpoint with the mean of all files' weights, without optimizer state.

    Sums are in double precision; integer buffers come from the last file.  Tied tables stay tied.

    Raises:
        CheckpointError: a file is damaged, or of another model than the first; before any is
            added up, as far as that shows.
    """
    check_one_model(files)
    total: dict[str, torch.Tensor] = {}
    for file in tqdm(files, desc="averaging", unit="file", disable=None):
        state = read_checkpoint(file)
        model = state["model"]
        for name, tensor in model.items():
            if tensor.is_floating_point():
                previous = total.get(name, 0.0)
                total[name] = previous + tensor.double()
            else:
                total[name] = tensor
    for name, tensor in total.items():
        if tensor.is_floating_point():
            total[name] = (tensor / len(files)).to(model[name].dtype)
    state["model"] = tie_equal(total)
    state.pop("last_optimizer_state", None)
    return state


def check_one_model(files: list[Path]) -> None:
    """Raise CheckpointError unless all files are checkpoints of one model; no tensor is read."""
    shapes: dict[str, torch.Size] = {}
    for file in files:
        state = read_mapped(file)
        require_unpacked(state, file)
        model = state.get("model")
        if not isinstance(model, dict) or not all(map(torch.is_tensor, model.values())):
            raise CheckpointError(f"{file}: no 'model' in it; expected a fairseq checkpoint")
        found = {name: tensor.shape for name, tensor in model.items()}
        shapes = shapes or found
        differing = [n for n in {*shapes, *found} if shapes.get(n) != found.get(n)]
        if differing:
            raise CheckpointError(
                f"{file}: another model than {files[0]}: {shorten(sorted(differing))} differ; "
                "average checkpoints of one training only"
            )
