"""The lag that the bench of live translation prints."""

import runpy
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench" / "live_lag.py"


def test_lag_is_that_of_the_articles_formula():
    lag = runpy.run_path(str(BENCH))["lag"]
    # A word a second, each shown a second after its beginning; all at the end; half as many words.
    assert lag([1, 2, 3, 4], words=4, seconds=4) == pytest.approx(1)
    assert lag([4, 4, 4, 4], words=4, seconds=4) == pytest.approx(4)
    assert lag([2, 4], words=4, seconds=4) == pytest.approx((2 + 3) / 2)
    # More words than the reference has are not rewarded: they are given less time each.
    assert lag([1, 2, 3, 3, 4, 4, 4, 4], words=4, seconds=4) == pytest.approx(1.6)
