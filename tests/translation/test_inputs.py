"""What inputs name, and what of it cannot be used; no list, folder or name ends the rest."""

import argparse
import contextlib
import io
import os
import sys
import unicodedata
from pathlib import Path

import pytest

from cress_svcd.data.audio import audio_info
from cress_svcd.errors import AudioError, ConfigError
from cress_svcd.translation.inputs import (
    Unusable,
    expand,
    expand_list,
    list_sources,
    read_lines,
    stem_of,
)
from tests.helpers.privileges import without_privileges


def touch(folder: Path, *names: bytes | str) -> None:
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()


def outline(sources, folder: Path) -> list[str]:
    """Names without the folder; of what cannot be used with the reason."""
    found = []
    for source in sources:
        name = source.name.removeprefix(f"{folder}/")
        found.append(f"{name}: {source.reason}" if isinstance(source, Unusable) else name)
    return found


def listed(*lines: bytes, folder: Path) -> list[str]:
    (folder / "list").write_bytes(b"".join(lines))
    args = argparse.Namespace(text=False, from_list=True)
    return outline(list_sources(args, [str(folder / "list")], contextlib.ExitStack()), folder)


class TestFolders:
    def test_recordings_at_any_depth_in_the_order_of_names(self, tmp_path):
        touch(tmp_path, "b.wav", "a/z.FLAC", "a.wav", "a/notes.txt", "c/d/e.ogg")
        sources = expand(str(tmp_path))
        assert outline(sources, tmp_path) == ["a/z.FLAC", "a.wav", "b.wav", "c/d/e.ogg"]
        assert [str(source.stem) for source in sources] == ["a/z", "a", "b", "c/d/e"]

    def test_hidden_ones_are_other_programs_own(self, tmp_path):
        touch(tmp_path, "a.wav", "._a.wav", ".DS_Store", ".Trash/b.wav", "c/._d.wav", "..wav")
        assert outline(expand(str(tmp_path)), tmp_path) == ["a.wav"]
        assert outline(expand(f"{tmp_path}/._a.wav"), tmp_path) == ["._a.wav"]
        touch(tmp_path, ".hidden/e.wav")
        assert outline(expand(f"{tmp_path}/.hidden"), tmp_path) == [".hidden/e.wav"]

    def test_without_a_recording(self, tmp_path):
        touch(tmp_path, "._a.wav", "notes.txt")
        (only,) = outline(expand(str(tmp_path)), tmp_path)
        assert only.startswith(f"{tmp_path}: no recording below it that is not hidden; looked for")

    def test_any_bytes_are_a_name(self, tmp_path):
        touch(tmp_path, b"b\xe9.wav", b"\xff/c\n.wav", " .wav", "a..wav")
        sources = expand(str(tmp_path))
        assert sorted(os.fsencode(source.path.relative_to(tmp_path)) for source in sources) == [
            b" .wav",
            b"a..wav",
            b"b\xe9.wav",
            b"\xff/c\n.wav",
        ]
        assert not any(isinstance(source, Unusable) for source in sources)

    def test_links(self, tmp_path):
        touch(tmp_path, "in/a.wav", "elsewhere/b.wav")
        (tmp_path / "in" / "file.wav").symlink_to("../elsewhere/b.wav")
        (tmp_path / "in" / "folder").symlink_to("../elsewhere")
        (tmp_path / "in" / "up").symlink_to("..")
        (tmp_path / "in" / "self.wav").symlink_to("self.wav")
        (tmp_path / "in" / "gone.wav").symlink_to("nowhere.wav")
        (tmp_path / "in" / "disk").symlink_to("/nowhere/at/all")
        (tmp_path / "in" / "gone.txt").symlink_to("nowhere.txt")
        assert outline(expand(f"{tmp_path}/in"), tmp_path) == [
            "in/a.wav",
            "in/disk: is a link to nothing",
            "in/file.wav",
            "in/folder/b.wav",
            "in/gone.wav: is a link to nothing",
            "in/self.wav: is a link to nothing",
            "in/up/elsewhere/b.wav",
            "in/up/in: is a link to a folder that it lies in",
        ]

    def test_one_that_cannot_be_searched(self):
        with without_privileges() as folder:
            touch(folder, "a.wav", "closed/b.wav")
            (folder / "closed").chmod(0)
            assert outline(expand(str(folder)), folder) == [
                "a.wav",
                "closed: cannot be searched (Permission denied)",
            ]

    def test_a_name_that_is_too_long_or_empty(self, tmp_path):
        (source,) = expand("x" * 5000)
        assert not isinstance(source, Unusable)  # to be told when it is read
        assert [each.reason for each in expand("")] == ["is an empty name"]


class TestLists:
    def test_each_line_is_a_recording_or_a_folder(self, tmp_path):
        touch(tmp_path, "a.wav", "b.wav", "in/c.wav")
        found = listed(f"{tmp_path}/in\n{tmp_path}/a.wav\n{tmp_path}/x".encode(), folder=tmp_path)
        assert found == ["in/c.wav", "a.wav", "x"]

    def test_an_empty_folder_is_one_line_of_it(self, tmp_path):
        touch(tmp_path, "a.wav", "b.wav")
        (tmp_path / "empty").mkdir()
        lines = "".join(f"{tmp_path}/{name}\n" for name in ("a.wav", "empty", "b.wav")).encode()
        first, empty, last = listed(lines, folder=tmp_path)
        assert (first, last) == ("a.wav", "b.wav")
        assert empty.startswith("empty: no recording below it")

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_byte_order_marks_and_line_ends(self, tmp_path, encoding, end):
        touch(tmp_path, "größe.wav", "b.wav")
        text = f"{tmp_path}/größe.wav{end}{end}{tmp_path}/b.wav{end}"
        assert listed(text.encode(encoding), folder=tmp_path) == ["größe.wav", "b.wav"]

    def test_marks_of_lists_that_were_joined(self, tmp_path):
        mark = b"\xef\xbb\xbf"
        assert listed(mark, b"a\n", mark, b"b\n", b"\n", mark, folder=tmp_path) == ["a", "b"]

    def test_lines_that_cannot_be_seen_are_empty(self, tmp_path):
        lines = " \n\t\r\n\u200b\n\u2060\u200e\n\u3000\u00a0\n\u2800\n\ufe0f\n# a\n"
        assert listed(lines.encode(), b"\xff\n", folder=tmp_path) == ["# a", "\udcff"]

    def test_a_name_counts_as_it_stands_first(self, tmp_path, monkeypatch):
        touch(tmp_path, " a.wav ", "b.wav", "\u200b")
        monkeypatch.chdir(tmp_path)
        assert listed(b" a.wav \n b.wav\t\n\xe2\x80\x8b\n c.wav \n", folder=tmp_path) == [
            " a.wav ",
            "b.wav",
            "\u200b",
            "c.wav",
        ]

    def test_any_bytes_are_a_name(self, tmp_path):
        touch(tmp_path, b"b\xe9.wav")
        (found,) = listed(os.fsencode(tmp_path) + b"/b\xe9.wav\n", folder=tmp_path)
        assert os.fsencode(found) == b"b\xe9.wav"

    @pytest.mark.parametrize("there, named", [("NFC", "NFD"), ("NFD", "NFC")])
    def test_composed_and_decomposed_names_are_the_same(self, tmp_path, there, named):
        name = "é한.wav"
        touch(tmp_path, unicodedata.normalize(there, name))
        (tmp_path / "list").write_text(f"{tmp_path}/{unicodedata.normalize(named, name)}\n")
        (source,) = list_sources(
            argparse.Namespace(text=False, from_list=True),
            [str(tmp_path / "list")],
            contextlib.ExitStack(),
        )
        assert source.path.is_file() and source.name.endswith(unicodedata.normalize(named, name))

    def test_what_is_no_list(self, tmp_path):
        found = listed(b"/a/b.wav\0/c/d.wav\0", folder=tmp_path)
        assert found == [
            "/a/b.wav /c/d.wav: holds the character 0; expected a path a line, as find -print "
            "writes them"
        ]

    def test_one_that_cannot_be_read_leaves_the_others(self, tmp_path):
        (tmp_path / "good").write_text("a.wav\n")
        names = [str(tmp_path / "nowhere"), str(tmp_path), str(tmp_path / "good")]
        args = argparse.Namespace(text=False, from_list=True)
        found = outline(list_sources(args, names, contextlib.ExitStack()), tmp_path)
        assert found == [
            "nowhere: cannot be read (No such file or directory)",
            f"{tmp_path}: cannot be read (Is a directory)",
            "a.wav",
        ]


class TestLines:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
    def test_of_text(self, tmp_path, encoding, monkeypatch):
        mark = "\ufeff" if encoding == "utf-16-le" else ""
        content = f"{mark}größe\r\n\n\u0a0a ਊ\nend".encode(encoding)
        (tmp_path / "x").write_bytes(content)
        expected = ["größe", "", "\u0a0a ਊ", "end"]
        assert list(read_lines(str(tmp_path / "x"))) == expected
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert list(read_lines("-")) == expected

    @pytest.mark.parametrize(
        "content, where",
        [
            (b"a\n\xff\n", ":2: is not UTF-8"),
            (b"\xff\xfe", ":1: is not UTF-8"),
            (b"\xff\xfea\0b", ": is not UTF-16"),
        ],
    )
    def test_of_what_is_no_text(self, tmp_path, content, where):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ConfigError, match=f"x{where}"):
            list(read_lines(str(tmp_path / "x")))

    def test_of_nothing(self, tmp_path):
        touch(tmp_path, "x")
        assert list(read_lines(str(tmp_path / "x"))) == []


@pytest.mark.parametrize(
    "name, stem",
    [("a/b.wav", "b"), ("..wav", "..wav"), (".wav", ".wav"), ("a..wav", "a."), ("b", "b")],
)
def test_stems_of_outputs(name, stem):
    assert stem_of(Path(name)) == Path(stem)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_and_a_text_in_unicode(encoding, end, tmp_path):
    names = [str(tmp_path / name) for name in ("a.wav", "Müller.wav", "東京.wav")]
    path = tmp_path / "list.txt"
    path.write_bytes("".join(name + end for name in names).encode(encoding))
    assert list(read_lines(str(path))) == names
    assert [source.name for source in expand_list(str(path))] == names


def test_a_list_and_a_text_in_latin_1(tmp_path):
    """A list finds its files, whichever way their names are written; a text says where it is not
    readable."""
    (tmp_path / "Müller.wav").touch()
    path = tmp_path / "list.txt"
    path.write_bytes(f"{tmp_path}/a.wav\n{tmp_path}/Müller.wav\n".encode("latin-1"))
    _, source = expand_list(str(path))
    assert source.path == tmp_path / "Müller.wav"
    with pytest.raises(ConfigError, match=r"list.txt:2: is not UTF-8 .*iconv"):
        list(read_lines(str(path)))


def test_zeros_between_paths_are_told(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"a.wav\0b.wav\0")
    (source,) = expand_list(str(path))
    assert "find -print writes" in source.reason


def test_pipes_of_shells_are_read_and_named_ones_refused(tmp_path):
    """What ``<(command)`` names is open already; a named pipe may never have a writer."""
    reading, writing = os.pipe()
    os.write(writing, b"sound")
    os.close(writing)
    named = tmp_path / "named.wav"
    os.mkfifo(named)
    args = argparse.Namespace(text=False, from_list=False)
    with contextlib.ExitStack() as stack:
        source, other = list_sources(args, [f"/dev/fd/{reading}", str(named)], stack)
        assert source.path.read_bytes() == b"sound" and source.stem == Path(str(reading))
    os.close(reading)
    with pytest.raises(AudioError, match=r"named.wav: is a pipe; expected a file"):
        audio_info(other.path)
