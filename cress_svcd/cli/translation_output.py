"""Translations as text, JSON lines and subtitles."""

import json
from typing import Protocol, TextIO

from cress_svcd.translator import Translation


class Format(Protocol):
    """How the translations of one file are written."""

    suffix: str
    header: str
    """Begins the file."""
    timed: bool
    """Whether it needs times."""

    def render(self, translation: Translation, number: int, source: str) -> str:
        """What a translation adds to the file: whole lines, or nothing.

        ``number`` counts the segments of the recording ``source`` from 0.
        """


class Text:
    """A line for each segment."""

    suffix, header, timed = ".txt", "", False

    def render(self, translation: Translation, number: int, source: str) -> str:
        return _one_line(translation.text) + "\n"


class JsonLines:
    """An object for each segment, in a line of its own."""

    suffix, header, timed = ".jsonl", "", False

    def render(self, translation: Translation, number: int, source: str) -> str:
        record: dict = {"source": source, "segment": number}
        if translation.start is not None:
            record |= {"start": round(translation.start, 3), "end": round(translation.end, 3)}
        record |= {
            "text": translation.text,
            "score": round(translation.score, 4),
            "tokens": list(translation.tokens),
        }
        return json.dumps(record, ensure_ascii=False) + "\n"


class SubRip:
    """SRT: numbered cues.  A segment without words gives none."""

    suffix, header, timed = ".srt", "", True

    def __init__(self):
        self.cues = 0

    def render(self, translation: Translation, number: int, source: str) -> str:
        text = _one_line(translation.text)
        if not text:
            return ""
        self.cues += 1
        start, end = timestamps(translation, ",")
        # The format has no escapes; an arrow would be read as a line of times.
        return f"{self.cues}\n{start} --> {end}\n{text.replace('-->', '→')}\n\n"


class WebVtt:
    """WebVTT (W3C): cues.  A segment without words gives none."""

    suffix, header, timed = ".vtt", "WEBVTT\n\n", True

    def render(self, translation: Translation, number: int, source: str) -> str:
        text = _one_line(translation.text)
        if not text:
            return ""
        for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, escape)
        start, end = timestamps(translation, ".")
        return f"{start} --> {end}\n{text}\n\n"


FORMATS = {"text": Text, "jsonl": JsonLines, "srt": SubRip, "vtt": WebVtt}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def timestamps(translation: Translation, point: str) -> tuple[str, str]:
    """Start and end as HH:MM:SS.mmm; the end comes after the start."""
    start = round(1000 * translation.start)
    end = max(start + 1, round(1000 * translation.end))
    return _timestamp(start, point), _timestamp(end, point)


def _timestamp(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


class Writer:
    """Writes the translations of one recording after the other to a stream, at once."""

    def __init__(self, stream: TextIO, form: Format):
        self.stream, self.form = stream, form
        self.count = 0
        self._write(form.header)

    def write(self, translation: Translation, source: str) -> None:
        self._write(self.form.render(translation, self.count, source))
        self.count += 1

    def next_recording(self) -> None:
        self.count = 0

    def _write(self, text: str) -> None:
        if text:
            self.stream.write(text)
            self.stream.flush()
