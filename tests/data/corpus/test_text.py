"""Lines keep their alignment; cleaned text fits a table."""

import pytest

from cress_svcd.data.corpus.text import clean_text, read_lines
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
