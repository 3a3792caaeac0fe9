"""Subtitles as a viewer gets them: words, their times and their breaks, in one score.

SubER (Wilken, Georgakopoulou and Matusov, IWSLT 2022) counts the edits that turn the subtitles into
those of the reference, in percent of its words and breaks; a word counts as right only if its
subtitle overlaps that of the reference in time.  0 is best.
"""

import html
import importlib.metadata
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cress_svcd.atomic_files import read_text
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.realignment import require_extra
from cress_svcd.translation.output import FORMATS
from cress_svcd.translation.translator import Translation

SUFFIXES = (".srt", ".vtt")
PAUSE_SECONDS = 10.0
"""Between recordings, which are scored one behind the other."""

_TIME = r"(?:(\d+):)?(\d\d):(\d\d)[,.](\d\d\d)"
_TIMES = re.compile(rf"{_TIME}[ \t]+-->[ \t]+{_TIME}(?:[ \t].*)?")
_TAG = re.compile(r"</?[a-z][^>]*>", re.IGNORECASE)
_NO_TAG = "<\u2060"  # a word joiner keeps players from reading a tag


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
    """Cues of a SubRip or WebVTT file, in the order of time; tags are left out.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 ({error.reason})") from None
    cues = parse_subtitles(text, escapes=path.suffix.lower() == ".vtt")
    if not cues and text.strip() not in ("", "WEBVTT"):
        raise ConfigError(f"{path}: no subtitle in it; expected SubRip (.srt) or WebVTT (.vtt)")
    return cues


def parse_subtitles(text: str, escapes: bool = False) -> list[Cue]:
    """Cues of SubRip or WebVTT; ``escapes``: ``&amp;`` and the like stand for characters."""
    cues = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        lines = [line.strip() for line in block.split("\n")]
        found = [(i, match) for i, line in enumerate(lines) if (match := _TIMES.fullmatch(line))]
        if not found:
            continue
        first, times = found[0]
        shown = [_TAG.sub("", line).replace(_NO_TAG, "<") for line in lines[first + 1 :]]
        shown = [" ".join(line.split()) for line in shown]
        if escapes:
            shown = [html.unescape(line) for line in shown]
        start, end = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
        cues.append(Cue(start, max(start, end), tuple(line for line in shown if line)))
    return sorted(cues, key=lambda cue: cue.start)


def _seconds(fields: Sequence[str | None]) -> float:
    hours, minutes, seconds, thousandths = (int(field or 0) for field in fields)
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000


def as_subtitles(segments: Iterable[tuple[float, float, str]]) -> list[Cue]:
    """Segments (start, end, text) as 'cress-svcd translate' writes them into subtitles."""
    form = FORMATS["srt"]()
    # Formats write segment by segment, or at the end of a recording.
    add = form.render if hasattr(form, "render") else form.add
    written = [
        add(Translation(text, 0.0, (), start, end), number, "")
        for number, (start, end, text) in enumerate(segments)
    ]
    if hasattr(form, "finish"):
        written.append(form.finish(None))
    return parse_subtitles("".join(written))


def measure_subtitles(pairs: Iterable[tuple[list[Cue], list[Cue]]], language: str = "") -> dict:
    """SubER of recordings, each a pair of its subtitles and those of the reference.

    Returns:
        ``suber`` (without case and punctuation), ``suber_cased``, ``suber_signature``.
    Raises:
        ConfigError: subtitle-edit-rate is not installed, or lacks a tokenizer for ``language``.
    """
    library = require_extra("suber.metrics.suber", "subtitle-edit-rate")
    hypotheses: list[Any] = []
    references: list[Any] = []
    offset = 0.0
    for hypothesis, reference in pairs:
        for cues, subtitles in ((hypothesis, hypotheses), (reference, references)):
            in_order = sorted(cues, key=lambda cue: cue.start)
            subtitles += [_subtitle(cue, offset) for cue in in_order]
        offset += PAUSE_SECONDS + max((cue.end for cue in [*hypothesis, *reference]), default=0.0)
    tokenizer = language if language in ("ja", "ko", "zh") else None
    scores = {}
    for key, metric in (("suber", "SubER"), ("suber_cased", "SubER-cased")):
        try:
            scores[key] = library.calculate_SubER(
                hypotheses, references, metric=metric, language=tokenizer
            )
        except (ImportError, RuntimeError) as error:  # sacreBLEU's tokenizers ask for packages
            raise ConfigError(f"SubER of language {language}: {error}") from None
    version = importlib.metadata.version("subtitle-edit-rate")
    return {
        **{key: round(score, 2) for key, score in scores.items()},
        "suber_signature": f"SubER|lang:{tokenizer or 'any'}|version:{version}",
    }


def _subtitle(cue: Cue, offset: float) -> Any:
    types = require_extra("suber.data_types", "subtitle-edit-rate")
    start, end = cue.start + offset, cue.end + offset
    words = []
    for line in cue.lines:
        words += [types.TimedWord(word, types.LineBreak.NONE, start, end) for word in line.split()]
        words[-1].line_break = types.LineBreak.END_OF_LINE
    if words:
        words[-1].line_break = types.LineBreak.END_OF_BLOCK
    return types.Subtitle(word_list=words, index=0, start_time=start, end_time=end)
