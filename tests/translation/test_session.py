"""Many inputs: whatever one of them does, the rest is translated, and the status says so."""

import contextlib
import io
import os
import sys

import numpy as np
import pytest
import soundfile
from tqdm import tqdm

from cress_svcd.errors import AudioError, CheckpointError, OutputError
from cress_svcd.translation import session
from cress_svcd.translation.inputs import expand, unusable
from cress_svcd.translation.output import FORMATS, FileEach, OneStream, Source
from cress_svcd.translation.result import Translation
from cress_svcd.translation.segmentation import Segmentation, make_segmenter
from cress_svcd.translation.session import Progress, translate_speech, translate_text
from tests.helpers.privileges import without_privileges

RATE = 16_000


def tone(seconds: float, level: float) -> np.ndarray:
    return (level * np.sin(np.arange(round(seconds * RATE)) / 5)).astype(np.float32)


def write(path, *levels: float) -> None:
    """A recording in faint noise with a segment for each level."""
    gap = np.zeros(RATE, np.float32)
    wave = np.concatenate([gap, *(part for level in levels for part in (tone(1, level), gap))])
    wave += 1e-3 * np.random.default_rng(1).standard_normal(len(wave)).astype(np.float32)
    with open(path, "wb") as file:  # by its descriptor, whatever bytes its name has
        soundfile.write(file, wave, RATE, format="WAV")


class Toy:
    """Translates a segment to its level; fails as it is told."""

    batch_seconds = 60.0

    def __init__(self, fails_at: float = 2.0, error: Exception = RuntimeError("broken\nkernel")):
        self.segmentation = make_segmenter(Segmentation())
        self.fails_at, self.error = fails_at, error
        self.calls = 0

    def translate_segments(self, segments, wanted=None):
        buffer = []
        for segment in segments:
            buffer.append(segment)
            if len(buffer) == 3:
                yield from self._translate(buffer)
                buffer = []
        yield from self._translate(buffer)

    def _translate(self, buffer):
        self.calls += 1
        levels = [round(float(np.abs(segment.wave).max()), 1) for segment in buffer]
        if self.fails_at in levels:
            raise self.error
        for segment, level in zip(buffer, levels):
            yield segment, Translation(f"level {level}", -1.0, ("x",), segment.start, segment.end)

    def translate_text(self, sentences):
        if "fail" in sentences:
            raise self.error
        return [Translation(sentence.upper(), -1.0, ()) for sentence in sentences]


def speech(sources, output=None, translator=None) -> tuple[int, list[str], list[str]]:
    """Status (2: an error), what was written to a stream, and what was said."""
    stream, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), tqdm(disable=True) as bar:
        progress = Progress(bar)
        output = output or OneStream(stream, FORMATS["text"]())
        translate_speech(translator or Toy(), sources, output, progress)
        try:
            status = progress.status()
        except AudioError as error:
            status = 2
            sys.stderr.write(f"{error}\n")
    return status, stream.getvalue().splitlines(), said.getvalue().splitlines()


def to_folder(folder, form="text") -> FileEach:
    return FileEach(folder, FORMATS[form])


class TestBadEntries:
    def test_what_cannot_be_used_is_a_line(self, tmp_path):
        write(tmp_path / "a.wav", 0.5)
        (good,) = expand(str(tmp_path / "a.wav"))
        status, out, said = speech([good, unusable("b", "is empty"), good])
        assert (status, out) == (1, ["level 0.5"] * 2)
        assert said == [
            "cress-svcd translate: error: b: is empty",
            "cress-svcd translate: 1 of 3 inputs could not be translated",
        ]

    def test_whatever_a_library_raises(self, tmp_path, monkeypatch):
        for name, level in (("a", 0.2), ("b", 0.4), ("c", 0.6)):
            write(tmp_path / f"{name}.wav", level, level)
        read = session.read_segments

        def failing(path, *args, **options):
            for number, segment in enumerate(read(path, *args, **options)):
                if path.name == "b.wav" and number:
                    raise RuntimeError("decoder\nat 0x7f")
                yield segment

        monkeypatch.setattr(session, "read_segments", failing)
        status, out, said = speech(expand(str(tmp_path)))
        assert status == 1 and out == ["level 0.2"] * 2 + ["level 0.4"] + ["level 0.6"] * 2
        assert said[0] == f"cress-svcd translate: error: {tmp_path}/b.wav: RuntimeError: decoder"
        (tmp_path / "out").mkdir()
        status, *_ = speech(expand(str(tmp_path)), to_folder(tmp_path / "out"))
        assert status == 1 and sorted(os.listdir(tmp_path / "out")) == ["a.txt", "c.txt"]

    @pytest.mark.parametrize("error", [RuntimeError("broken\nkernel"), MemoryError(), ValueError()])
    def test_whatever_the_translator_raises(self, tmp_path, error):
        """Recordings that are translated together with it are translated all the same."""
        for number, levels in enumerate(
            [(0.2, 0.2), (0.4, 0.9, 0.4, 0.4, 0.4), (0.6,), (0.8, 0.3)]
        ):
            write(tmp_path / f"{number}.wav", *levels)
        status, out, said = speech(expand(str(tmp_path)), translator=Toy(0.9, error))
        assert status == 1
        assert [line for line in out if line != "level 0.4"] == [
            f"level {level}" for level in (0.2, 0.2, 0.6, 0.8, 0.3)
        ]
        assert len(said) == 2 and f"1.wav: {type(error).__name__}: " in said[0]
        folder = tmp_path / "out"
        folder.mkdir()
        speech(expand(str(tmp_path)), to_folder(folder), Toy(0.9, error))
        assert sorted(os.listdir(folder)) == ["0.txt", "2.txt", "3.txt"]
        assert (folder / "3.txt").read_text() == "level 0.8\nlevel 0.3\n"

    def test_a_model_that_translates_nothing_of_all_is_one_error(self, tmp_path):
        write(tmp_path / "a.wav", 0.5)

        class Refusing(Toy):
            def translate_segments(self, segments, wanted=None):
                raise CheckpointError("trained on text")
                yield

        with pytest.raises(CheckpointError):
            speech(expand(str(tmp_path)), translator=Refusing())

    def test_any_bytes_are_a_name(self, tmp_path):
        """Also of the output, and in what is said of it."""
        names = [b"b\xe9.wav", b"\xff.wav", b"c\n.wav"]
        for name in names:
            write(os.fsencode(tmp_path) + b"/" + name, 0.5)
        (tmp_path / os.fsdecode(b"d\xe9\n.wav")).write_text("no audio")
        folder = tmp_path / "out"
        status, _, said = speech(expand(str(tmp_path)), to_folder(folder))
        assert status == 1 and rf"error: {tmp_path}/d\udce9\n.wav: is not audio" in said[0]
        assert sorted(os.listdir(os.fsencode(folder))) == [b"b\xe9.txt", b"c\n.txt", b"\xff.txt"]
        status, out, _ = speech(expand(str(tmp_path)))
        assert (status, out) == (1, ["level 0.5"] * 3)


class TestOutputs:
    def test_a_long_name_has_a_temporary_one_as_well(self, tmp_path):
        write(tmp_path / f"{'a' * 241}.wav", 0.5)
        write(tmp_path / "b.wav", 0.5)
        assert speech(expand(str(tmp_path)), to_folder(tmp_path / "o"))[0] == 0
        assert sorted(os.listdir(tmp_path / "o")) == [f"{'a' * 241}.txt", "b.txt"]

    def test_one_that_is_too_long_leaves_the_others(self, tmp_path):
        write(tmp_path / f"{'ä' * 125}a.wav", 0.5)
        write(tmp_path / "z.wav", 0.5)
        status, _, said = speech(expand(str(tmp_path)), to_folder(tmp_path / "o", "jsonl"))
        assert status == 1 and os.listdir(tmp_path / "o") == ["z.jsonl"]
        assert "its name is too long" in said[0] and "1 of 2 inputs" in said[1]

    def test_one_that_is_a_folder_or_below_a_file(self, tmp_path):
        for name in ("a", "b", "c"):
            (tmp_path / "in" / name).mkdir(parents=True)
            write(tmp_path / "in" / name / "x.wav", 0.5)
        (tmp_path / "o" / "a" / "x.txt").mkdir(parents=True)
        (tmp_path / "o" / "b").write_text("")
        status, _, said = speech(expand(f"{tmp_path}/in"), to_folder(tmp_path / "o"))
        assert status == 1 and (tmp_path / "o" / "c" / "x.txt").read_text() == "level 0.5\n"
        assert "is a folder" in said[0] and "cannot be written" in said[1] and len(said) == 3

    def test_one_without_permission(self, tmp_path):
        with without_privileges() as folder:
            for name in ("a", "b"):
                (folder / name).mkdir()
                write(folder / name / "x.wav", 0.5)
            (folder / "o" / "a").mkdir(parents=True)
            (folder / "o" / "a").chmod(0o500)
            status, _, said = speech(expand(str(folder)), to_folder(folder / "o"))
            assert status == 1 and os.listdir(folder / "o" / "b") == ["x.txt"]
            assert "a/x.txt: cannot be written" in said[0] and "Permission denied" in said[0]

    def test_a_folder_that_cannot_be_made_is_told_at_once(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="file/o: cannot be written .*Not a directory"):
            to_folder(tmp_path / "file" / "o")
        with without_privileges() as folder:
            (folder / "closed").mkdir(0o500)
            with pytest.raises(OutputError, match="Permission denied"):
                to_folder(folder / "closed" / "a" / "b")
        to_folder(tmp_path / "new" / "o")
        assert not (tmp_path / "new").exists()

    def test_a_full_disk_ends_all(self, tmp_path, full_disk):
        write(tmp_path / "a.wav", 0.5)
        write(tmp_path / "b.wav", 0.5)
        with full_disk(3), pytest.raises(OutputError, match="make room"):
            speech(expand(str(tmp_path)), to_folder(tmp_path / "o"))

    def test_a_reader_that_goes_away_ends_all(self, tmp_path):
        write(tmp_path / "a.wav", 0.5)
        reading, writing = os.pipe()
        os.close(reading)
        with contextlib.suppress(BrokenPipeError), open(writing, "w") as stream:
            with pytest.raises(BrokenPipeError):
                speech(expand(str(tmp_path)), OneStream(stream, FORMATS["text"]()))

    @pytest.mark.parametrize("form", ["srt", "vtt", "ttml", "jsonl"])
    def test_any_bytes_are_a_name_in_each_format(self, tmp_path, form):
        write(os.fsencode(tmp_path) + b"/b\xe9.wav", 0.5)
        (tmp_path / "o").mkdir()
        status, *_ = speech(expand(str(tmp_path)), to_folder(tmp_path / "o", form))
        assert status == 0 and os.listdir(os.fsencode(tmp_path / "o")) == [
            b"b\xe9." + form.encode()
        ]


class TestSilence:
    def test_of_one_of_several(self, tmp_path):
        write(tmp_path / "a.wav", 0)
        write(tmp_path / "b.wav", 0.5)
        status, out, said = speech(expand(str(tmp_path)))
        assert (status, out) == (0, ["level 0.5"])
        assert "a.wav: nothing is heard above its noise; --no-segmentation" in said[0]
        assert "a --threshold-db below 10 hears" in said[0] and "in 1 of 2 recordings" in said[1]

    def test_of_all(self, tmp_path):
        write(tmp_path / "a.wav", 0)
        assert speech(expand(str(tmp_path)))[:2] == (1, [])
        (tmp_path / "b.wav").write_text("no audio")
        assert speech(expand(str(tmp_path)))[0] == 1

    def test_no_input_at_all(self):
        assert speech([]) == (
            1,
            [],
            ["cress-svcd translate: nothing to translate: no input is named"],
        )


class TestText:
    def translate(self, tmp_path, **files):
        sources = []
        for name, content in files.items():
            (tmp_path / name).write_text(content, encoding="utf-8")
            path = tmp_path / name
            sources.append(Source(str(path), path, path))
        stream, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), tqdm(disable=True) as bar:
            progress = Progress(bar)
            translate_text(Toy(), sources, OneStream(stream, FORMATS["text"]()), progress)
            return progress.status(), stream.getvalue().split("\n"), said.getvalue()

    def test_lines_that_cannot_be_seen_are_empty(self, tmp_path):
        status, out, _ = self.translate(tmp_path, a="\ufeffa\n\u200b\n \u2060\u00a0\nb\u200bc\n")
        assert (status, out) == (0, ["A", "", "", "B\u200bC", ""])

    def test_whatever_the_translator_raises(self, tmp_path):
        status, out, said = self.translate(tmp_path, a="a\n", b="fail\n", c="c\n")
        assert (status, out) == (1, ["A", "C", ""])
        assert "b: RuntimeError: broken" in said and "Traceback" not in said
