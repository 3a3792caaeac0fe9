"""Subtitles out of their files: SubRip, WebVTT and TTML."""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cress_svcd.atomic_files import require_text
from cress_svcd.errors import ConfigError

SUFFIXES = (".srt", ".vtt", ".ttml")

_TIME = r"(?:([0-9]{1,6}):)?([0-5][0-9]):([0-5][0-9])[,.]([0-9]{3})"
_TIMES = re.compile(rf"{_TIME}[ \t]+-->[ \t]+{_TIME}(?:[ \t].*)?")
_TAG = re.compile(r"</?[a-z][^>]*>", re.IGNORECASE)
_NO_TAG = "<\u2060"  # a word joiner keeps players from reading a tag
# Blocks of WebVTT without words.
_NO_CUE = re.compile(r"(?:WEBVTT|NOTE|STYLE|REGION)(?:\s|$)")
_CLOCK = re.compile(r"([0-9]{1,6}):([0-5][0-9]):([0-5][0-9](?:\.[0-9]{1,9})?)")
_OFFSET = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s)")
_BREAK = "\x1f"  # which no XML holds
_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}


@dataclass(frozen=True)
class Cue:
    """What stands on the screen from ``start`` to ``end`` seconds."""

    start: float
    end: float
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.lines)


def read_subtitles(path: Path) -> list[Cue]:
    """Cues of a SubRip, WebVTT or TTML file, in the order of time; tags are left out.

    Raises:
        ConfigError: it cannot be read, or something in it cannot (with its line): times that are
            none, or run backwards; words without times; a cue that stands there twice.
    """
    text = require_text(path)
    form = path.suffix.lower()
    if form == ".ttml":
        return _read_ttml(text, path)
    return parse_subtitles(text, escapes=form == ".vtt", where=path)


def parse_subtitles(text: str, escapes: bool = False, where: Path | str = "") -> list[Cue]:
    """Cues of SubRip or WebVTT, in the order of time.

    Args:
        escapes: it is WebVTT, where ``&amp;`` and the like stand for characters.
        where: the file, for messages.
    Raises:
        ConfigError: as :func:`read_subtitles`.
    """
    cues: list[Cue] = []
    begun: dict[tuple[float, float, tuple[str, ...]], int] = {}
    for number, lines in _blocks(text.replace("\r\n", "\n")):
        first = next((i for i, line in enumerate(lines[:2]) if "-->" in line), None)
        if first is None:
            if escapes and _NO_CUE.match(lines[0]):
                continue
            if escapes or not cues:
                raise ConfigError(
                    f"{where}:{number}: {lines[0][:60]!r} is no subtitle in it; expected "
                    + ("WebVTT (.vtt)" if escapes else "SubRip (.srt)")
                )
            # An empty line within a cue: players go on with it.
            before = cues.pop()
            cues.append(Cue(before.start, before.end, before.lines + _shown(lines, escapes)))
            continue
        times, place = _TIMES.fullmatch(lines[first]), f"{where}:{number + first}"
        if not times:
            raise ConfigError(
                f"{place}: {lines[first][:60]!r}; expected times as in 00:00:01,500 --> "
                "00:00:04,000"
            )
        start, end = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
        cue = Cue(start, end, _shown(lines[first + 1 :], escapes))
        _check(cue, place)
        same = begun.setdefault((start, end, cue.lines), number)
        if same != number:
            raise ConfigError(
                f"{place}: the same words at the same time as in line {same}; leave one of them"
            )
        cues.append(cue)
    return sorted(cues, key=lambda cue: cue.start)


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """What empty lines separate, each with the number of its first line, from 1."""
    lines: list[str] = []
    number = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            lines.append(line.strip())
        elif lines:
            yield number - len(lines), lines
            lines = []
    if lines:
        yield number + 1 - len(lines), lines


def _shown(lines: Sequence[str], escapes: bool) -> tuple[str, ...]:
    """What of the lines is seen, without tags."""
    shown = [_TAG.sub("", line).replace(_NO_TAG, "<") for line in lines]
    if escapes:
        shown = [html.unescape(line) for line in shown]
    shown = [" ".join(line.split()) for line in shown]
    return tuple(line for line in shown if line)


def _seconds(fields: Sequence[str | None]) -> float:
    hours, minutes, seconds, thousandths = (int(field or 0) for field in fields)
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000


def _check(cue: Cue, place: str) -> None:
    if not 0 <= cue.start <= cue.end:
        raise ConfigError(f"{place}: from {cue.start:g} to {cue.end:g} s; expected times that rise")


def _read_ttml(text: str, path: Path) -> list[Cue]:
    try:
        root = ElementTree.fromstring(text) if text.strip() else ElementTree.Element("tt")
    except ElementTree.ParseError as error:
        line = error.position[0]
        raise ConfigError(f"{path}:{line}: is not TTML ({error.msg})") from None
    if _local(root) != "tt":
        raise ConfigError(f"{path}: its root is {_local(root)[:60]!r}; expected TTML (tt)")
    seen: set[Cue] = set()
    for paragraph in root.iter():
        if _local(paragraph) != "p":
            continue
        lines = _lines(paragraph)
        place = f"{path}: {' '.join(lines)[:60]!r}"
        start = _ttml_seconds(paragraph, "begin", place)
        timed = "end" if "end" in paragraph.attrib else "dur"
        end = _ttml_seconds(paragraph, timed, place) + (start if timed == "dur" else 0)
        cue = Cue(start, end, lines)
        _check(cue, place)
        if cue in seen:
            raise ConfigError(f"{place}: stands there twice at {start:g} s; leave one of them")
        seen.add(cue)
    return sorted(seen, key=lambda cue: (cue.start, cue.end))


def _local(element: ElementTree.Element) -> str:
    """The name without its namespace; nothing of a comment."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _lines(paragraph: ElementTree.Element) -> tuple[str, ...]:
    for element in paragraph.iter():
        if _local(element) == "br":
            element.text = _BREAK
    lines = "".join(paragraph.itertext()).split(_BREAK)
    return tuple(shown for line in lines if (shown := " ".join(line.split())))


def _ttml_seconds(paragraph: ElementTree.Element, key: str, place: str) -> float:
    text = paragraph.get(key, "")
    clock, offset = _CLOCK.fullmatch(text), _OFFSET.fullmatch(text)
    if clock:
        return 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3])
    if offset:
        return float(offset[1]) * _UNITS[offset[2]]
    expected = "expected a time as in 00:00:01.500 or 1.5s"
    raise ConfigError(f"{place}: {key} {text[:60]!r}; {expected}")
