"""What a report says of each layer, or group of layers, as a picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cress_svcd.evaluation.plots import figure

Row = dict[str, Any]

# Name of the axis → its value of a row; a panel without any value is left out.
OF_LAYERS: dict[str, Callable[[Row], float | None]] = {
    "bits a weight, with scales": lambda row: row["bits"] / row["parameters"],
    "stored size (KB)": lambda row: row["bits"] / 8e3,
    "relative error of the output": lambda row: row.get("relative_error"),
    "cosine with full precision": lambda row: row.get("cosine"),
}
OF_GROUPS: dict[str, Callable[[Row], float | None]] = {
    "loss (bits a token)": lambda row: row["loss"],
    "loss for a megabit saved": lambda row: row["loss_per_megabit"],
    "change of BLEU": lambda row: row.get("bleu_change"),
}
INCHES_A_ROW, INCHES_AROUND, PANEL_INCHES = 0.2, 1.2, 4.0


def draw(path: Path, rows: list[Row]) -> None:
    """Write a panel for each figure of the rows, which are those of a report on layers or, with
    --sensitivity, on groups of them; a bar a row, from above in their order."""
    axes = OF_GROUPS if "loss" in rows[0] else OF_LAYERS
    found = {axis: [value(row) for row in rows] for axis, value in axes.items()}
    found = {axis: values for axis, values in found.items() if any(v is not None for v in values)}
    height = INCHES_AROUND + INCHES_A_ROW * len(rows)
    with figure(path, len(found), PANEL_INCHES, height) as panels:
        for panel, (axis, values) in zip(panels, found.items(), strict=True):
            places = [place for place, value in enumerate(values) if value is not None]
            panel.barh(places, [values[place] for place in places])
            panel.set(xlabel=axis, ylim=(len(rows) - 0.5, -0.5))
            panel.set_yticks([])
        panels[0].set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
