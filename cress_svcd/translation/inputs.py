"""What is to be translated: files, folders, lists, standard input."""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from cress_svcd.data.audio import SUFFIXES, audio_info
from cress_svcd.errors import AudioError, ConfigError
from cress_svcd.translation.output import Source

STDIN = "-"


def list_sources(
    args: argparse.Namespace, inputs: list[str], stack: contextlib.ExitStack
) -> Iterable[Source]:
    """What the inputs name, in their order; lists are read as they are used."""
    if args.text:
        stems = [Path("stdin" if name == STDIN else Path(name).stem) for name in inputs]
        return [Source(name, Path(name), stem) for name, stem in zip(inputs, stems)]
    if args.from_list:
        return (source for name in read_lists(inputs) for source in expand(name))
    sources = []
    for name in inputs:
        if name == STDIN:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cress-svcd-"))
            path = Path(folder) / "stdin"
            # Audio is read by seeking, which a pipe cannot.
            with open(path, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            sources.append(Source("standard input", path, Path("stdin")))
        else:
            sources += expand(name)
    return sources


def read_lists(lists: Iterable[str]) -> Iterator[str]:
    for name in lists:
        for line in read_lines(name):
            if line.strip():
                yield line.strip()


def read_lines(name: str) -> Iterator[str]:
    """Lines of a text file, or of standard input.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    number = 0
    with contextlib.ExitStack() as stack:
        try:
            file = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
            for number, line in enumerate(file, 1):  # noqa: B007 - an error below names it
                yield line.decode("utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name}:{number}: is not UTF-8 ({error.reason})") from None


def expand(name: str) -> list[Source]:
    """A file, whether it is there or not; or all audio below a folder, in the order of names.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if not path.is_dir():
        return [Source(name, path, Path(path.stem))]
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    if not files:
        raise ConfigError(f"{name}: no recording below it; looked for {' '.join(sorted(SUFFIXES))}")
    return [Source(str(file), file, file.relative_to(path).with_suffix("")) for file in files]


def duration(path: Path) -> float:
    """Seconds of a recording; 0 if it cannot be used, which its turn will tell."""
    try:
        info = audio_info(path)
    except AudioError:
        return 0.0
    return info.frames / info.sample_rate
