"""Where each segment lies in its talk: the rows of ``SPLIT.yaml``, and the segments' names.

Names and numbers are read as they are written.  To YAML itself the speaker 0012 would be 10, the
time 1:30 would be 90, and of ``{offset: 0,75}`` a key 75 would be left over.
"""

import functools
import logging
import math
import re
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from cress_svcd.data.corpus.names import composed
from cress_svcd.data.corpus.text import BYTE_ORDER_MARK, clean_text, is_visible, read_lines
from cress_svcd.errors import ReleaseError

logger = logging.getLogger(__name__)

# The YAML loader keeps some 6 KB for a row until a document is done: a split at once takes 2 GB.
_YAML_ROWS_AT_ONCE = 5_000
_TIMES = ("offset", "duration")
_KEYS = ("wav", "speaker_id", *_TIMES)
_SECONDS = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_EXPECTED_SECONDS = "expected a number of seconds, 0 or more, such as 16.08"
# Rows are flat; libyaml overflows the stack at some 50,000 levels.
_MAX_LEVELS = 1_000
# What is shown of a value: one that refers to others again and again is endless in full.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
# Where a row's loader leaves what is wrong with it; no key of YAML is None here.
_PROBLEM = None
_TAG = "tag:yaml.org,2002:"


class Row(NamedTuple):
    """One row of ``SPLIT.yaml``; times in seconds."""

    wav: str
    offset: float
    duration: float
    speaker: str


def read_rows(path: Path) -> list[Row]:
    """The rows of a ``SPLIT.yaml``; keys beyond those of :class:`Row` are ignored.

    Raises ReleaseError, ``path:line: ...``, for what is no YAML, or no list of segments.
    """
    lines = read_row_lines(path)
    starts = row_starts(lines)
    _refuse_nested(path, lines)
    cuts = starts[_YAML_ROWS_AT_ONCE::_YAML_ROWS_AT_ONCE]
    rows: list[Row] = []
    try:
        for begin, end in tqdm(
            list(zip([0, *cuts], [*cuts, len(lines)])), desc=path.name, unit="block", disable=None
        ):
            _append_rows(rows, _load_yaml("\n".join(lines[begin:end])), path, starts)
    except (yaml.YAMLError, RecursionError):
        if cuts:
            # A block cannot refer to an anchor in another; and now the error's line is the file's.
            rows.clear()
        rows = _read_rows_at_once(path, lines, starts)
    if not rows:
        raise ReleaseError(f"{path}: holds no segments; expected a list of {{duration: ...}} rows")
    return rows


def read_row_lines(path: Path) -> list[str]:
    """The lines of a ``SPLIT.yaml``, without the byte-order marks of files that were joined."""
    return [line.lstrip(BYTE_ORDER_MARK) for line in read_lines(path, ReleaseError)]


def row_starts(lines: list[str]) -> list[int]:
    """Of each row the line that it starts in, from 0; of fewer rows in a style without dashes."""
    return [number for number, line in enumerate(lines) if line.startswith("- ")]


def row_line(number: int, starts: list[int]) -> int:
    """The line, from 1, that the row of that number starts in, which counts from 0."""
    return starts[number] + 1 if number < len(starts) else number + 1


def _refuse_nested(path: Path, lines: list[str]) -> None:
    """Raise ReleaseError for what may be nested so deeply that it cannot be parsed."""
    depth = 0
    for number, line in enumerate(lines, start=1):
        if line.startswith("- "):
            depth = 0  # of the row; brackets in quotes may have no other half
        opened = line.count("[") + line.count("{") + line.count("- ")
        depth += line.count("[") + line.count("{") - line.count("]") - line.count("}")
        if max(depth, opened) > _MAX_LEVELS:
            raise ReleaseError(f"{path}:{number}: is nested too deeply; expected a list of rows")


def _read_rows_at_once(path: Path, lines: list[str], starts: list[int]) -> list[Row]:
    rows: list[Row] = []
    try:
        _append_rows(rows, _load_yaml("\n".join(lines)), path, starts)
    except RecursionError:
        raise ReleaseError(f"{path}: is nested too deeply; expected a list of rows") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        if isinstance(error, yaml.reader.ReaderError):
            line = f":{_line_of_unreadable(lines, error)}"
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ReleaseError(
            f"{path}{line}: is not valid YAML ({problem}); expected rows like "
            f"'- {{duration: 3.5, offset: 16.08, speaker_id: spk.1, wav: ted_1.wav}}'"
        ) from None
    return rows


def _line_of_unreadable(lines: list[str], error: yaml.reader.ReaderError) -> int:
    """The line, from 1, of a character that YAML forbids."""
    code = error.character
    # libyaml says which, and counts bytes; PyYAML's own reader gives the character.
    character = chr(code) if isinstance(code, int) else str(code)
    return next((n for n, line in enumerate(lines, 1) if character in line), 1)


@functools.cache
def _row_loader() -> type:
    """A loader to which every scalar is text, and which notes where a comma parts a value."""
    try:
        base = yaml.CSafeLoader
    except AttributeError:
        logger.warning("PyYAML lacks its C loader: reading the yaml files takes ten times as long")
        base = yaml.SafeLoader

    class RowLoader(base):
        yaml_implicit_resolvers = {"<": [(f"{_TAG}merge", re.compile("<<"))]}

        def __init__(self, text: str):
            super().__init__(text)
            self.text = text

        def construct_mapping(self, node, deep=False):
            problem = _comma_problem(node.value, self.text) or _doubled_key(node.value)
            mapping = super().construct_mapping(node, deep)
            if problem:
                mapping[_PROBLEM] = problem
            return mapping

    for name in ("int", "float", "bool", "null", "timestamp", "merge"):
        RowLoader.add_constructor(_TAG + name, base.construct_yaml_str)
    return RowLoader


def _comma_problem(pairs: list[tuple[yaml.Node, yaml.Node]], text: str) -> str:
    """What is lost of a value that we read: ``{offset: 0,75}`` has a key 75 without a colon."""
    key, start = "", 0
    for name, value in pairs:
        between = slice(name.end_mark.index, value.start_mark.index)
        # An alias stands elsewhere.
        is_direct = between.start <= between.stop
        if value.value == "" and is_direct and ":" not in text[between]:
            written = text[start : name.end_mark.index]
            if key in _TIMES:
                return f"{key} is {written!r}; {_EXPECTED_SECONDS}"
            if key in _KEYS:
                return f"{key} is {written!r}; YAML ends it at the comma: put it in quotes"
        else:
            key, start = name.value, value.start_mark.index
    return ""


def _doubled_key(pairs: list[tuple[yaml.Node, yaml.Node]]) -> str:
    names = [name.value for name, _ in pairs]
    if len(set(map(str, names))) == len(names):
        return ""
    doubled = [key for key in _KEYS if names.count(key) > 1]
    return f"the key {doubled[0]} stands twice; leave one of them" if doubled else ""


def _load_yaml(text: str) -> Any:
    loader = _row_loader()(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _append_rows(rows: list[Row], document: Any, path: Path, starts: list[int]) -> None:
    if document is None:
        return
    if not isinstance(document, list):
        raise ReleaseError(f"{path}: a {type(document).__name__}; expected a list of segments")
    for item in document:
        try:
            rows.append(_parse_row(item))
        except ValueError as error:
            line = row_line(len(rows), starts)
            raise ReleaseError(f"{path}:{line}: row {len(rows) + 1}: {error}") from None


def _parse_row(item: Any) -> Row:
    if not isinstance(item, dict):
        raise ValueError(f"{_SHORT.repr(item)}; expected a mapping with wav, offset and duration")
    if _PROBLEM in item:
        raise ValueError(item[_PROBLEM])
    wav = _parse_name(item, "wav")
    if not is_visible(wav):
        raise ValueError(f"no wav in {_SHORT.repr(item)}; expected the name of an audio file")
    speaker = clean_text(composed(_parse_name(item, "speaker_id")))
    return Row(wav, _parse_seconds(item, "offset"), _parse_seconds(item, "duration"), speaker)


def _parse_name(item: dict, key: str) -> str:
    name = item.get(key, "")
    if not isinstance(name, str):
        raise ValueError(f"{key} is {_SHORT.repr(name)}; expected a name: put it in quotes")
    return name


def _parse_seconds(item: dict, key: str) -> float:
    if key not in item:
        raise ValueError(f"{key} is missing; {_EXPECTED_SECONDS}")
    value = item[key]
    written = isinstance(value, str) and _SECONDS.fullmatch(value.strip())
    seconds = float(value) if written else math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{key} is {_SHORT.repr(value)}; {_EXPECTED_SECONDS}")
    return seconds


def segment_ids(rows: Sequence[Row]) -> list[str]:
    """An id for each row: the talk's name and the segment's rank in it by time, ``ted_767_12``.

    Composed and decomposed spellings are one talk, and ids are composed.  All rows are counted,
    kept or not, so that ids do not depend on what is dropped.
    """
    by_talk: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_talk.setdefault(composed(row.wav), []).append(number)
    names = _talk_names(by_talk)
    ids = [""] * len(rows)
    for wav, numbers in by_talk.items():
        numbers.sort(key=lambda number: (rows[number].offset, number))
        for rank, number in enumerate(numbers):
            ids[number] = f"{names[wav]}_{rank}"
    return ids


def _talk_names(wavs: Iterable[str]) -> dict[str, str]:
    """A name for each file: its stem; with folders and suffix where stems would coincide."""
    names, taken = {}, set()
    for wav in wavs:
        parts = Path(wav).with_suffix("").parts
        candidates = [parts[-1], "_".join(parts).strip("/_"), wav]
        candidates += (f"{parts[-1]}.{count}" for count in range(2, len(taken) + 3))
        names[wav] = next(
            name for name in map(clean_text, candidates) if name and name not in taken
        )
        taken.add(names[wav])
    return names
