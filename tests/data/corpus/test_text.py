"""Lines keep their alignment; cleaned text fits a table."""

import pytest

from cress_svcd.data.corpus.text import clean_text, is_visible, read_lines
from cress_svcd.errors import ManifestError, ReleaseError


@pytest.mark.parametrize(
    "text, expected",
    [
        ("  a\tb\r\nc ", "a b c"),
        ("a\u2028b\u2029c\u0085d\x0be\x00f\x1bg", "a b c d e f g"),
        ("a\u00a0 \u3000b", "a b"),
        ("\ufeffa", "a"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("100 % – «süß» 🙂", "100 % – «süß» 🙂"),
        (" \t\x00 ", ""),
    ],
)
def test_clean_text(text, expected):
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    "content, expected",
    [
        ("a\nb\n", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("\ufeffa\r\nb\r\n", ["a", "b"]),
        ("a\u2028b\u0085c\x0cd\x1ee\rf\ng\n", ["a\u2028b\u0085c\x0cd\x1ee\rf", "g"]),
        ("\n\na\n\n", ["", "", "a", ""]),
        ("", []),
    ],
)
def test_only_newlines_end_lines(tmp_path, content, expected):
    (tmp_path / "a.en").write_bytes(content.encode())
    assert read_lines(tmp_path / "a.en", ReleaseError) == expected


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path):
    (tmp_path / "a.en").write_bytes(b"one\ntwo\n" + "groß\n".encode("latin-1"))
    with pytest.raises(ReleaseError, match="a.en:3: not UTF-8 .byte 0xdf"):
        read_lines(tmp_path / "a.en", ReleaseError)


def test_missing_file_raises_the_class_asked_for(tmp_path):
    with pytest.raises(ManifestError, match="a.en: cannot be read"):
        read_lines(tmp_path / "a.en", ManifestError)


INVISIBLE = [
    *("", " ", "\t", "\x00", "\x1b", "\x7f", "\u00a0", "\u00ad", "\u034f", "\u061c", "\u115f"),
    *("\u180e", "\u2007", "\u2028", "\u2029", "\u202e", "\u2060", "\u2064", "\u2066", "\u2800"),
    *("\u3000", "\u3164", "\ufe0f", "\ufeff", "\uffa0", "\ufffe", "\U000e0001", "\U000e0100"),
    *("\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u0085", "\x0b", "\x0c", "\r", "\ufff9"),
]


@pytest.mark.parametrize("text", INVISIBLE, ids=ascii)
def test_what_shows_nothing_is_empty(text):
    for line in (text, text * 3, f" {text}\u200b\xa0{text}"):
        assert not is_visible(line) and clean_text(line) == ""
    assert is_visible(f"{text}.{text}") and "." in clean_text(f"{text}.{text}")


@pytest.mark.parametrize("text", ["a", ".", "\u06dd", "\u0301", "\ufffd", "\U0001f600", "\ue000"])
def test_what_shows_something_stays(text):
    assert is_visible(text) and clean_text(text) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_byte_order_marks_say_the_encoding(tmp_path, encoding):
    text = "\ufeffgr\u00fc\u00df\r\n\n\u2028b\x0cc\n"
    (tmp_path / "a.en").write_bytes(text.encode(encoding))
    assert read_lines(tmp_path / "a.en", ReleaseError) == ["gr\u00fc\u00df", "", "\u2028b\x0cc"]


@pytest.mark.parametrize("text", ["one\ntwo\n", "one", "\u0434\u0430 .\n\u043d\u0435\u0442 .\n"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_named(tmp_path, text, encoding):
    (tmp_path / "a.en").write_bytes(text.encode(encoding))
    with pytest.raises(ReleaseError, match="a.en: seems to be UTF-16 without byte-order mark"):
        read_lines(tmp_path / "a.en", ReleaseError)


def test_zero_characters_alone_are_no_utf16(tmp_path):
    (tmp_path / "a.en").write_bytes(b"a\x00b\n\x00\nlonger line\n")
    assert read_lines(tmp_path / "a.en", ReleaseError) == ["a\0b", "\0", "longer line"]


def test_half_a_character_of_utf16(tmp_path):
    (tmp_path / "a.en").write_bytes("\ufeffab".encode("utf-16-le")[:-1])
    with pytest.raises(ReleaseError, match="a.en: not UTF-16, though its byte-order mark says so"):
        read_lines(tmp_path / "a.en", ReleaseError)
