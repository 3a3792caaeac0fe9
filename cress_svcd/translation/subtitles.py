"""Subtitles that can be read: what is said, in cues of few short lines that stay long enough.

Where the limits are at odds, in this order: cues never overlap and no word is lost; lines fit; cues
are short enough; they are long enough, then slow enough to be read.  For the last two a cue stays
in the silence after it until the next one comes, takes a neighbour in, or is shown up to a second
late within its segment; then it begins in the silence before it, a quarter of a second early to be
read, half a second if it would else flash by or is still too fast.  For one that is still too fast
the next one comes later, where this stays long enough.  What is left is counted.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cress_svcd.errors import ConfigError
from cress_svcd.translation.phrases import (
    WITHOUT_SPACES,
    Chunk,
    break_cost,
    count_lines,
    cut_long,
    join_chunks,
    partition,
    split_lines,
)
from cress_svcd.translation.result import Translation, Word

# Milliseconds.
LATEST, EARLIEST = 1000, 500  # shifts against what is said
LEAD = 250  # before what is said, to be read at ease
FLASH = 200  # no cue is shorter, whatever comes next
CHAINED = 500  # a cue stays until the next one of its segment if that comes so soon
PAUSE_SECONDS = 0.5  # what is said before and after a longer one stays in cues of its own


@dataclass(frozen=True)
class SubtitleLimits:
    """What broadcasters ask of subtitles.

    Args:
        max_line_characters: spaces included.
        max_lines: of a cue.
        min_cue_seconds, max_cue_seconds: how long a cue is shown.
        max_characters_per_second: how fast it must be read, spaces included.
        min_gap_frames: between two cues.
        fps: frames a second of the picture.
    Raises:
        ConfigError: a value that no subtitle can meet.
    """

    max_line_characters: int = 42
    max_lines: int = 2
    min_cue_seconds: float = 1.0
    max_cue_seconds: float = 7.0
    max_characters_per_second: float = 17.0
    min_gap_frames: int = 2
    fps: float = 25.0

    def __post_init__(self) -> None:
        for name, least in (
            ("max_line_characters", 1),
            ("max_lines", 1),
            ("min_cue_seconds", 0),
            ("max_cue_seconds", 2 * FLASH / 1000),
            ("max_characters_per_second", 0.1),
            ("min_gap_frames", 0),
            ("fps", 1),
        ):
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise ConfigError(f"subtitles: {name} is {value}, expected {least} or more")
        if self.min_cue_seconds > self.max_cue_seconds:
            raise ConfigError(
                f"subtitles: min_cue_seconds is {self.min_cue_seconds}, expected at most "
                f"max_cue_seconds ({self.max_cue_seconds})"
            )

    @property
    def shortest(self) -> int:
        """Milliseconds of a cue."""
        return math.ceil(1000 * self.min_cue_seconds)

    @property
    def longest(self) -> int:
        """Milliseconds of a cue."""
        return math.floor(1000 * self.max_cue_seconds)

    @property
    def gap(self) -> int:
        """Milliseconds between two cues."""
        return math.ceil(1000 * self.min_gap_frames / self.fps)

    def reading_time(self, characters: int) -> int:
        """Milliseconds that a cue of so many characters should stay."""
        needed = math.ceil(1000 * characters / self.max_characters_per_second)
        return min(self.longest, max(self.shortest, needed))


@dataclass(frozen=True)
class Cue:
    """What is shown from ``start`` to ``end``, in milliseconds."""

    start: int
    end: int
    lines: tuple[str, ...]

    @property
    def characters(self) -> int:
        return sum(map(len, self.lines)) + len(self.lines) - 1


class _Draft:
    """A cue whose times are those of its words, in milliseconds; it may span segments."""

    def __init__(self, chunks: Sequence[Chunk], first: int, last: int):
        self.chunks, self.first_segment, self.last_segment = list(chunks), first, last
        self.length = len(join_chunks(chunks))
        self.start = max(0, round(1000 * chunks[0].start))
        self.spoken_until = max(self.start, round(1000 * chunks[-1].end))

    def __add__(self, other: "_Draft") -> "_Draft":
        return _Draft(self.chunks + other.chunks, self.first_segment, other.last_segment)


def make_cues(
    parts: Iterable[Translation],
    limits: SubtitleLimits = SubtitleLimits(),
    end: float | None = None,
) -> list[Cue]:
    """The subtitles of a recording.

    Args:
        parts: its segments, in their order, with their words' times; without these, words take
            time by their letters.
        end: of the recording, in seconds, after which no cue stays.
    Returns:
        cues in their order, none overlapping; none for a segment without words.
    """
    texts = [chunks for part in parts if (chunks := _chunks(part, limits))]
    last = math.inf if end is None else 1000 * end
    drafts = []
    for number, chunks in enumerate(texts):
        until = texts[number + 1][0].start if number + 1 < len(texts) else last / 1000
        for first, stop in partition(len(chunks), _cost_of_cue(chunks, until, limits)):
            drafts.append(_Draft(chunks[first:stop], number, number))
    _merge(drafts, last, limits)
    starts = _starts(drafts, last, limits)
    return _timed(drafts, starts, last, limits)


def _clean(text: str) -> str:
    """Without what is no text: control characters, and code points that no file may hold."""
    return "".join(
        letter
        for letter in text
        if unicodedata.category(letter) not in ("Cc", "Cs")
        and not (0xFDD0 <= ord(letter) <= 0xFDEF or ord(letter) & 0xFFFE == 0xFFFE)
    )


def _chunks(part: Translation, limits: SubtitleLimits) -> list[Chunk]:
    assert part.start is not None and part.end is not None  # of speech
    words = part.words or _even_words(part.text, part.start, part.end)
    chunks: list[Chunk] = []
    place = 0
    for word in words:
        found = part.text.find(word.text, place)
        # Two segments in one cue stand apart as their sentences do.
        spaced = not WITHOUT_SPACES.match(word.text)
        if chunks and found >= 0:
            spaced = any(map(str.isspace, part.text[place:found]))
        place = max(place, found + len(word.text))
        text = _clean(word.text)
        if text:
            chunk = Chunk(text, spaced, word.start, word.end)
            chunks += cut_long(chunk, limits.max_line_characters)
    return chunks


def _even_words(text: str, start: float, end: float) -> list[Word]:
    """Its words, as if every letter took the same time."""
    letters = (end - start) / max(1, len(text))
    return [
        Word(match.group(), start + letters * match.start(), start + letters * match.end())
        for match in re.finditer(r"\S+", text)
    ]


def _cost_of_cue(
    chunks: Sequence[Chunk], until: float, limits: SubtitleLimits
) -> Callable[[int, int], float | None]:
    """See ``partition``; ``until``: seconds, when the next segment begins."""
    small = 0.4 * limits.max_lines * limits.max_line_characters

    def cost(first: int, stop: int) -> float | None:
        part = chunks[first:stop]
        if len(part) > 1 and (
            count_lines(part, limits.max_line_characters) > limits.max_lines
            or part[-1].end - part[0].start > limits.max_cue_seconds
        ):
            return None
        ends = stop == len(chunks)
        length = len(join_chunks(part))
        shown = 1000 * ((until if ends else chunks[stop].start) - part[0].start) - limits.gap
        hurry = 1 - shown / limits.reading_time(length)
        parting = 0.0 if ends else break_cost(part[-1], chunks[stop])
        return 3 + parting + 4 * max(0.0, 1 - length / small) ** 2 + 6 * min(1.0, max(0.0, hurry))

    return cost


def _merge(drafts: list[_Draft], last: float, limits: SubtitleLimits) -> None:
    """Take neighbours together where one of them could not stay long enough, and both can."""

    def hurry(draft: _Draft, until: float) -> float:
        """0 if it stays long enough; the more, the worse."""
        shown = max(1.0, min(until - limits.gap - draft.start, limits.longest))
        flash = 2.0 if shown < limits.shortest else 0.0
        return flash + max(0.0, limits.reading_time(draft.length) / shown - 1)

    def until(number: int) -> float:
        return drafts[number + 1].start if number + 1 < len(drafts) else last + limits.gap

    def gain(first: int) -> float:
        """What it brings to take a draft and the next one together."""
        if not 0 <= first < len(drafts) - 1:
            return 0.0
        one, other = drafts[first : first + 2]
        both = one + other
        if (
            other.start - one.spoken_until > 1000 * PAUSE_SECONDS
            or both.spoken_until - both.start > limits.longest
            or count_lines(both.chunks, limits.max_line_characters) > limits.max_lines
        ):
            return 0.0
        apart = hurry(one, other.start) + hurry(other, until(first + 1))
        return apart - hurry(both, until(first + 1))

    number = 0
    while number < len(drafts):
        first = max((number, number - 1), key=gain)
        if hurry(drafts[number], until(number)) > 0 and gain(first) > 0:
            drafts[first : first + 2] = [drafts[first] + drafts[first + 1]]
            number = max(0, first - 1)
        else:
            number += 1


def _starts(drafts: Sequence[_Draft], last: float, limits: SubtitleLimits) -> list[int]:
    """When cues come, in milliseconds: with their words, or later if one before needs the time."""
    latest = _latest_starts(drafts, last, limits)
    starts: list[int] = []
    for number, draft in enumerate(drafts):
        start = draft.start
        if starts:
            before = drafts[number - 1]
            inside = _continues(before, draft)
            before_it = starts[-1] + limits.gap
            late = start + LATEST
            flash = before_it + min(FLASH, max(1, limits.shortest))
            stays = min(before_it + limits.shortest, max(late, latest[number]) if inside else late)
            is_read = min(before_it + limits.reading_time(before.length), late) if inside else 0
            start = math.floor(max(start, flash, stays, is_read))
        starts.append(start)
    for number in range(len(drafts) - 1, 0, -1):
        before, draft = drafts[number - 1], drafts[number]
        if _continues(before, draft):
            # It comes earlier where the one before has time to spare.
            end = starts[number + 1] - limits.gap if number + 1 < len(drafts) else last
            lacking = limits.reading_time(draft.length) - (end - starts[number])
            needed_before = limits.reading_time(before.length)
            spare = starts[number] - limits.gap - starts[number - 1] - needed_before
            early = EARLIEST - (draft.start - starts[number])
            starts[number] -= math.floor(max(0.0, min(lacking, spare, early)))
    return starts


def _continues(before: _Draft, draft: _Draft) -> bool:
    """Whether the segment of one cue goes on in the next."""
    return before.last_segment == draft.first_segment


def _latest_starts(drafts: Sequence[_Draft], last: float, limits: SubtitleLimits) -> list[float]:
    """When cues must come so that they and the rest of their segment stay long enough before the
    next segment."""
    latest: list[float] = []
    following = last + limits.gap
    for number in range(len(drafts) - 1, -1, -1):
        if number + 1 < len(drafts) and not _continues(drafts[number], drafts[number + 1]):
            following = drafts[number + 1].start
        following -= limits.shortest + limits.gap
        latest.append(following)
    return latest[::-1]


def _timed(
    drafts: Sequence[_Draft], starts: Sequence[int], last: float, limits: SubtitleLimits
) -> list[Cue]:
    cues: list[Cue] = []
    for number, (draft, start) in enumerate(zip(drafts, starts)):
        following = drafts[number + 1] if number + 1 < len(drafts) else None
        latest = float(starts[number + 1] - limits.gap) if following else max(last, start + FLASH)
        lines = tuple(split_lines(draft.chunks, limits.max_line_characters))
        characters = Cue(0, 0, lines).characters
        end = max(draft.spoken_until, start + limits.reading_time(characters))
        if following and _continues(draft, following) and latest - end < CHAINED:
            end = starts[number + 1]
        end = math.floor(min(end, start + limits.longest, latest))
        free = cues[-1].end + limits.gap if cues else 0
        for needed, early in ((limits.shortest, EARLIEST), (limits.reading_time(characters), LEAD)):
            start = min(start, max(free, draft.start - early, end - needed))
        cues.append(Cue(start, end, lines))
    return _slowed(cues, drafts, last, limits)


def _slowed(
    cues: list[Cue], drafts: Sequence[_Draft], last: float, limits: SubtitleLimits
) -> list[Cue]:
    """The cues, those that are too fast longer where silence or a neighbour has time to spare."""

    def lacks(cue: Cue) -> int:
        return limits.reading_time(cue.characters) - (cue.end - cue.start)

    for number, (cue, draft) in enumerate(zip(cues, drafts)):
        if lacks(cue) <= 0:
            continue
        free = cues[number - 1].end + limits.gap if number else 0
        start = min(cue.start, max(free, draft.start - EARLIEST, cue.start - lacks(cue)))
        cue = replace(cue, start=start)
        if lacks(cue) > 0 and number + 1 < len(cues):
            following, spoken = cues[number + 1], drafts[number + 1].start
            until = last
            if number + 2 < len(cues):
                until = cues[number + 2].start - limits.gap
            needed = following.end - following.start + min(0, lacks(following))
            latest = min(until - needed, spoken + EARLIEST)
            delay = math.floor(min(lacks(cue), latest - following.start))
            if delay > 0:
                start = following.start + delay
                end = max(following.end, start + needed)
                cues[number + 1] = replace(following, start=start, end=end)
                cue = replace(cue, end=cue.end + delay)
        cues[number] = cue
    return cues


BROKEN = {
    "long lines": "have a line of more than {max_line_characters} characters",
    "many lines": "have more than {max_lines} lines",
    "long": "stay longer than {max_cue_seconds:g} s",
    "short": "stay shorter than {min_cue_seconds:g} s",
    "fast": "have more than {max_characters_per_second:g} characters a second",
}
"""What may be wrong with a cue, in words."""


def broken_limits(cues: Iterable[Cue], limits: SubtitleLimits) -> Counter[str]:
    """How many cues break which limit (keys of BROKEN), and how many cues there are (``cues``)."""
    count: Counter[str] = Counter()
    for cue in cues:
        shown = cue.end - cue.start
        count["cues"] += 1
        count["long lines"] += max(map(len, cue.lines)) > limits.max_line_characters
        count["many lines"] += len(cue.lines) > limits.max_lines
        count["long"] += shown > limits.longest
        count["short"] += shown < limits.shortest
        count["fast"] += 1000 * cue.characters > limits.max_characters_per_second * shown
    return count


def describe_broken(count: Mapping[str, int], limits: SubtitleLimits) -> str:
    """A line about what :func:`broken_limits` counted; empty if no limit is broken."""
    values = vars(limits)
    said = [f"{count[key]} {text.format(**values)}" for key, text in BROKEN.items() if count[key]]
    return f"of {count['cues']} cues {', '.join(said)}" if said else ""
