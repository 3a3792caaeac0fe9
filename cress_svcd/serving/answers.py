"""Answers in the forms of the protocol."""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from cress_svcd.serving.models import ServedModel
from cress_svcd.serving.web import JSONResponse, PlainTextResponse, Response
from cress_svcd.translation.output import FORMATS as OUTPUT_FORMATS
from cress_svcd.translation.output import as_json
from cress_svcd.translation.result import Translation, join


def as_text(model: ServedModel, parts: Sequence[Translation], seconds: float) -> Response:
    """JSON with nothing but the words."""
    return JSONResponse({"text": join(parts).text})


def as_verbose(model: ServedModel, parts: Sequence[Translation], seconds: float) -> Response:
    """JSON with segments, times and scores; the protocol's keys, and ours."""
    whole = join(parts)
    return JSONResponse(
        {
            "task": "translate",
            "language": model.language,
            "duration": round(seconds, 3),
            "text": whole.text,
            "segments": [segment(model, number, part) for number, part in enumerate(parts)],
            "model": model.name,
            "score": rounded(whole.score),
        }
    )


def segment(model: ServedModel, number: int, part: Translation) -> dict[str, Any]:
    """A segment as the protocol has it.

    avg_logprob: natural logarithm; ``score`` is what ``translate`` prints.
    no_speech_prob: always 0, where nothing is heard there is no segment.
    """
    written = part.text.encode()
    start, end = part.start or 0.0, part.end or 0.0
    return {
        "id": number,
        "seek": int(100 * start),
        "start": round(start, 3),
        "end": round(end, 3),
        "text": part.text,
        "tokens": [model.translator.token_number(token) for token in part.tokens],
        "temperature": 0.0,
        "avg_logprob": rounded(part.score * math.log(2)),
        "compression_ratio": round(len(written) / len(zlib.compress(written)), 3),
        "no_speech_prob": 0.0,
        "score": rounded(part.score),
        "words": as_json(part.words),
    }


def rounded(score: float) -> float:
    return round(score, 4) if math.isfinite(score) else 0.0


def written_as(name: str, media: str) -> Callable[..., Response]:
    """Answers in a format of ``translate``."""

    def answer(model: ServedModel, parts: Sequence[Translation], seconds: float) -> Response:
        form = OUTPUT_FORMATS[name]()
        lines = [form.add(part, number, "") for number, part in enumerate(parts)]
        return PlainTextResponse("".join([*lines, form.finish(seconds)]), media_type=media)

    return answer


ANSWERS: dict[str, Callable[..., Response]] = {
    "json": as_text,
    "text": written_as("text", "text/plain"),
    "srt": written_as("srt", "application/x-subrip"),
    "vtt": written_as("vtt", "text/vtt"),
    "verbose_json": as_verbose,
}
TIMED = ("srt", "vtt", "verbose_json")
