"""Where each segment lies in its talk: the rows of ``SPLIT.yaml``, and the segments' names."""

import functools
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from cress_svcd.data.corpus.text import clean_text, read_lines
from cress_svcd.errors import ReleaseError

logger = logging.getLogger(__name__)

# The YAML loader keeps some 6 KB for a row until a document is done: a split at once takes 2 GB.
_YAML_ROWS_AT_ONCE = 5_000


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
    lines = read_lines(path, ReleaseError)
    starts = row_starts(lines)
    cuts = starts[_YAML_ROWS_AT_ONCE::_YAML_ROWS_AT_ONCE]
    rows: list[Row] = []
    try:
        for begin, end in tqdm(
            list(zip([0, *cuts], [*cuts, len(lines)])), desc=path.name, unit="block", disable=None
        ):
            _append_rows(rows, _load_yaml("\n".join(lines[begin:end])), path, starts)
    except yaml.YAMLError:
        if cuts:
            # A block cannot refer to an anchor in another; and now the error's line is the file's.
            rows.clear()
        rows = _read_rows_at_once(path, lines, starts)
    if not rows:
        raise ReleaseError(f"{path}: holds no segments; expected a list of {{duration: ...}} rows")
    return rows


def row_starts(lines: list[str]) -> list[int]:
    """Of each row the line that it starts in, from 0; of fewer rows in a style without dashes."""
    return [number for number, line in enumerate(lines) if line.startswith("- ")]


def row_line(number: int, starts: list[int]) -> int:
    """The line, from 1, that the row of that number starts in, which counts from 0."""
    return starts[number] + 1 if number < len(starts) else number + 1


def _read_rows_at_once(path: Path, lines: list[str], starts: list[int]) -> list[Row]:
    rows: list[Row] = []
    try:
        _append_rows(rows, _load_yaml("\n".join(lines)), path, starts)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ReleaseError(
            f"{path}{line}: is not valid YAML ({problem}); expected rows like "
            f"'- {{duration: 3.5, offset: 16.08, speaker_id: spk.1, wav: ted_1.wav}}'"
        ) from None
    return rows


@functools.cache
def _yaml_loader() -> type:
    try:
        return yaml.CSafeLoader
    except AttributeError:
        logger.warning("PyYAML lacks its C loader: reading the yaml files takes ten times as long")
        return yaml.SafeLoader


def _load_yaml(text: str) -> Any:
    return yaml.load(text, _yaml_loader())


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
        raise ValueError(f"{item!r:.80}; expected a mapping with wav, offset and duration")
    wav = item.get("wav")
    if wav is None or not str(wav).strip():
        raise ValueError(f"no wav in {item!r:.200}; expected the name of an audio file")
    speaker = item.get("speaker_id")
    return Row(
        str(wav),
        _parse_seconds(item, "offset"),
        _parse_seconds(item, "duration"),
        "" if speaker is None else clean_text(str(speaker)),
    )


def _parse_seconds(item: dict, key: str) -> float:
    value = item.get(key)
    try:
        # YAML 1.1 takes 1e-3 for a string; booleans, in contrast, are numbers to Python.
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{key} is {value!r}; expected a number of seconds, 0 or more")
    return seconds


def segment_ids(rows: Sequence[Row]) -> list[str]:
    """An id for each row: the talk's name and the segment's rank in it by time, ``ted_767_12``.

    All rows are counted, kept or not, so that ids do not depend on what is dropped.
    """
    by_talk: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_talk.setdefault(row.wav, []).append(number)
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
