"""Pictures and tables as files."""

import contextlib
import csv
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cress_svcd.atomic_files import replacing, write_text


@contextlib.contextmanager
def figure(path: Path, panels: int = 1, width: float = 7.0, height: float = 4.5) -> Iterator[list]:
    """Yield the axes of a row of ``panels``; the picture is written to ``path`` (PNG) at the end.

    Args:
        width, height: of a panel, in inches.
    """
    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq logs all there is
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, panels, figsize=(width * panels, height), squeeze=False)
    try:
        yield list(axes[0])
        drawn.tight_layout()
        with replacing(path) as temporary:
            drawn.savefig(temporary, dpi=120, format="png")
    finally:
        pyplot.close(drawn)


def plain_numbers(panel: Any) -> None:
    """Have a logarithmic axis y say 0.6 and 20, where it would say 6×10⁻¹ and 2×10¹."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, value: float, position: int | None = None) -> str:
            return f"{value:g}" if super().__call__(value, position) else ""

    panel.yaxis.set_major_formatter(Plain())
    panel.yaxis.set_minor_formatter(Plain(labelOnlyBase=False))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV with a column for each of their keys, all or nothing."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
