"""The bar of translate: position, real-time factor, remaining time."""

import io
import re

import pytest

from cress_svcd.translation.progress import SoundProgress, clock


@pytest.mark.parametrize(
    "seconds, shown",
    [(0, "00:00"), (59.9, "00:59"), (61, "01:01"), (3600, "1:00:00"), (36_125.5, "10:02:05")],
)
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def bar_after(seconds: float, elapsed: float, total: float | None) -> str:
    stream = io.StringIO()
    bar = SoundProgress(total, desc="translating", file=stream, disable=False, ncols=100)
    bar.update(seconds)
    bar.start_t -= elapsed
    shown = str(bar)
    bar.close()
    return shown


def test_of_recordings_whose_length_is_known():
    shown = bar_after(900, elapsed=45, total=3600)
    assert shown.startswith("translating:  25%|")
    position = re.search(r"\| 15:00 of 1:00:00, RTF (0\.0\d\d), (\d\d):(\d\d) left$", shown)
    assert position and float(position[1]) == pytest.approx(45 / 900, abs=0.002)
    left = 60 * int(position[2]) + int(position[3])
    assert left == pytest.approx(135, abs=10)


def test_of_a_list_whose_length_is_not_known():
    shown = bar_after(61, elapsed=6.1, total=None)
    assert re.fullmatch(r"translating: 01:01, RTF 0\.10\d?, 00:06 passed", shown)


def test_at_the_beginning_there_is_no_factor():
    assert "| 00:00 of 00:10, RTF ?, ? left" in bar_after(0, elapsed=0, total=10)
    assert bar_after(0, elapsed=0, total=None) == "translating: 00:00, RTF ?, 00:00 passed"


def test_without_a_terminal_there_is_none():
    stream = io.StringIO()
    with SoundProgress(10, file=stream, disable=None) as bar:
        bar.update(10)
    assert not stream.getvalue()
