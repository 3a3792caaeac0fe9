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


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV with a column for each of their keys, all or nothing."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
