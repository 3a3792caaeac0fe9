"""A small release that tests of corpora look at."""

import pytest

from cress_svcd.data.corpus.mustc import Release
from tests.helpers.mustc_release import Talk, make_split


@pytest.fixture
def release(tmp_path) -> Release:
    """A training split of two talks, the first with ten segments and more, out of order."""
    segments = [(0.5 * i, 0.4, f"Source {i}.", f"Ziel {i}.") for i in range(12)]
    talks = [Talk("ted_10.wav", segments[::-1]), Talk("ted_9.wav", segments[:2], speaker=None)]
    make_split(tmp_path / "en-de" / "data", "train", talks)
    return Release(tmp_path / "en-de" / "data", "de")
