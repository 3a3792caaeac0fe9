"""Writing files all or nothing."""

import errno
import json
import os
import stat
import threading

import pytest
import torch

from cress_svcd.atomic_files import (
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
