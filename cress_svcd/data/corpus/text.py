"""Lines of text: reading them without losing their alignment, and cleaning them."""

import codecs
import os
import unicodedata

from cress_svcd.errors import CressError

# UTF-32 first: its mark begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BYTE_ORDER_MARK = "\ufeff"

# Characters that show nothing, beyond spaces and those of the categories below: fillers, variation
# selectors, a braille pattern without dots.
_INVISIBLE = {
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0, 0x1D159),
    *range(0x180B, 0x1810),
    *range(0xFDD0, 0xFDF0),
    *range(0xFE00, 0xFE10),
    *range(0xFFF0, 0xFFF9),
    *range(0xE0000, 0xE1000),
}
_INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}
# Format characters (Cf) that are drawn: signs of Arabic, Syriac and Kaithi that enclose numbers.
_DRAWN = {*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD}


def clean_text(text: str) -> str:
    """One line of text fit for a table: control characters and separators become spaces.

    Runs of white space (tabs, newlines, no-break spaces, U+2028, ...) become one space; the ends
    are stripped.  Invisible characters that carry meaning, such as zero-width joiners, stay, unless
    there is nothing else: then the text is empty.
    """
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
        text = text.replace(BYTE_ORDER_MARK, "")
    return " ".join(text.split()) if is_visible(text) else ""


def is_visible(text: str) -> bool:
    """Whether anything of the text is seen: not only spaces, controls, zero-width characters."""
    return any(map(_is_visible_character, text))


def _is_visible_character(character: str) -> bool:
    code = ord(character)
    if code in _INVISIBLE or code & 0xFFFE == 0xFFFE:
        return False
    return unicodedata.category(character) not in _INVISIBLE_CATEGORIES or code in _DRAWN


def read_lines(
    path: str | os.PathLike, error: type[CressError], undecodable: str = "strict"
) -> list[str]:
    r"""The lines of a UTF-8 file, without byte-order mark and line ends.

    Only ``\n`` and ``\r\n`` end a line: ``str.splitlines`` and the like also split at U+2028, form
    feeds and others, which occur in subtitles and would shift all lines that follow.  UTF-16 and
    UTF-32 are read where a byte-order mark announces them.

    ``undecodable`` says what becomes of bytes that are not UTF-8 (see codecs.register_error).
    Raises ``error`` naming the file (and line) if it cannot be read or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    lines = _decode(data, path, error, undecodable).lstrip(BYTE_ORDER_MARK).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def starts_with_mark(path: str | os.PathLike) -> bool:
    """Whether the file begins with a byte-order mark; raises OSError."""
    with open(path, "rb") as file:
        return file.read(4).startswith((codecs.BOM_UTF8, *_MARKS))


def _decode(data: bytes, path: str | os.PathLike, error: type[CressError], undecodable: str) -> str:
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as problem:
                raise error(
                    f"{path}: not {encoding.upper()}, though its byte-order mark says so "
                    f"({problem.reason} at byte {problem.start}); convert it to UTF-8"
                ) from None
    if _seems_utf16(data):
        raise error(f"{path}: seems to be UTF-16 without byte-order mark; convert it to UTF-8")
    try:
        return data.decode("utf-8", undecodable)
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path}:{line}: not UTF-8 (byte 0x{data[problem.start]:02x}); convert it to UTF-8"
        ) from None


def _seems_utf16(data: bytes) -> bool:
    """Whether every line end has a zero byte on the same side, or every second byte is zero.

    Such a file may well be valid UTF-8: that has control characters as well.
    """
    zeros = data.count(b"\0")
    if not zeros:
        return False
    ends = data.count(b"\n")
    by_ends = zeros > ends > 0 and ends in (data.count(b"\n\0"), data.count(b"\0\n"))
    return by_ends or (len(data) >= 4 and 5 * zeros >= 2 * len(data))
