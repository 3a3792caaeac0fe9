"""Subtitles within their limits: nothing lost, nothing overlapping, parted where it reads well."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cress_svcd.errors import ConfigError
from cress_svcd.translation.result import Translation, Word
from cress_svcd.translation.subtitles import (
    Cue,
    SubtitleLimits,
    broken_limits,
    describe_broken,
    make_cues,
)

LIMITS = SubtitleLimits()


def said(text: str, start: float, end: float) -> Translation:
    """A segment whose letters take the same time."""
    return Translation(text, 0.0, (), start, end)


def spaceless(texts) -> str:
    return "".join("".join(text.split()) for text in texts)


WORDS = st.text("abcdeÄß 。，漢字か\u0301.,-{}<>&\\N", min_size=1, max_size=60) | st.sampled_from(
    ["und", "the", "weil", "Haus.", "Wort,", "eine"]
)
SEGMENTS = st.lists(
    st.tuples(
        st.lists(WORDS, max_size=40).map(" ".join),
        st.floats(0, 12),  # the pause before it
        st.floats(0.01, 20),
    ),
    max_size=6,
)
ANY_LIMITS = st.builds(
    lambda *values, more: SubtitleLimits(*values[:3], values[2] + more, *values[3:]),
    st.integers(1, 60),
    st.integers(1, 3),
    st.floats(0, 3),
    st.floats(1, 30),
    st.integers(0, 5),
    st.floats(5, 60),
    more=st.floats(0.4, 8),
)


def recording(segments) -> tuple[list[Translation], float]:
    parts, time = [], 0.0
    for text, pause, seconds in segments:
        parts.append(said(text, time + pause, time + pause + seconds))
        time += pause + seconds
    return parts, time


@settings(deadline=None, max_examples=150)
@given(SEGMENTS, ANY_LIMITS, st.booleans())
def test_nothing_is_lost_and_nothing_overlaps(segments, limits, ends):
    parts, end = recording(segments)
    cues = make_cues(parts, limits, end if ends else None)
    assert spaceless(line for cue in cues for line in cue.lines) == spaceless(
        part.text for part in parts
    )
    for cue in cues:
        assert 0 <= cue.start < cue.end
        assert cue.end - cue.start <= limits.longest
        assert len(cue.lines) <= limits.max_lines and all(cue.lines)
        for line in cue.lines:
            assert line == line.strip()
            # A letter keeps its marks.
            assert len(line.replace("\u0301", "")) <= limits.max_line_characters
    for one, other in zip(cues, cues[1:]):
        assert other.start - one.end >= limits.gap


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=60))
def test_slow_speech_meets_every_limit(lengths):
    """A word of up to 9 letters in at least 0.6 s, and a second after the last one."""
    words, time = [], 0.0
    for letters, tenths in lengths:
        words.append(Word("x" * letters, time, time + 0.6 + tenths / 10))
        time = words[-1].end
    text = " ".join(word.text for word in words)
    cues = make_cues([Translation(text, 0, (), 0.0, time, words=tuple(words))], LIMITS, time + 1)
    assert describe_broken(broken_limits(cues, LIMITS), LIMITS) == ""


def shown(*parts, limits=LIMITS, end=None) -> list[tuple[float, float, str]]:
    cues = make_cues(parts, limits, end)
    return [(cue.start / 1000, cue.end / 1000, "\n".join(cue.lines)) for cue in cues]


class TestParting:
    def test_what_fits_stays_in_one_line(self):
        assert shown(said("Der Mann sieht Wasser.", 1, 3)) == [(1, 3, "Der Mann sieht Wasser.")]

    @pytest.mark.parametrize(
        "lines",
        [
            "Wir werden heute Abend Milch trinken,\nwenn wir durstig sind.",
            "The small cats are sleeping\nbehind the lamp in the kitchen.",
            "Ich gehe nach Hause.\nKommst du morgen mit mir in die Stadt?",
            "Câinele bea apă în grădină,\npentru că îi este foarte sete azi.",
            # No language known to a list: in the middle.
            "aaaa aaaa aaaa aaaa aaaa\naaaa aaaa aaaa aaaa aaaa",
        ],
    )
    def test_lines_end_with_a_clause_or_before_a_phrase(self, lines):
        text = lines.replace("\n", " ")
        assert [cue[2] for cue in shown(said(text, 0, 6))] == [lines]

    def test_cues_end_with_a_sentence_or_clause(self):
        first = "Am Freitag um Viertel vor neun werden wir mit dem Zug zur Party kommen,"
        second = "weil das Wetter so schlecht ist."
        found = shown(said(f"{first} {second}", 0, 9))
        assert [" ".join(text.split("\n")) for _, _, text in found] == [first, second]

    def test_long_words_are_cut_and_letters_keep_their_marks(self):
        limits = SubtitleLimits(max_line_characters=10)
        ((*_, text),) = shown(said("x" * 15, 0, 5), limits=limits)
        assert text == "x" * 10 + "\n" + "x" * 5
        ((*_, text),) = shown(said("x" * 9 + "e\u0301" + "yyy", 0, 5), limits=limits)
        assert text == "x" * 9 + "\ne\u0301yyy"

    def test_words_without_spaces_part_between_words(self):
        words = [Word(text, i, i + 1) for i, text in enumerate(["我们", "星期五", "去聚会。"])]
        part = Translation("我们星期五去聚会。", 0, (), 0, 3, words=tuple(words))
        assert shown(part)[0][2] == "我们星期五去聚会。"
        limits = SubtitleLimits(max_line_characters=5)
        assert [cue[2] for cue in shown(part, limits=limits)] == ["我们星期五\n去聚会。"]

    def test_the_words_times_decide_where_a_cue_begins(self):
        first, second = (
            "eins zwei drei vier fünf sechs sieben.",
            "acht neun zehn elf zwölf dreizehn.",
        )
        words = [Word(text, 0.2 * i, 0.2 * i + 0.2) for i, text in enumerate(first.split())]
        words += [Word(text, 6 + 0.2 * i, 6.2 + 0.2 * i) for i, text in enumerate(second.split())]
        part = Translation(f"{first} {second}", 0, (), 0, 8, words=tuple(words))
        assert [(start, text) for start, _, text in shown(part)] == [(0, first), (6, second)]


SENTENCES = (
    "Ich habe gestern meinen Bruder getroffen, weil er ein neues Auto gekauft hat.",
    "Ja.",
    "Wir fahren morgen ans Meer, und meine Eltern bleiben mit dem Hund zu Hause.",
    "Sie weiß nicht, wann der Film anfängt.",
    "Heute regnet es.",
)


def check_as_a_player(cues, speech) -> None:
    """What is asked of subtitles; slow enough where any silence is left.

    speech: where something is said, in milliseconds.
    """
    ends = [0, *(cue.end for cue in cues)]
    for number, cue in enumerate(cues):
        assert len(cue.lines) <= 2 and all(0 < len(line) <= 42 for line in cue.lines)
        assert 1000 <= cue.end - cue.start <= 7000
        assert number == 0 or cue.start - ends[number] >= 80 or cue.start == ends[number]
        if 1000 * cue.characters > 17 * (cue.end - cue.start):
            early = [start - cue.start for start, _ in speech if start - cue.start >= 499]
            assert cue.start - ends[number] <= 80 or early
            assert number + 1 == len(cues) or cues[number + 1].start - cue.end <= 80


@pytest.mark.parametrize("seed", range(40))
def test_the_rules_of_players(seed):
    chance = random.Random(seed)
    parts, speech, time = [], [], 0.3
    for _ in range(20):
        text = chance.choice(SENTENCES)
        seconds = max(0.5, len(text) / chance.uniform(12, 20))
        parts.append(said(text, time, time + seconds))
        speech.append((round(1000 * time), round(1000 * (time + seconds))))
        time += seconds + chance.uniform(0.3, 1.5)
    cues = make_cues(parts, LIMITS, time)
    check_as_a_player(cues, speech)
    shown_words = [word for cue in cues for line in cue.lines for word in line.split()]
    assert shown_words == [word for part in parts for word in part.text.split()]


class TestTimes:
    def test_a_cue_stays_into_the_silence_to_be_read(self):
        text = "x" * 34
        assert shown(said(text, 0, 1), said("y" * 20, 9, 11)) == [
            (0, 2, text),
            (9, 11, "y" * 20),
        ]

    def test_but_never_into_the_next_one(self):
        first, second = "x" * 60 + ".", "y" * 60 + "."
        found = shown(said(first, 0, 2), said(second, 2.5, 5))
        assert found[0][1] + 0.08 == pytest.approx(found[1][0])

    def test_the_next_one_comes_later_where_it_can_be_read_all_the_same(self):
        first, second = "x" * 60 + ".", "y" * 60 + "."
        found = shown(said(first, 0, 2), said(second, 2.5, 9))
        assert found[0][:2] == (0, 2.92) and found[1][:2] == (3, 9)
        short = shown(said(first, 0, 2), said(second, 2.5, 6), end=6.2)
        assert short[0][:2] == (0, 2.472) and short[1][:2] == (2.552, 6.2)

    def test_it_begins_half_a_second_early_if_it_is_too_fast_else(self):
        found = shown(said("x" * 40 + ".", 3, 4), end=4.5)
        assert found[0][:2] == (2.5, 4.5)

    def test_it_begins_a_little_early_to_be_read(self):
        one_line = SubtitleLimits(max_lines=1)
        first, second, third = "x" * 40, "y" * 34, "z" * 40
        for ends, begins in ((2.5, 2.82), (2.85, 2.93), (2.95, 3)):
            parts = said(first, 0, ends), said(second, 3, 4.7), said(third, 4.9, 8)
            found = shown(*parts, limits=one_line)
            assert found[0][1] == min(ends, 2.92)
            assert found[1][:2] == (begins, pytest.approx(begins + 2))

    def test_what_would_flash_by_joins_its_neighbour(self):
        assert shown(said("Ja.", 0.2, 0.6), said("Wir gehen nach Hause.", 0.7, 3)) == [
            (0.2, 3, "Ja. Wir gehen nach Hause.")
        ]

    def test_what_is_said_seconds_apart_does_not(self):
        found = shown(said("Ja.", 0, 0.4), said("Nein, danke.", 3, 5))
        assert found == [(0, 1, "Ja."), (3, 5, "Nein, danke.")]

    def test_at_the_end_of_the_recording_it_comes_earlier(self):
        assert shown(said("Ja.", 8.5, 9), end=9.2) == [(8.2, 9.2, "Ja.")]
        assert shown(said("Ja.", 8.5, 9)) == [(8.5, 9.5, "Ja.")]

    def test_silence_after_the_words_is_not_shown_for_long(self):
        assert shown(said("Nun", 0, 20)) == [(0, 7, "Nun")]

    def test_the_gap_is_whole_frames(self):
        text = "a" * 40 + ". " + "b" * 40 + ". " + "c" * 40 + "."
        for fps, gap in ((25, 80), (24, 84), (23.976, 84), (50, 40)):
            cues = make_cues([said(text, 0, 9)], SubtitleLimits(fps=fps, max_lines=1))
            assert len(cues) == 3
            assert {b.start - a.end for a, b in zip(cues, cues[1:])} == {gap}

    def test_no_words_no_cue(self):
        assert shown(said("", 0, 1), said(" \n", 2, 3), said("\x00\ufdd0", 3, 4)) == []

    def test_a_hallucination_is_shown_as_well_as_can_be(self):
        """400 letters in half a second and ten seconds of silence: nothing flashes by."""
        found = make_cues([said("aaaa " * 80, 1, 1.5), said("Ende.", 11.5, 13)])
        assert len(found) >= 5 and min(cue.end - cue.start for cue in found) >= 1000


def test_what_breaks_limits_is_counted_in_a_line():
    cues = [
        Cue(0, 500, ("x",)),
        Cue(600, 1700, ("x" * 43,)),
        Cue(2000, 9001, ("a", "b", "c")),
        Cue(10000, 12000, ("fine", "text")),
    ]
    count = broken_limits(cues, LIMITS)
    assert describe_broken(count, LIMITS) == (
        "of 4 cues 1 have a line of more than 42 characters, 1 have more than 2 lines, "
        "1 stay longer than 7 s, 1 stay shorter than 1 s, 1 have more than 17 characters a second"
    )
    assert describe_broken(broken_limits(cues[3:], LIMITS), LIMITS) == ""


@pytest.mark.parametrize(
    "option",
    [
        {"max_line_characters": 0},
        {"max_lines": 0},
        {"min_cue_seconds": -1},
        {"min_cue_seconds": 8},
        {"max_cue_seconds": 0},
        {"max_cue_seconds": math.inf},
        {"max_characters_per_second": 0},
        {"min_gap_frames": -1},
        {"fps": 0},
        {"fps": math.nan},
    ],
    ids=str,
)
def test_limits_that_nothing_can_meet(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        SubtitleLimits(**option)
