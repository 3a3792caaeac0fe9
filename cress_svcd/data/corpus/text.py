"""Lines of text: reading them without losing their alignment, and cleaning them."""

import os
import unicodedata

from cress_svcd.errors import CressError


def clean_text(text: str) -> str:
    """One line of text fit for a table: control characters and separators become spaces.

    Runs of white space (tabs, newlines, no-break spaces, U+2028, ...) become one space; the ends
    are stripped.  Invisible characters that carry meaning, such as zero-width joiners, stay.
    """
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
        text = text.replace("\ufeff", "")
    return " ".join(text.split())


def read_lines(path: str | os.PathLike, error: type[CressError]) -> list[str]:
    r"""The lines of a UTF-8 file, without byte-order mark and line ends.

    Only ``\n`` and ``\r\n`` end a line: ``str.splitlines`` and the like also split at U+2028, form
    feeds and others, which occur in subtitles and would shift all lines that follow.

    Raises ``error`` naming the file (and line) if it cannot be read or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path}:{line}: not UTF-8 (byte 0x{data[problem.start]:02x}); convert it to UTF-8"
        ) from None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
