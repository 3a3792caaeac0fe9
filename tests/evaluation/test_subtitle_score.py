"""Subtitles read back and scored by SubER."""

import sys

import pytest

from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.subtitle_score import (
    Cue,
    as_subtitles,
    measure_subtitles,
    parse_subtitles,
    read_subtitles,
)

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


def test_files_are_read_back(tmp_path):
    srt = "\ufeff1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Das</i> Haus\r\nist groß.\r\n\r\n"
    (tmp_path / "a.srt").write_bytes(srt.encode())
    assert read_subtitles(tmp_path / "a.srt") == [Cue(1, 2.5, ("Das Haus", "ist groß."))]
    vtt = "WEBVTT\n\nNOTE x\n\none\n00:03.000 --> 00:04.000 align:left\nA &amp; B\n\n"
    (tmp_path / "a.vtt").write_text(f"{vtt}01:00:00.000 --> 01:00:01.000\nspät\n", encoding="utf-8")
    assert read_subtitles(tmp_path / "a.vtt") == [
        Cue(3, 4, ("A & B",)),
        Cue(3600, 3601, ("spät",)),
    ]


def test_what_only_looks_like_a_tag_is_text():
    text = "1\n00:00:01,000 --> 00:00:02,000\na <\u2060b> <b>c</b> 1 < 2\n"
    assert parse_subtitles(text) == [Cue(1, 2, ("a <b> c 1 < 2",))]


def test_cues_are_put_in_the_order_of_time():
    late, early = "2\n00:00:09,000 --> 00:00:08,000\nb\n\n", "1\n00:00:01,000 --> 00:00:02,000\na\n"
    assert parse_subtitles(late + early) == [Cue(1, 2, ("a",)), Cue(9, 9, ("b",))]


@pytest.mark.parametrize("content", ["", "WEBVTT\n\n"])
def test_nothing_heard(tmp_path, content):
    (tmp_path / "a.vtt").write_text(content)
    assert read_subtitles(tmp_path / "a.vtt") == []


def test_what_is_no_subtitle_file(tmp_path):
    (tmp_path / "a.srt").write_text("something else\n")
    (tmp_path / "b.srt").write_bytes(b"\xff\xfe\x00")
    for name, message in (("a", "no subtitle in it"), ("b", "not UTF-8"), ("c", "cannot be read")):
        with pytest.raises(ConfigError, match=f"{name}.srt: .*{message}"):
            read_subtitles(tmp_path / f"{name}.srt")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "suber.metrics.suber", None)
    with pytest.raises(
        ConfigError, match=r"subtitle-edit-rate .*pip install 'cress_svcd\[score\]'"
    ):
        measure_subtitles([(REFERENCE, REFERENCE)])
