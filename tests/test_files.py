"""Writing files all or nothing."""

import os
import stat

import pytest

from cress_svcd.errors import ConfigError, OutputError
from cress_svcd.files import read_yaml, replacing, write_json, write_text


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
    with full_disk(1_000), pytest.raises(OutputError, match="x: File too large; .*make room in .* MB free"):
        write_text(tmp_path / "x", "new" * 1_000)
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="x: cannot be written .*file"):
        write_text(tmp_path / "file" / "x", "new")


class TestYaml:
    def test_keys_and_values(self, tmp_path):
        (tmp_path / "x.yaml").write_text("a: größe\nb: [1]\n", encoding="utf-8")
        assert read_yaml(tmp_path / "x.yaml", "a config") == {"a": "größe", "b": [1]}

    @pytest.mark.parametrize(
        "content, found",
        [
            (None, "cannot be read"),
            (b"", "holds nothing"),
            (b"- a", "holds a list"),
            (b"a: [", "is not YAML"),
            (b"\xff\xfe", "is not YAML"),
            (b"a: !!python/object/apply:os.getcwd []", "is not YAML"),
        ],
    )
    def test_anything_else_is_an_error_with_what_is_expected(self, tmp_path, content, found):
        if content is not None:
            (tmp_path / "x.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"(?s)x.yaml: {found}.*; expected a config"):
            read_yaml(tmp_path / "x.yaml", "a config")
