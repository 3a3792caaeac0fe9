"""Subtitles as a viewer gets them: words, their times and their breaks, in one score.

SubER (Wilken, Georgakopoulou and Matusov, IWSLT 2022) counts the edits that turn the subtitles into
those of the reference, in percent of its words and breaks; a word counts as right only if its
subtitle overlaps that of the reference in time.  0 is best.
"""

import importlib.metadata
from collections.abc import Iterable
from typing import Any

from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.realignment import require_extra
from cress_svcd.evaluation.subtitle_reading import Cue, parse_subtitles
from cress_svcd.translation.output import FORMATS
from cress_svcd.translation.translator import Translation

PAUSE_SECONDS = 10.0
"""Between recordings, which are scored one behind the other."""


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
