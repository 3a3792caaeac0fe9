"""Curves of trainings out of fairseq's logs."""

import json
import math
import re
from pathlib import Path
from typing import Any

from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.plots import figure

# As fairseq-train and fairseq-hydra-train write it.
ENTRY = re.compile(r"(?:\| train_inner \||\[train_inner\]\[INFO\] -) (\{.*\})")
OVERFLOW = "gradient overflow detected"
STOPPED = "Minimum loss scale reached"
LOGARITHMIC = ("gnorm", "loss_scale")


def read_log(path: Path) -> dict[str, Any]:
    """``entries`` (num_updates, overflows, and all that was logged, as numbers), ``overflows``, and
    ``stopped``, whether the loss scaler ended the training.

    A training that was resumed into the same log counts from its checkpoint on: entries after that
    are replaced.

    Raises:
        ConfigError: the file cannot be read, or has no entry.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    entries: list[dict[str, float]] = []
    overflows, stopped = 0, False
    for line in text.splitlines():
        match = ENTRY.search(line)
        if match:
            row = {"overflows": float(overflows), **_numbers(json.loads(match[1]))}
            while entries and entries[-1]["num_updates"] >= row["num_updates"]:
                entries.pop()
            entries.append(row)
        overflows += OVERFLOW in line
        stopped = stopped or STOPPED in line
    if not entries:
        raise ConfigError(
            f"{path}: no entry of a training in it; expected what fairseq-train prints with "
            "--log-format json, and no longer a --log-interval than the training"
        )
    return {"entries": entries, "overflows": overflows, "stopped": stopped}


def _numbers(entry: dict[str, str]) -> dict[str, float]:
    """fairseq logs numbers as text."""
    numbers = {}
    for key, value in entry.items():
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def summarize(name: str, curve: dict[str, Any]) -> dict[str, Any]:
    """First, last and lowest loss, overflows, the smallest loss scale, and how it ended."""
    entries = curve["entries"]
    losses = [row["loss"] for row in entries if math.isfinite(row.get("loss", math.nan))]
    scales = [row["loss_scale"] for row in entries if "loss_scale" in row]
    return {
        "name": name,
        "updates": int(entries[-1]["num_updates"]),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "lowest_loss": min(losses) if losses else None,
        "overflows": curve["overflows"],
        "smallest_loss_scale": min(scales) if scales else None,
        "stopped_by_overflow": curve["stopped"],
    }


def format_curves(summaries: list[dict[str, Any]]) -> str:
    """The table for people."""
    width = max(len("log"), *(len(row["name"]) for row in summaries)) + 2
    lines = [
        f"{'log':<{width}}{'updates':>9}{'first loss':>12}{'last':>9}{'lowest':>9}"
        f"{'overflows':>11}{'least scale':>13}"
    ]
    for row in summaries:
        cells = [
            "-" if row[key] is None else f"{row[key]:.3f}"
            for key in ("first_loss", "last_loss", "lowest_loss")
        ]
        scale = row["smallest_loss_scale"]
        lines.append(
            f"{row['name']:<{width}}{row['updates']:>9}{cells[0]:>12}{cells[1]:>9}{cells[2]:>9}"
            f"{row['overflows']:>11}{'-' if scale is None else format(scale, 'g'):>13}"
            + ("  stopped by overflows" if row["stopped_by_overflow"] else "")
        )
    return "\n".join(lines)


def draw(path: Path, curves: dict[str, dict], metrics: list[str]) -> None:
    """A panel a metric, a line a log."""
    with figure(path, len(metrics), 5.0, 4.0) as panels:
        for panel, metric in zip(panels, metrics):
            for name, curve in curves.items():
                rows = [row for row in curve["entries"] if metric in row]
                panel.plot(
                    [row["num_updates"] for row in rows], [row[metric] for row in rows], label=name
                )
            panel.set(xlabel="updates", title=metric)
            if metric in LOGARITHMIC:
                panel.set_yscale("log")
        panels[0].legend()
