"""Translations as text, JSON lines and subtitles, in one stream or in a file each."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from cress_svcd.atomic_files import full_told, replacing, write_text
from cress_svcd.errors import ConfigError, OutputError
from cress_svcd.translation.translator import Translation


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
        record: dict[str, Any] = {"source": source, "segment": number}
        if translation.start is not None and translation.end is not None:
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

    def __init__(self) -> None:
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


FORMATS: dict[str, Any] = {"text": Text, "jsonl": JsonLines, "srt": SubRip, "vtt": WebVtt}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def timestamps(translation: Translation, point: str) -> tuple[str, str]:
    """Start and end as HH:MM:SS.mmm; the end comes after the start."""
    assert translation.start is not None and translation.end is not None  # of speech
    start = round(1000 * translation.start)
    end = max(start + 1, round(1000 * translation.end))
    return _timestamp(start, point), _timestamp(end, point)


def _timestamp(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


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
        self._write(form.header)

    def begin(self, source: Source) -> None:
        pass

    def write(self, source: Source, translation: Translation) -> None:
        self._write(self.form.render(translation, self.count, source.name))
        self.count += 1

    def finish(self, source: Source, failed: bool) -> None:
        self.count = 0

    def _write(self, text: str) -> None:
        if text:
            with tqdm.external_write_mode(file=self.stream):
                self.stream.write(text)
                self.stream.flush()


class FileEach:
    """A file for each source, written when it is complete."""

    def __init__(self, folder: Path, make_form: Callable[[], Format]):
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

    def write(self, source: Source, translation: Translation) -> None:
        self.translations.append(translation)

    def finish(self, source: Source, failed: bool) -> None:
        translations, self.translations = self.translations, []
        if failed:
            return
        form = self.make_form()
        parts = [form.render(part, i, source.name) for i, part in enumerate(translations)]
        path = self.folder / source.stem.with_name(source.stem.name + form.suffix)
        write_text(path, form.header + "".join(parts))


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
    if output and (output.endswith(os.sep) or Path(output).is_dir()):
        return Path(output)
    several = args.from_list or len(inputs) > 1 or Path(inputs[0]).is_dir()
    if not (timed and several):
        return None
    names_file = output and Path(output).suffix.lower() == FORMATS[args.output_format].suffix
    if not output or names_file or Path(output).exists():
        raise ConfigError(
            f"--output-format {args.output_format}: several recordings need a file each; give "
            "-o FOLDER/" + (f" ({output} is a file)" if output else "")
        )
    return Path(output)
