"""Writing files all or nothing."""

import errno
import json
import os
import stat
import threading

import pytest
import torch

from cress_svcd.atomic_files import (
    parse_json,
    parse_yaml,
    read_json,
    read_text,
    read_yaml,
    replacing,
    write_checkpoint,
    write_json,
    write_text,
)
from cress_svcd.errors import ConfigError, OutputError


def test_new_folders_are_made_and_nothing_else_is_left(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "größe\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "größe\n".encode()
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_json_is_readable_text(tmp_path):
    write_json(tmp_path / "x.json", {"größe": [1, 2.5]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert '"größe"' in text and text.endswith("}\n")


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, FileNotFoundError])
def test_an_error_leaves_the_old_content(tmp_path, error):
    (tmp_path / "x").write_text("old")
    with pytest.raises(error):
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("new")
            raise error("stop")
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_a_clear_error_and_leaves_the_old_content(tmp_path, full_disk):
    (tmp_path / "x").write_text("old")
    with (
        full_disk(1_000),
        pytest.raises(OutputError, match="x: File too large; .*make room in .* MB free"),
    ):
        write_text(tmp_path / "x", "new" * 1_000)
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="x: cannot be written .*file"):
        write_text(tmp_path / "file" / "x", "new")


@pytest.mark.parametrize("before", ["old", None], ids=["file", "missing"])
def test_a_link_stays_and_its_file_is_replaced(tmp_path, before):
    (tmp_path / "real").mkdir()
    if before:
        (tmp_path / "real" / "x").write_text(before)
    (tmp_path / "link").symlink_to("real/x")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and os.readlink(tmp_path / "link") == "real/x"
    assert (tmp_path / "real" / "x").read_text() == "new"
    assert os.listdir(tmp_path / "real") == ["x"]
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


@pytest.fixture
def pipe(tmp_path):
    """A named pipe, and a function that gives what has come through it."""
    os.mkfifo(tmp_path / "pipe")
    arrived = []
    reader = threading.Thread(
        target=lambda: arrived.append((tmp_path / "pipe").read_bytes()), daemon=True
    )
    reader.start()

    def read():
        reader.join(timeout=20)
        return arrived[0]

    return tmp_path / "pipe", read


def test_a_pipe_is_written_into(pipe):
    path, read = pipe
    write_text(path, "größe\n")
    assert read() == "größe\n".encode()
    assert stat.S_ISFIFO(path.stat().st_mode) and os.listdir(path.parent) == ["pipe"]


def test_a_checkpoint_goes_through_a_linked_pipe(pipe, tmp_path):
    path, read = pipe
    (tmp_path / "link").symlink_to(path)
    write_checkpoint(tmp_path / "link", {"x": torch.arange(5)})
    (tmp_path / "read.pt").write_bytes(read())
    assert torch.equal(torch.load(tmp_path / "read.pt")["x"], torch.arange(5))
    assert stat.S_ISFIFO(path.stat().st_mode) and (tmp_path / "link").is_symlink()


def test_a_full_device_is_a_clear_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe: No space left .* is lost"):
        with replacing(tmp_path / "pipe"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(OutputError, match=f"{tmp_path}: is a folder; name a file"):
        write_text(tmp_path, "new")
    assert os.listdir(tmp_path) == []


class TestYaml:
    def test_keys_and_values(self, tmp_path):
        (tmp_path / "x.yaml").write_text("a: größe\nb: [1]\n", encoding="utf-8")
        assert read_yaml(tmp_path / "x.yaml", "a config") == {"a": "größe", "b": [1]}

    @pytest.mark.parametrize(
        "content, found",
        [
            (None, ": cannot be read"),
            (b"", ": holds nothing"),
            (b"- a", ": holds a list"),
            (b"a: [", ":1: is not valid YAML"),
            (b"\xff\xfe", ": is no text"),
            (b"a: 1\nb: 2\na: 3", ":3: .*'a' stands twice in one mapping, first in line 1"),
            (b"a:\n- {b: 1,\n   b: 2}", ":3: .*'b' stands twice in one mapping, first in line 2"),
            (b"a: !!python/object/apply:os.getcwd []", ":1: is not valid YAML"),
        ],
    )
    def test_anything_else_is_an_error_with_what_is_expected(self, tmp_path, content, found):
        if content is not None:
            (tmp_path / "x.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"(?s)x.yaml{found}.*; expected a config"):
            read_yaml(tmp_path / "x.yaml", "a config")


class TestNames:
    def test_one_as_long_as_there_may_be(self, tmp_path):
        name = "ä" * 125 + ".json"
        write_text(tmp_path / name, "x")
        write_text(tmp_path / name, "y")
        assert (tmp_path / name).read_text() == "y" and os.listdir(tmp_path) == [name]

    @pytest.mark.parametrize("name", ["x" * 256, "a/" * 3000 + "x"], ids=["name", "path"])
    def test_one_that_is_too_long_is_told_before_the_work(self, tmp_path, name):
        with pytest.raises(OutputError, match="cannot be written .*too long"):
            with replacing(tmp_path / name):
                raise AssertionError("the work has begun")
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]

    def test_any_bytes_stand_in_texts_and_escaped_in_json(self, tmp_path):
        name = os.fsdecode(b"b\xe9.wav")
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_bytes() == b"b\xe9.wav"
        write_json(tmp_path / "x.json", {name: "größe"})
        text = (tmp_path / "x.json").read_text(encoding="utf-8")
        assert json.loads(text) == {name: "größe"} and '"größe"' in text

    def test_one_that_becomes_a_folder_meanwhile(self, tmp_path):
        with pytest.raises(OutputError, match="x: cannot be written"):
            with replacing(tmp_path / "x"):
                (tmp_path / "x" / "y").mkdir(parents=True)
        assert os.listdir(tmp_path) == ["x"]


class TestByteOrderMarks:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    def test_what_they_announce_is_read(self, tmp_path, encoding):
        (tmp_path / "x").write_bytes("größe: 1\r\nb: 2\n".encode(encoding))
        assert read_text(tmp_path / "x") == "größe: 1\nb: 2\n"
        assert read_yaml(tmp_path / "x", "a config") == {"größe": 1, "b": 2}

    def test_half_a_character_is_no_text(self, tmp_path):
        (tmp_path / "x").write_bytes("a: 1".encode("utf-16") + b"b")
        with pytest.raises(ConfigError, match="x: is no text"):
            read_yaml(tmp_path / "x", "a config")


def chain(link: str, count: int) -> str:
    lines = [f"a{i + 1}: &a{i + 1} " + link.replace("@", f"*a{i}") for i in range(count)]
    return "\n".join(["a0: &a0 {k: v}", *lines])


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("a: 1\nx: " + "1" * 5_000, 2, "…' is no number; write it in quotes where it is text"),
        ("x: " + "1:" * 3_000 + "1", 1, "is no number"),
        ("a: b\nx: 2020-13-45", 2, "'2020-13-45' is no date; write it in quotes"),
        ("x: !!int ''", 1, "'' is no number"),
        ("x: !!float word", 1, "'word' is no number"),
        ("x: !!bool word", 1, "'word' is no bool"),
        ("x: !!timestamp word", 1, "'word' is no date"),
        ("x: " + "[" * 5_000, 1, "too many levels"),
        ("x: " + "{a: " * 5_000, 1, "too many levels"),
        ("\n".join(" " * i + "a:" for i in range(500)), 100, "too many levels"),
        (chain("[@, @, @, @, @, @, @, @]", 30), 6, "its aliases .* stand for millions of values"),
        (chain("{<<: [@, @, @, @, @, @, @, @]}", 30), 6, "its aliases .* stand for millions"),
        (chain("[@]", 5_000), 100, "too many levels"),
        ("a: b\nx: &x [1, *x]", 2, r"\*x stands within itself"),
        ("x: &x {y: *x}", 1, r"\*x stands within itself"),
        ("a: b\nc: \0", 2, r"the character U\+0000 is not allowed"),
        ("x: \ud800", 1, r"the character U\+D800 is not allowed"),
        ("a: 1\n\na: 2", 3, "the key 'a' stands twice .* first in line 1"),
        ("x: !!python/object:os.system ls", 1, "could not determine a constructor"),
        ("--- a\n--- b", 2, "another document"),
        ("x: *nothing", 1, "undefined alias"),
        ("x: 'a", 1, "unexpected end of stream"),
    ],
)  # fmt: skip
def test_yaml_that_is_none_is_told_with_its_line(text, line, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith(f"f.yaml:{line}: is not valid YAML: ")
    assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


def test_yaml_with_aliases_and_merges_is_read():
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\nd: 2020-12-31\n"
    found = parse_yaml(text, "f.yaml")
    assert found["b"] == {"x": 2, "y": [1, 2]} and found["c"] == [found["a"]] * 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000, r"^f.json: is not JSON \(too many levels"),
        ('{"a":' * 100_000, r"^f.json: is not JSON \(too many levels"),
        ("1" * 5_000, r"^f.json: is not JSON \(.*digits"),
        ('{"a": {"b": 1, "b": 2}}', r"^f.json: is not JSON \(the key 'b' stands twice"),
        ("{\n\n x", r"^f.json:3: is not JSON"),
        ("", r"^f.json:1: is not JSON"),
        ('{"a": "\0"}', r"^f.json:1: is not JSON"),
    ],
)
def test_json_that_is_none(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        parse_json(text, "f.json")
    with pytest.raises(ConfigError, match=r"^f.jsonl:7: is not JSON"):
        parse_json(text, "f.jsonl", line=7)
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(ConfigError, match=r"f.json(:\d)?: is not JSON"):
        read_json(tmp_path / "f.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_and_yaml_of_every_encoding_with_a_mark(tmp_path, encoding):
    (tmp_path / "f").write_text('{"größe": 1}', encoding=encoding)
    assert read_json(tmp_path / "f") == read_yaml(tmp_path / "f", "keys") == {"größe": 1}


def test_json_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "f.json").write_bytes(b"\xff{}")
    for name, message in (("f", "is not UTF-8"), ("g", "cannot be read")):
        with pytest.raises(ConfigError, match=f"{name}.json: {message}"):
            read_json(tmp_path / f"{name}.json")
