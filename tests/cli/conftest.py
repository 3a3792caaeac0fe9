"""Looking at the pictures that commands write."""

import pytest

from cress_svcd.evaluation import plots


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The axes of all pictures, as they were when they were written."""
    axes: list = []
    write = plots.replacing

    def look(path):
        from matplotlib import pyplot

        axes.extend(pyplot.gcf().axes)
        return write(path)

    monkeypatch.setattr(plots, "replacing", look)
    return axes
