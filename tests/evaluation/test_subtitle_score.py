"""Subtitles scored by SubER."""

import sys

import pytest

from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.subtitle_reading import Cue
from cress_svcd.evaluation.subtitle_score import as_subtitles, measure_subtitles

REFERENCE = [Cue(0, 2, ("Das Haus ist groß.",)), Cue(3, 5, ("Ein Hund", "und eine Katze."))]


def test_the_same_subtitles_need_no_edits():
    scores = measure_subtitles([(REFERENCE, REFERENCE), (REFERENCE[:1], REFERENCE[:1])])
    assert scores["suber"] == scores["suber_cased"] == 0
    assert scores["suber_signature"].startswith("SubER|lang:any|version:")


def test_words_breaks_and_times_count():
    """Of 4 + 1 and 5 + 2 tokens: words and breaks."""

    def score(*cues):
        return measure_subtitles([(list(cues), REFERENCE)])["suber"]

    first, second = REFERENCE
    assert score(Cue(0, 2, ("das Haus ist klein",)), second) == round(100 * 1 / 12, 2)
    assert score(first, Cue(3, 5, ("Ein Hund und eine Katze.",))) == round(100 * 1 / 12, 2)
    assert score(first) == round(100 * 7 / 12, 2)
    assert score() == 100
    # Right words at the wrong time: none of the five is right.
    assert score(Cue(20, 22, first.lines), second) == round(100 * 10 / 12, 2)


def test_case_and_punctuation_count_in_the_other_score():
    scores = measure_subtitles([([Cue(0, 2, ("das Haus ist groß",))], REFERENCE[:1])])
    assert scores["suber"] == 0 and scores["suber_cased"] == round(100 * 2 / 6, 2)


def test_recordings_do_not_touch_each_other():
    """The words of the first, moved to the second, are not right."""
    empty: list[Cue] = []
    moved = measure_subtitles([(empty, REFERENCE[:1]), (REFERENCE[:1], empty)])
    assert moved["suber"] == 200
    assert measure_subtitles([(empty, empty)])["suber"] == 0


def test_segments_become_the_subtitles_that_translate_writes():
    cues = as_subtitles([(0.5, 2.25, "Das Haus  ist groß."), (3, 4, ""), (3700, 3702, "A --> <b>")])
    assert [(cue.start, cue.end) for cue in cues] == [(0.5, 2.25), (3700, 3702)]
    assert cues[0].text == "Das Haus ist groß."


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "suber.metrics.suber", None)
    with pytest.raises(
        ConfigError, match=r"subtitle-edit-rate .*pip install 'cress_svcd\[score\]'"
    ):
        measure_subtitles([(REFERENCE, REFERENCE)])
