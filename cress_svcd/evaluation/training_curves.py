"""Curves of trainings out of fairseq's logs."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cress_svcd.atomic_files import read_text
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.plots import figure, plain_numbers

Row = dict[str, float]

# As fairseq-train and fairseq-hydra-train write it; the tag is train_inner, train (of an epoch) or
# the name of a validation split, which then begins the names of its numbers.
ENTRY = re.compile(r"(?:\| ([\w.-]+) \||\[([\w.-]+)\]\[INFO\] -) (\{.*\})\s*$")
TRAINING, EPOCH = "train_inner", "train"
# A training says first where its checkpoint would be, then whether it is there.
CHECKPOINT = re.compile(r"Preparing to load checkpoint (.+?)\s*$")
FRESH = "No existing checkpoint found"
OVERFLOW = "gradient overflow detected"
STOPPED = "Minimum loss scale reached"
LOGARITHMIC = ("gnorm", "loss_scale")
AXES = {
    "loss": "loss (bits)",
    "gnorm": "gradient norm",
    "loss_scale": "loss scale (fp16)",
    "overflows": "batches left out so far (fp16)",
    "lr": "learning rate",
    "bleu": "BLEU",
}


@dataclass
class Curve:
    """What a training logged, as numbers.

    entries: num_updates, overflows until then, and all that was logged.
    validation: the same of each split that was validated on.
    stopped: whether the loss scaler ended the training.
    """

    name: str
    checkpoint: str = ""
    entries: list[Row] = field(default_factory=list)
    validation: dict[str, list[Row]] = field(default_factory=dict)
    overflows: int = 0
    stopped: bool = False

    def add(self, tag: str, numbers: Row) -> None:
        """A line of the log.

        A training that was resumed counts from its checkpoint on: what came after that is replaced.
        """
        if tag == TRAINING:
            row = {"overflows": float(self.overflows), **numbers}
            if _cut(self.entries, row["num_updates"]):
                for rows in self.validation.values():
                    _cut(rows, row["num_updates"])
            self.entries.append(row)
            return
        start = f"{tag}_"
        row = {key.removeprefix(start): n for key, n in numbers.items() if key.startswith(start)}
        if math.isfinite(row.get("num_updates", math.nan)):
            rows = self.validation.setdefault(tag, [])
            _cut(rows, row["num_updates"])
            rows.append(row)

    def has(self, metric: str) -> bool:
        """Whether there is anything to draw of a metric."""
        if metric == "overflows" and not self.overflows:
            # Outside of half precision there is no such thing.
            return any("loss_scale" in row for row in self.entries)
        all_rows = [self.entries, *self.validation.values()]
        return any(math.isfinite(row.get(metric, math.nan)) for rows in all_rows for row in rows)


def _cut(rows: list[Row], updates: float) -> bool:
    """Remove what was logged at ``updates`` and after; whether there was any."""
    before = len(rows)
    while rows and rows[-1]["num_updates"] >= updates:
        rows.pop()
    return len(rows) < before


def read_log(name: str, path: Path) -> list[Curve]:
    """The trainings of a log, in their order.

    One is called ``name``; of several each is called after the folder of its checkpoints as well,
    or, where these are no different, by its number.

    Raises:
        ConfigError: the file cannot be read, or has no entry.
    """
    try:
        text = read_text(path, undecodable="replace")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    curves = [curve for curve in _trainings(text.splitlines()) if curve.entries]
    if not curves:
        raise ConfigError(
            f"{path}: no entry of a training in it; expected what fairseq-train prints with "
            "--log-format json, and no longer a --log-interval than the training"
        )
    folders = [Path(curve.checkpoint).parent.name for curve in curves]
    for number, curve in enumerate(curves, start=1):
        own = folders[number - 1] if all(folders) and len(set(folders)) == len(curves) else number
        curve.name = name if len(curves) == 1 else f"{name} {own}"
    return curves


def _trainings(lines: list[str]) -> Iterator[Curve]:
    current = Curve("")
    by_checkpoint: dict[str, Curve] = {}
    for line in lines:
        entry, checkpoint = ENTRY.search(line), CHECKPOINT.search(line)
        if entry:
            tag = entry[1] or entry[2]
            numbers = _numbers(entry[3])
            if tag != EPOCH and (tag != TRAINING or "num_updates" in numbers):
                current.add(tag, numbers)
        elif checkpoint and checkpoint[1] in by_checkpoint:
            current = by_checkpoint[checkpoint[1]]  # resumed
        elif checkpoint or (FRESH in line and current.entries):
            yield current
            current = Curve("", checkpoint[1] if checkpoint else current.checkpoint)
            by_checkpoint[current.checkpoint] = current
        current.overflows += OVERFLOW in line
        current.stopped = current.stopped or STOPPED in line
    yield current


def _numbers(text: str) -> Row:
    """fairseq logs numbers as text."""
    numbers: Row = {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return numbers
    for key, value in values.items():
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
    if not math.isfinite(numbers.get("num_updates", 0)):
        del numbers["num_updates"]
    return numbers


def summarize(curve: Curve) -> dict[str, Any]:
    """First, last and lowest loss, overflows, the smallest loss scale, and how it ended; of each
    split that was validated on, the last and the lowest loss."""
    entries = curve.entries
    losses = _losses(entries)
    scales = [row["loss_scale"] for row in entries if "loss_scale" in row]
    validated = {split: _losses(rows) for split, rows in curve.validation.items()}
    validation = {
        split: {"last_loss": losses[-1], "lowest_loss": min(losses)}
        for split, losses in validated.items()
        if losses
    }
    return {
        "name": curve.name,
        "updates": int(entries[-1]["num_updates"]),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "lowest_loss": min(losses) if losses else None,
        "overflows": curve.overflows,
        "smallest_loss_scale": min(scales) if scales else None,
        "stopped_by_overflow": curve.stopped,
        **({"validation": validation} if validation else {}),
    }


def _losses(rows: list[Row]) -> list[float]:
    return [row["loss"] for row in rows if math.isfinite(row.get("loss", math.nan))]


def format_curves(summaries: list[dict[str, Any]]) -> str:
    """The table for people."""
    splits = list(dict.fromkeys(split for row in summaries for split in row.get("validation", {})))
    width = max(len("training"), *(len(row["name"]) for row in summaries)) + 2
    heads = [f"{f'lowest {split}':>{len(split) + 9}}" for split in splits]
    lines = [
        f"{'training':<{width}}{'updates':>9}{'first loss':>12}{'last':>9}{'lowest':>9}"
        f"{''.join(heads)}{'overflows':>11}{'least scale':>13}"
    ]
    for row in summaries:
        scale = row["smallest_loss_scale"]
        validated = [row.get("validation", {}).get(split, {}) for split in splits]
        lines.append(
            f"{row['name']:<{width}}{row['updates']:>9}{_cell(row['first_loss']):>12}"
            f"{_cell(row['last_loss']):>9}{_cell(row['lowest_loss']):>9}"
            + "".join(
                f"{_cell(found.get('lowest_loss')):>{len(head)}}"
                for found, head in zip(validated, heads, strict=True)
            )
            + f"{row['overflows']:>11}{'-' if scale is None else format(scale, 'g'):>13}"
            + ("  stopped by overflows" if row["stopped_by_overflow"] else "")
        )
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def table(curves: list[Curve], metrics: list[str]) -> list[dict[str, Any]]:
    """A row an entry: the training as ``log``, num_updates, and each metric; a validated one has
    the name of its split before it, and stands in the row of the same update if there is one."""
    rows: list[dict[str, Any]] = []
    for curve in curves:
        columns = {"log": curve.name}
        by_updates = {
            row["num_updates"]: columns
            | {"num_updates": row["num_updates"]}
            | {metric: row.get(metric) for metric in metrics}
            for row in curve.entries
        }
        for split, found in curve.validation.items():
            for row in found:
                updates = row["num_updates"]
                place = by_updates.setdefault(updates, columns | {"num_updates": updates})
                place |= {f"{split}_{m}": row[m] for m in metrics if m in row}
        rows += [by_updates[updates] for updates in sorted(by_updates)]
    return rows


def draw(path: Path, curves: list[Curve], metrics: list[str]) -> None:
    """A panel a metric of which there is anything to draw; a line a training, broken lines of the
    same colour for what it was validated on.

    Raises:
        ConfigError: there is nothing to draw.
    """
    drawn = [metric for metric in metrics if any(curve.has(metric) for curve in curves)]
    if not drawn:
        raise ConfigError(f"{path}: nothing to draw: no finite value of {', '.join(metrics)}")
    with figure(path, len(drawn), 5.0, 4.0) as panels:
        for panel, metric in zip(panels, drawn, strict=True):
            for number, curve in enumerate(curves):
                colour = f"C{number % 10}"
                for split, rows in {"": curve.entries, **curve.validation}.items():
                    updates, values = _points(rows, metric)
                    if updates:
                        label = f"{curve.name}, {split}" if split else curve.name
                        line = ".--" if split else "-"
                        panel.plot(updates, values, line, color=colour, label=label)
            panel.set(xlabel="updates", ylabel=AXES.get(metric, metric.replace("_", " ")))
            panel.set_title(metric)
            if metric in LOGARITHMIC:
                panel.set_yscale("log")
                plain_numbers(panel)
            panel.legend(fontsize=8)


def _points(rows: list[Row], metric: str) -> tuple[list[float], list[float]]:
    found = [row for row in rows if metric in row]
    return [row["num_updates"] for row in found], [row[metric] for row in found]
