import pytest

from cress_svcd.data.corpus.parallel_text import Line, TextError, read_parallel
from cress_svcd.errors import ConfigError


@pytest.fixture
def files(tmp_path):
    def write(source: bytes, target: bytes):
        paths = tmp_path / "t.en", tmp_path / "t.de"
        paths[0].write_bytes(source)
        paths[1].write_bytes(target)
        return paths

    return write


def test_lines_keep_their_numbers_and_empty_ones_are_counted(files):
    text = read_parallel("train", *files(b"one\n\nthree\n \nfive\n", b"eins\nzwei\ndrei\nvier\n\n"))
    assert text.lines == (Line(1, "one", "eins"), Line(3, "three", "drei"))
    assert text.n_empty == 3


def test_byte_order_mark_carriage_returns_and_missing_last_newline(files):
    text = read_parallel("dev", *files(b"\xef\xbb\xbfone\r\ntwo\r\n", b"eins \nzwei"))
    assert text.lines == (Line(1, "one", "eins"), Line(2, "two", "zwei"))


def test_unusual_but_harmless_characters(files):
    source = "naïve\u00a0café – 日本 \U0001f600 soft\u00adhyphen"
    text = read_parallel("dev", *files(source.encode(), b"x"))
    assert text.lines[0].source == source


def test_a_line_of_no_break_spaces_is_empty(files):
    text = read_parallel("dev", *files("\u00a0\na\n".encode(), b"x\ny\n"))
    assert [line.number for line in text.lines] == [2]


@pytest.mark.parametrize(
    "source, target, message",
    [
        (b"a\nb\nc\n", b"x\ny\n", r"t\.en has 3 lines and .*t\.de has 2"),
        (b"a\nb\tc\n", b"x\ny\n", r"t\.en:2: character 2 is a tab \(U\+0009\).*replace it"),
        (b"a\nb\n", b"x\ny\x07\n", r"t\.de:2: character 2 is a control character \(U\+0007\)"),
        (b"a\x00b\n", b"x\n", r"t\.en:1: character 2 .*U\+0000"),
        (b"a\rb\n", b"x\n", r"t\.en:1: character 2 .*U\+000D"),
        ("a\u2028b\n".encode(), b"x\n", r"t\.en:1: character 2 is LINE SEPARATOR \(U\+2028\)"),
        ("a\u0085b\n".encode(), b"x\n", r"t\.en:1: .*U\+0085"),
        (b"a\nok \xff\n", b"x\ny\n", r"t\.en:2: not UTF-8 .byte 0xff.; convert"),
        (b"\n\n", b"x\ny\n", r"no line has text on both sides"),
        (b"", b"", r"no line has text on both sides"),
    ],
)
def test_bad_text_names_file_and_line(files, source, target, message):
    with pytest.raises(TextError, match=message):
        read_parallel("train", *files(source, target))


def test_missing_file(tmp_path):
    with pytest.raises(TextError, match=r"no\.en: cannot be read \(No such file"):
        read_parallel("train", tmp_path / "no.en", tmp_path / "no.de")


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "x/y"])
def test_split_names_are_plain(files, name):
    with pytest.raises(ConfigError, match="expected a plain name"):
        read_parallel(name, *files(b"a\n", b"x\n"))


def test_control_characters_are_replaced_on_demand(files):
    paths = files(b"a \t b\x0bc\nfine  line\n\t\n", "x\ny\u2028\nz\n".encode())
    text = read_parallel("train", *paths, clean=True)
    assert text.lines == (Line(1, "a b c", "x"), Line(2, "fine  line", "y"))
    assert (text.n_cleaned, text.n_empty) == (3, 1)


def test_digest_tells_texts_apart(files):
    digests = {
        read_parallel("dev", *files(source, target)).digest()
        for source, target in ((b"a\n", b"x\n"), (b"a\n", b"y\n"), (b"\na\n", b"z\nx\n"))
    }
    assert len(digests) == 3


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\t", "\u00ad \u2060", "\r\u2028"])
@pytest.mark.parametrize("clean", [False, True])
def test_a_line_without_a_visible_character_is_empty(files, text, clean):
    paths = files(f"{text}\na\nb\n".encode(), f"x\ny\n{text}\n".encode())
    parallel = read_parallel("dev", *paths, clean=clean)
    assert parallel.lines == (Line(2, "a", "y"),) and parallel.n_empty == 2


def test_texts_that_look_like_something_else(files):
    words = ["NA", "null", "nan", '"quoted', "1:30", "0012", "no", "#", "'"]
    source = "".join(f"{word}\n" for word in words).encode()
    parallel = read_parallel("dev", *files(source, source))
    assert [line.source for line in parallel.lines] == words


def test_byte_order_marks_of_files_that_were_joined(files):
    joined = "\ufeffa\n\ufeffb\n"
    text = read_parallel("dev", *files(joined.encode(), joined.encode("utf-16-le")))
    assert text.lines == (Line(1, "a", "a"), Line(2, "b", "b"))
