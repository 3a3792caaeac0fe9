"""What is to be translated: files, folders, lists, standard input."""

import argparse
import contextlib
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cress_svcd.atomic_files import announced_encoding, full_told
from cress_svcd.data.audio import SUFFIXES, audio_info
from cress_svcd.data.corpus.names import existing
from cress_svcd.data.corpus.text import BYTE_ORDER_MARK, is_visible
from cress_svcd.errors import ConfigError
from cress_svcd.translation.output import Source

STDIN = "-"


@dataclass(frozen=True)
class Unusable(Source):
    """A name under which there is nothing to translate.

    reason: why.
    """

    reason: str = ""


def unusable(name: str, reason: str) -> Unusable:
    return Unusable(name, Path(name), Path("none"), reason)


def list_sources(
    args: argparse.Namespace, inputs: list[str], stack: contextlib.ExitStack
) -> Iterable[Source]:
    """What the inputs name, in their order; lists are read as they are used.

    Raises:
        OutputError: there is no room for what comes on standard input.
    """
    if args.text:
        stems = [Path("stdin") if name == STDIN else stem_of(Path(name)) for name in inputs]
        return [Source(name, Path(name), stem) for name, stem in zip(inputs, stems)]
    if args.from_list:
        return (source for name in inputs for source in expand_list(name))
    sources: list[Source] = []
    for name in inputs:
        if name == STDIN or is_open_pipe(name):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cress-svcd-"))
            path = Path(folder) / "stdin"
            # Audio is read by seeking, which a pipe cannot.
            with contextlib.ExitStack() as opened:
                opened.enter_context(full_told(path))
                copy = opened.enter_context(open(path, "wb"))
                pipe = sys.stdin.buffer if name == STDIN else opened.enter_context(open(name, "rb"))
                shutil.copyfileobj(pipe, copy)
            said = "standard input" if name == STDIN else name
            sources.append(Source(said, path, Path("stdin" if name == STDIN else Path(name).name)))
        else:
            sources += expand(name)
    return sources


def is_open_pipe(name: str) -> bool:
    """Whether it is a pipe that somebody else has opened, as shells' ``<(command)`` are.

    A named one may have no writer, and nobody knows how long to wait.
    """
    opened = name == "/dev/stdin" or name.startswith(("/dev/fd/", "/proc/self/fd/"))
    return opened and Path(name).is_fifo()


def stem_of(path: Path) -> Path:
    """The name of an output without a suffix: that of ``path``, where it is one."""
    return Path(path.stem if path.stem.strip(".") else path.name or "unnamed")


def expand_list(name: str) -> Iterator[Source]:
    """What the lines of a list name; an unusable source where it cannot be read (on)."""
    try:
        # Any bytes can be the name of a file.
        for line in read_lines(name, undecodable="surrogateescape"):
            if "\0" in line:
                reason = "holds the character 0; expected a path a line, as find -print writes them"
                yield unusable(line.replace("\0", " ")[:80].strip(), reason)
            elif is_name(line):
                yield from expand(find_name(line))
    except ConfigError as error:
        place, _, reason = str(error).removeprefix(name).partition(": ")
        yield unusable(f"{name}{place}", reason)


def find_name(line: str) -> str:
    """The name that a line means: as it stands if there is such a file, else without what is
    around it."""
    return line if os.path.lexists(line) else line.strip().strip(BYTE_ORDER_MARK)


def find_path(name: str) -> Path:
    """The file of a name, composed or decomposed: programs and file systems have their own ways."""
    if is_utf8(name):
        return existing(name)
    # A list in Latin-1 may name files whose names are in UTF-8.
    found = existing(os.fsencode(name).decode("latin-1"))
    return found if os.path.lexists(found) and not os.path.lexists(name) else Path(name)


def is_utf8(name: str) -> bool:
    """Whether a name holds no bytes that are no text."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def is_name(text: str) -> bool:
    """Whether it names something: not where nothing of it is seen, unless there is such a file."""
    # Bytes that are no text are seen: as question marks here.
    return is_visible(text.encode("utf-8", "replace").decode("utf-8")) or os.path.lexists(text)


def read_lines(name: str, undecodable: str = "strict") -> Iterator[str]:
    """Lines of a text file, or of standard input, without byte-order marks.

    UTF-8, what a byte-order mark announces, or UTF-16 without one.

    Args:
        undecodable: what becomes of bytes that are not UTF-8, see :func:`codecs.register_error`.
    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    number = 0
    with contextlib.ExitStack() as stack:
        try:
            file = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
            first = file.readline()
            encoding = announced_encoding(first) or unannounced_encoding(first)
            if encoding not in (None, "utf-8-sig"):
                whole = (first + file.read()).decode(encoding).removesuffix("\n")
                yield from (line.removesuffix("\r") for line in whole.split("\n"))
                return
            lines = itertools.chain([first] if first else [], file)
            for number, line in enumerate(lines, 1):  # noqa: B007 - an error below names it
                # Also within a file: where several were joined, each with a mark of its own.
                yield line.decode("utf-8", undecodable).rstrip("\r\n").removeprefix(BYTE_ORDER_MARK)
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            where = f":{number}" if number else ""
            raise ConfigError(
                f"{name}{where}: is not {error.encoding.upper()} ({error.reason}); expected "
                "UTF-8, or UTF-16 with or without a byte-order mark: iconv converts others"
            ) from None


def unannounced_encoding(line: bytes) -> str | None:
    """UTF-16, if most letters of a first line have a zero byte, always on the same side."""
    even, odd = line[::2], line[1::2]
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if 2 * zeros.count(0) > max(2, len(others)) and others.count(0) == 0:
            return encoding
    return None


def expand(name: str) -> list[Source]:
    """A file, whether it is there or not; or all audio below a folder, in the order of names.

    What is hidden below the folder (its name begins with a dot) is other programs' own, such as
    macOS's ._talk.wav next to talk.wav, and left out.  What cannot be searched is in its place, as
    a source that is not usable.
    """
    if not is_name(name):
        return [unusable(name, "is an empty name")]
    path = find_path(name)
    if not os.path.isdir(path):
        return [Source(name, path, stem_of(path))]
    sources: list[Source] = []
    for file, reason in sorted(search(path)):
        if reason:
            sources.append(unusable(str(file), reason))
        else:
            sources.append(Source(str(file), file, file.relative_to(path).with_suffix("")))
    if not sources:
        suffixes = " ".join(sorted(SUFFIXES))
        return [unusable(name, f"no recording below it that is not hidden; looked for {suffixes}")]
    return sources


def search(root: Path) -> Iterator[tuple[Path, str]]:
    """All recordings below a folder, and with a reason what cannot be searched."""
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            about = os.stat(folder)
            names = os.listdir(folder)
        except OSError as error:
            yield folder, f"cannot be searched ({error.strerror})"
            continue
        identity = about.st_dev, about.st_ino
        if identity in above:
            yield folder, "is a link to a folder that it lies in"
            continue
        for name in names:
            path = folder / name
            if name.startswith("."):
                continue
            if os.path.isdir(path):
                waiting.append((path, above | {identity}))
            elif os.path.islink(path) and not os.path.exists(path):
                if path.suffix.lower() in {*SUFFIXES, ""}:  # it may have been a folder
                    yield path, "is a link to nothing"
            elif path.suffix.lower() in SUFFIXES:
                yield path, ""


def duration(path: Path) -> float:
    """Seconds of a recording; 0 if it cannot be used, which its turn will tell."""
    try:
        info = audio_info(path)
    except Exception:  # whatever a library raises
        return 0.0
    return info.frames / info.sample_rate
