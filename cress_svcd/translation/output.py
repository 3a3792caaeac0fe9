"""Translations as text, JSON lines and subtitles, in one stream or in a file each."""

import argparse
import contextlib
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from cress_svcd.atomic_files import (
    full_told,
    refuse_overwriting,
    replacing,
    require_writable,
    to_json,
    write_text,
)
from cress_svcd.data.audio import audio_info
from cress_svcd.errors import AudioError, ConfigError, OutputError
from cress_svcd.translation import subtitle_files
from cress_svcd.translation.result import Translation, Word
from cress_svcd.translation.subtitles import SubtitleLimits, broken_limits, make_cues

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FormatOptions:
    """What formats are given.

    limits: of subtitles.
    words: JSON lines have the words' times.
    transcript: text and subtitles show what was said in the place of its translation, JSON lines
        have both.
    broken: counts the subtitles that are written, and which limits they break.
    """

    limits: SubtitleLimits = SubtitleLimits()
    words: bool = False
    transcript: bool = False
    broken: Counter[str] = field(default_factory=Counter)

    def shown(self, translation: Translation) -> Translation:
        """What takes the place of a translation."""
        if not self.transcript:
            return translation
        return replace(
            translation, text=translation.transcript or "", words=translation.transcript_words
        )


class Format(Protocol):
    """How the translations of one recording after the other are written."""

    suffix: str
    timed: bool
    """Whether it needs times, and writes a recording when all of it is known."""

    def add(self, translation: Translation, number: int, source: str) -> str:
        """What is written as soon as a translation is there: whole lines, or nothing.

        ``number`` counts the segments of the recording ``source`` from 0.
        """

    def finish(self, end: float | None) -> str:
        """What is written when the recording is complete; ``end``: its seconds, if known."""


class Text:
    """A line for each segment."""

    suffix, timed = ".txt", False

    def __init__(self, options: FormatOptions = FormatOptions()):
        self.options = options

    def add(self, translation: Translation, number: int, source: str) -> str:
        return " ".join(self.options.shown(translation).text.split()) + "\n"

    def finish(self, end: float | None) -> str:
        return ""


class JsonLines:
    """An object for each segment, in a line of its own.

    ascii: all other characters are escaped.
    """

    suffix, timed = ".jsonl", False
    ascii = False

    def __init__(self, options: FormatOptions = FormatOptions()):
        self.options = options

    def add(self, translation: Translation, number: int, source: str) -> str:
        record: dict[str, Any] = {"source": source, "segment": number}
        if translation.start is not None and translation.end is not None:
            record |= {"start": round(translation.start, 3), "end": round(translation.end, 3)}
        record |= {
            "text": translation.text,
            "score": round(translation.score, 4),
            "tokens": list(translation.tokens),
        }
        if translation.decoded_again:
            record["decoded_again"] = True
        if self.options.words:
            record["words"] = as_json(translation.words)
        if self.options.transcript:
            record["transcript"] = translation.transcript
            if self.options.words:
                record["transcript_words"] = as_json(translation.transcript_words)
        return (json.dumps(record) if self.ascii else to_json(record)) + "\n"

    def finish(self, end: float | None) -> str:
        return ""


def as_json(words: Iterable[Word]) -> list[dict[str, Any]]:
    return [{"word": word.text, "start": word.start, "end": word.end} for word in words]


class Subtitles:
    """Cues within the limits of subtitles, written when a recording is complete."""

    name, suffix, timed = "", "", True

    def __init__(self, options: FormatOptions = FormatOptions()):
        self.options = options
        self.parts: list[Translation] = []

    def add(self, translation: Translation, number: int, source: str) -> str:
        self.parts.append(self.options.shown(translation))
        return ""

    def finish(self, end: float | None) -> str:
        parts, self.parts = self.parts, []
        if end is not None:  # a header may say less than there is
            end = max([end, *(part.end for part in parts if part.end is not None)])
        cues = make_cues(parts, self.options.limits, end)
        for cue in cues:
            if broken_limits([cue], self.options.limits)["fast"]:
                shown = (cue.end - cue.start) / 1000
                logger.debug(
                    "%.3f s: %d characters in %.3f s: %s",
                    cue.start / 1000,
                    cue.characters,
                    shown,
                    " ".join(cue.lines),
                )
        self.options.broken.update(broken_limits(cues, self.options.limits))
        return subtitle_files.render(cues, self.name)


class SubRip(Subtitles):
    """SRT."""

    name, suffix = "srt", ".srt"


class WebVtt(Subtitles):
    """WebVTT (W3C)."""

    name, suffix = "vtt", ".vtt"


class Ttml(Subtitles):
    """TTML (W3C)."""

    name, suffix = "ttml", ".ttml"


FORMATS: dict[str, Any] = {
    "text": Text,
    "jsonl": JsonLines,
    "srt": SubRip,
    "vtt": WebVtt,
    "ttml": Ttml,
}


@dataclass(frozen=True)
class Source:
    """Something to translate."""

    name: str
    """As the user named it."""
    path: Path
    """Where it is read from."""
    stem: Path
    """The name of its own output, without suffix, relative to the output folder."""


class Output(Protocol):
    """Where translations go."""

    def begin(self, source: Source) -> None:
        """``source`` will be written, after what was begun before it.

        Raises:
            ConfigError: there is no place for it.
        """

    def write(self, source: Source, translation: Translation) -> None: ...

    def finish(self, source: Source, failed: bool) -> None:
        """All of ``source`` has been written."""


class OneStream:
    """Everything in one stream, as it comes."""

    def __init__(self, stream: TextIO, form: Format):
        self.stream, self.form = stream, form
        self.count = 0
        if isinstance(form, JsonLines) and not encodes_all(stream):
            form.ascii = True  # by JSON's own escapes, rather than by those of the terminal

    def begin(self, source: Source) -> None:
        pass

    def write(self, source: Source, translation: Translation) -> None:
        self._write(self.form.add(translation, self.count, source.name))
        self.count += 1

    def finish(self, source: Source, failed: bool) -> None:
        self.count = 0
        rest = self.form.finish(recording_end(self.form, source))
        if not failed:
            self._write(rest)

    def _write(self, text: str) -> None:
        if text:
            with tqdm.external_write_mode(file=self.stream):
                self.stream.write(text)
                self.stream.flush()


def encodes_all(stream: TextIO) -> bool:
    """Whether a stream has an encoding of all characters."""
    return (
        (getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")
    )


def not_written_to(output: str | None, sources: Iterable[Source]) -> Iterator[Source]:
    """``sources``; raises ConfigError at one that is the file that all is written to."""
    for source in sources:
        refuse_overwriting([("--output", output)] if output else [], [source.path])
        yield source


class FileEach:
    """A file for each source, written when it is complete.

    Raises:
        OutputError: nothing can be written to ``folder``.
    """

    def __init__(self, folder: Path, make_form: Callable[[], Format]):
        require_writable(folder)  # rather than after each recording
        self.folder, self.make_form = folder, make_form
        self.translations: list[Translation] = []
        self.owners: dict[Path, str] = {}

    def begin(self, source: Source) -> None:
        owner = self.owners.setdefault(source.stem, source.name)
        if owner != source.name:
            raise ConfigError(
                f"{source.name}: its output would take the place of that of {owner}; give them "
                "different names, or translate one of them elsewhere"
            )
        refuse_overwriting([("--output", self._path(source))], [source.path])

    def write(self, source: Source, translation: Translation) -> None:
        self.translations.append(translation)

    def finish(self, source: Source, failed: bool) -> None:
        translations, self.translations = self.translations, []
        if failed:
            return
        form = self.make_form()
        parts = [form.add(part, i, source.name) for i, part in enumerate(translations)]
        parts.append(form.finish(recording_end(form, source)))
        write_text(self._path(source), "".join(parts))

    def _path(self, source: Source) -> Path:
        return self.folder / source.stem.with_name(source.stem.name + self.make_form().suffix)


def recording_end(form: Format, source: Source) -> float | None:
    """The seconds of a recording, if the format asks for times and they are known."""
    if not form.timed:
        return None
    try:
        info = audio_info(source.path)
    except AudioError:
        return None
    return info.frames / info.sample_rate


def discard_standard_output() -> None:
    """Let what is still to be written go nowhere; Python would fail again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def open_stream(output: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears when the block succeeds.

    Raises:
        OutputError: the disk is full.
    """
    if output is None:
        try:
            with full_told("standard output"):
                yield sys.stdout
        except OutputError:
            discard_standard_output()
            raise
        return
    with replacing(output) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        yield stream


def output_folder(args: argparse.Namespace, inputs: list[str]) -> Path | None:
    """The folder for a file for each recording; None: everything goes into one stream.

    Raises:
        ConfigError: subtitles of several recordings in one stream or file, or of text.
    """
    timed = FORMATS[args.output_format].timed
    if args.text and timed:
        raise ConfigError(f"--output-format {args.output_format}: text has no times; take jsonl")
    output = args.output
    if output and (output.endswith(os.sep) or os.path.isdir(output)):
        return Path(output)
    several = args.from_list or len(inputs) > 1 or os.path.isdir(inputs[0])
    if not (timed and several):
        return None
    names_file = output and Path(output).suffix.lower() == FORMATS[args.output_format].suffix
    if not output or names_file or os.path.exists(output):
        raise ConfigError(
            f"--output-format {args.output_format}: several recordings need a file each; give "
            "-o FOLDER/" + (f" ({output} is a file)" if output else "")
        )
    return Path(output)
