"""No command writes over what it reads, or learns only after its work that it cannot write.

Asked of every command before it runs: files may be named by any of its arguments, and what it is to
write by those of WRITTEN.
"""

import argparse
import os
from collections.abc import Iterator
from typing import Any

from cress_svcd.atomic_files import refuse_overwriting, require_writable
from cress_svcd.errors import ConfigError, OutputError

# Arguments that name what is written, by their names in the namespace.  What --trials names is read
# and written on.
WRITTEN = ("output", "json", "csv", "png", "trials")
CONFIG = "config.yaml"
# What commands read of a folder that they are given, and never write to a file of one's choice; as
# are recordings, and translations but for -o.
READ_IN_FOLDERS = (".tsv", ".model", ".vocab", ".en", ".phones")


def check_outputs(args: argparse.Namespace) -> None:
    """Look at all that ``args`` name to write.

    Raises:
        ConfigError: it is a file that they name to read, or stands among the inputs in a folder
            that they name, or is named for something else to write.
        OutputError: it is a folder instead of a file, or in one that cannot be written to.
    """
    given = {key: value for key, value in vars(args).items() if key not in WRITTEN}
    inputs = [path for value in given.values() for path in _paths(value)]
    folders = [path for path in inputs if os.path.isdir(path)]
    # Next to a manifest lies its config.
    inputs += [
        os.path.join(os.path.dirname(path), CONFIG) for path in inputs if path.endswith(".tsv")
    ]
    written: list[tuple[str, str]] = []
    for key in WRITTEN:
        path = getattr(args, key, None)
        if path is None or isinstance(path, bool):
            continue
        option, path = f"--{key}", os.fspath(path)
        refuse_overwriting([(option, path)], inputs)
        same = [other for other, taken in written if _one_file(path, taken)]
        if same:
            raise ConfigError(f"{option} {path}: {same[0]} writes there as well; name another file")
        written.append((option, path))
        _require_writable(key, path)
        among_inputs = os.path.isfile(path) and any(_lies_in(path, folder) for folder in folders)
        if among_inputs and _is_read(path, key):
            raise ConfigError(f"{option} {path}: is there, among what is read; name another file")


def _is_read(path: str, key: str) -> bool:
    """Whether a file in a folder of inputs is one that commands read."""
    # Not above: their import takes longer than most wrong options take to be answered.
    from cress_svcd.data.audio import SUFFIXES as RECORDINGS
    from cress_svcd.evaluation.subtitle_reading import SUFFIXES as SUBTITLES

    translations = () if key == "output" else (".jsonl", *SUBTITLES)
    read = (*READ_IN_FOLDERS, *RECORDINGS, *translations)
    return os.path.basename(path) == CONFIG or path.lower().endswith(read)


def _require_writable(key: str, path: str) -> None:
    if os.path.isdir(path):
        if key != "output":
            raise OutputError(f"--{key} {path}: is a folder; name a file to write")
        require_writable(path)
    elif not os.path.exists(path) or (os.path.isfile(path) and key != "trials"):
        # Files are replaced, so that their folder counts.
        require_writable(os.path.dirname(os.path.realpath(path)))


def _paths(value: Any) -> Iterator[str]:
    """What may be the name of a file: paths and texts, also of NAME=FILE."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, os.PathLike):
        yield os.fspath(value)
    elif isinstance(value, str) and value and "\0" not in value:
        yield value
        if value.partition("=")[2]:
            yield value.partition("=")[2]


def _one_file(path: str, other: str) -> bool:
    if os.path.isfile(path) and os.path.isfile(other):
        return os.path.samefile(path, other)
    return os.path.realpath(path) == os.path.realpath(other) and not os.path.exists(path)


def _lies_in(path: str, folder: str) -> bool:
    folder = os.path.realpath(folder)
    return os.path.commonpath([os.path.realpath(path), folder]) == folder
