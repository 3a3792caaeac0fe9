"""Two line-aligned text files: the pairs that hold text on both sides, with their line numbers."""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from cress_svcd.data.corpus.text import BYTE_ORDER_MARK, is_visible, read_lines
from cress_svcd.errors import ConfigError, CressError

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CONTROL_CATEGORIES = {"Cc", "Zl", "Zp"}


class TextError(CressError):
    """A text file is unreadable, not aligned with its other half, or holds what breaks tables."""


@dataclass(frozen=True)
class Line:
    """One line of a parallel text; ``number`` counts from 1 as editors do."""

    number: int
    source: str
    target: str


@dataclass(frozen=True)
class ParallelText:
    """The lines of a split that hold text on both sides.

    n_empty: pairs left out because a side is empty, or shows no visible character.
    n_cleaned: sides of a pair in which control characters were replaced.
    """

    split: str
    lines: tuple[Line, ...]
    n_empty: int
    n_cleaned: int = 0

    def digest(self) -> str:
        """Changes with any line, and with a line's number."""
        content = json.dumps([asdict(line) for line in self.lines], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()


def read_parallel(
    split: str, source: str | os.PathLike, target: str | os.PathLike, clean: bool = False
) -> ParallelText:
    """Read two line-aligned UTF-8 files.

    clean: replace control characters (a tab, most often) by spaces rather than refuse them.
    Raises TextError naming file and line: missing or unreadable files, other encodings, different
    numbers of lines, control characters, no text at all.
    """
    if not _SPLIT_NAME.fullmatch(split):
        raise ConfigError(f"--split {split!r}: expected a plain name such as 'train'")
    source_lines, target_lines = (
        [line.strip(f" {BYTE_ORDER_MARK}") for line in read_lines(path, TextError)]
        for path in (source, target)
    )
    if len(source_lines) != len(target_lines):
        raise TextError(
            f"{source} has {len(source_lines)} lines and {target} has {len(target_lines)}; "
            "line n of one must translate line n of the other"
        )
    n_cleaned = 0
    for path, lines in ((source, source_lines), (target, target_lines)):
        for index, place in _control_characters(lines):
            if not is_visible(lines[index]):
                n_cleaned += clean
                continue  # empty, and left out as such
            if not clean:
                raise TextError(_refusal(path, index + 1, place, lines[index][place]))
            lines[index] = _without_control_characters(lines[index])
            n_cleaned += 1
    pairs = enumerate(zip(source_lines, target_lines, strict=True), 1)
    lines = tuple(
        Line(n, src, tgt) for n, (src, tgt) in pairs if is_visible(src) and is_visible(tgt)
    )
    if not lines:
        raise TextError(f"{source} and {target}: no line has text on both sides")
    return ParallelText(split, lines, len(source_lines) - len(lines), n_cleaned)


def _control_characters(lines: list[str]) -> Iterator[tuple[int, int]]:
    """(index of the line, place of its first control character) of each line that holds one."""
    for index, line in enumerate(lines):
        if line.isprintable():  # the quick way out for nearly every line
            continue
        places = (place for place, character in enumerate(line) if _is_control(character))
        first = next(places, None)
        if first is not None:
            yield index, first


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL_CATEGORIES


def _without_control_characters(line: str) -> str:
    spaced = "".join(" " if _is_control(character) else character for character in line)
    return " ".join(word for word in spaced.split(" ") if word)


def _refusal(path: str | os.PathLike, number: int, place: int, character: str) -> str:
    name = "a tab" if character == "\t" else unicodedata.name(character, "a control character")
    return (
        f"{path}:{number}: character {place + 1} is {name} (U+{ord(character):04X}), which would "
        "break the tables that training reads; replace it by a space, or let --clean do so"
    )
