"""The command in this process: inputs, formats, outputs, and what happens to bad recordings."""

import io
import json
import re
import sys

import numpy as np
import pytest
import soundfile

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.translation import repetition
from cress_svcd.translation.translator import Translator
from tests.helpers.translation_model import make_checkpoint

RATE = 16_000
FLAGS = ["--beam", "2", "--max-len-b", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(prepared, hubert, tmp_path_factory):
    flags = ("--st-training", "--mt-finetune", "--ctc-head")
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.pt", prepared, hubert, *flags)


@pytest.fixture(scope="module")
def waves(prepared, release):
    specs = read_manifest(prepared / "tst-COMMON.tsv")["audio"][:4]
    return [read_audio(spec, root=release / "en-de" / "data") for spec in specs]


@pytest.fixture(scope="module")
def recordings(waves, tmp_path_factory):
    """A folder: two recordings, a long one of two sentences below, and what is no recording."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "below").mkdir()
    soundfile.write(folder / "b.flac", waves[0], RATE)
    soundfile.write(folder / "a.WAV", np.stack([waves[1]] * 2, axis=1), RATE)
    pause = np.zeros(RATE, np.float32)
    soundfile.write(folder / "below" / "c.wav", np.concatenate([waves[2], pause, waves[3]]), RATE)
    (folder / "notes.txt").write_text("no recording\n")
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint, recordings):
    """What the Python class says of the three recordings, in the order of names."""
    translator = Translator.load(checkpoint, beam=2, max_len_b=8, device="cpu")
    return translator.translate_batch(
        [recordings / name for name in ("a.WAV", "b.flac", "below/c.wav")]
    )


@pytest.fixture
def translate(checkpoint, capsys):
    """Runs the command; returns status, standard output and standard error."""

    def run(*arguments):
        status = main(["translate", str(checkpoint), *FLAGS, *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def stdin(monkeypatch):
    def put(content: bytes):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def one_line(text: str) -> str:
    return " ".join(text.split())


def segments(expected) -> list[str]:
    return [one_line(part.text) for whole in expected for part in whole.segments]


@pytest.mark.slow
class TestInputs:
    def test_a_folder_is_searched_through(self, translate, recordings, expected):
        status, out, _ = translate(recordings)
        assert status == 0
        assert out.splitlines() == segments(expected)
        assert [len(whole.segments) for whole in expected] == [1, 1, 2]
        assert len(set(out.splitlines())) > 1

    def test_files_in_the_order_given(self, translate, recordings, expected):
        _, out, _ = translate(recordings / "b.flac", recordings / "a.WAV")
        assert out.splitlines() == segments([expected[1], expected[0]])

    def test_one_recording_on_standard_input(self, translate, stdin, recordings, expected):
        for arguments in ([], ["-"]):
            stdin((recordings / "b.flac").read_bytes())
            status, out, _ = translate(*arguments)
            assert status == 0 and out.splitlines() == segments(expected[1:2])

    def test_a_list_on_standard_input(self, translate, stdin, recordings, expected):
        stdin(f"{recordings / 'b.flac'}\n\n{recordings / 'below'}\n".encode())
        status, out, _ = translate("--from-list")
        assert status == 0 and out.splitlines() == segments(expected[1:])

    def test_a_list_in_a_file(self, translate, recordings, expected, tmp_path):
        (tmp_path / "list").write_text(f"{recordings / 'a.WAV'}\n")
        _, out, _ = translate("--from-list", tmp_path / "list")
        assert out.splitlines() == segments(expected[:1])

    def test_text(self, translate, stdin, checkpoint, tmp_path):
        lines = ["the man sees water.", "", "a woman wants the house."]
        stdin("".join(f"{line}\n" for line in lines).encode())
        status, out, _ = translate("--text")
        translator = Translator.load(checkpoint, beam=2, max_len_b=8, device="cpu")
        found = [one_line(one.text) for one in translator.translate_text(lines)]
        assert status == 0 and out.split("\n") == [*found, ""] and found[1] == ""
        (tmp_path / "a.en").write_text(lines[0])
        (tmp_path / "b.en").write_bytes(b"ok\n\xff\n")
        status, out, err = translate("--text", tmp_path / "b.en", tmp_path / "a.en")
        assert status == 1 and out.splitlines()[-1] == found[0] and "b.en:2: is not UTF-8" in err

    def test_whole_recordings(self, translate, recordings, checkpoint):
        _, out, _ = translate(recordings / "below", "--no-segmentation")
        whole = Translator.load(
            checkpoint, beam=2, max_len_b=8, device="cpu", segmentation=None
        ).translate(recordings / "below" / "c.wav")
        assert out == one_line(whole.text) + "\n"

    def test_each_segment_alone(self, translate, recordings, expected):
        _, out, _ = translate(recordings, "--batch-seconds", "0")
        assert out.splitlines() == segments(expected)


def cues(text: str, point: str) -> list[tuple[float, float, str]]:
    """(start, end, text) of each cue of a subtitle file."""
    clock = rf"(\d\d):([0-5]\d):([0-5]\d){re.escape(point)}(\d{{3}})"
    found = []
    for block in text.strip().split("\n\n"):
        match = re.fullmatch(rf"(?:(\d+)\n)?{clock} --> {clock}\n(.*)", block, re.DOTALL)
        if match:
            times = [int(number) for number in match.groups()[1:-1]]
            start, end = (
                3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (times[:4], times[4:])
            )
            found.append((start, end, match.groups()[-1]))
    return found


class TestFormats:
    def test_json_lines(self, translate, recordings, expected):
        _, out, _ = translate(recordings, "--output-format", "jsonl")
        records = [json.loads(line) for line in out.splitlines()]
        parts = [part for whole in expected for part in whole.segments]
        assert [record["segment"] for record in records] == [0, 0, 0, 1]
        assert records[2]["source"] == str(recordings / "below" / "c.wav")
        for record, part in zip(records, parts, strict=True):
            assert record["text"] == part.text and tuple(record["tokens"]) == part.tokens
            assert record["score"] == pytest.approx(part.score, abs=1e-3)
            assert (record["start"], record["end"]) == (round(part.start, 3), round(part.end, 3))

    def test_words_with_times(self, translate, recordings, expected):
        _, out, _ = translate(recordings, "--output-format", "jsonl", "--word-times")
        records = [json.loads(line) for line in out.splitlines()]
        parts = [part for whole in expected for part in whole.segments]
        for record, part in zip(records, parts, strict=True):
            assert [word["word"] for word in record["words"]] == part.text.split()
            times = [word[key] for word in record["words"] for key in ("start", "end")]
            assert [record["start"], *times, record["end"]] == sorted(
                [record["start"], *times, record["end"]]
            )

    def test_transcripts(self, translate, checkpoint, recordings, expected):
        translator = Translator.load(checkpoint, device="cpu", transcripts=True, translations=False)
        heard = translator.translate(recordings / "b.flac").transcript
        assert heard and heard != expected[1].text
        _, out, _ = translate(recordings / "b.flac", "--transcript")
        assert out == one_line(heard) + "\n"
        _, out, _ = translate(recordings / "b.flac", "--transcript", "--output-format", "jsonl")
        record = json.loads(out)
        assert (record["text"], record["transcript"]) == (expected[1].text, heard)
        _, out, _ = translate(recordings / "b.flac", "--transcript", "--output-format", "srt")
        assert "".join(one_line(cue[2]) for cue in cues(out, ",")).split() == heard.split()

    @pytest.mark.parametrize("form, point", [("srt", ","), ("vtt", ".")])
    def test_subtitles(self, translate, recordings, expected, form, point):
        _, out, _ = translate(recordings / "below" / "c.wav", "--output-format", form)
        found = cues(out, point)
        said = " ".join(one_line(part.text) for part in expected[2].segments)
        assert said and " ".join(one_line(text) for _, _, text in found).split() == said.split()
        assert found[0][0] >= 0 and found[-1][1] <= expected[2].end + 1
        for (_, end, _), (start, _, _) in zip(found, found[1:]):
            assert start - end >= 0.08 - 1e-9
        assert out.startswith("WEBVTT\n\n" if form == "vtt" else "1\n")

    def test_limits_of_subtitles(self, translate, recordings, expected):
        _, out, err = translate(
            *(recordings / "b.flac", "--output-format", "srt"),
            *("--max-line-characters", "4", "--max-lines", "1", "--min-cue-seconds", "0.1"),
            *("--max-characters-per-second", "0.5", "--min-gap-frames", "3", "--fps", "30"),
        )
        found = cues(out, ",")
        assert len(found) > 1 and max(len(text) for _, _, text in found) <= 4
        for (_, end, _), (start, _, _) in zip(found, found[1:]):
            assert start - end >= 0.1 - 1e-9
        count = len(found)
        assert f"of {count} cues {count} have more than 0.5 characters a second" in err

    def test_what_repeats_itself_says_so(self, translate, recordings, monkeypatch):
        monkeypatch.setattr(repetition, "repeats_itself", lambda *_: True)
        _, out, err = translate(recordings / "below", "--output-format", "jsonl")
        assert [json.loads(line)["decoded_again"] for line in out.splitlines()] == [True, True]
        assert "2 translations repeated themselves and were decoded again" in err
        flags = ["--no-repeat-ngram-size", "1", "--output-format", "jsonl"]
        _, out, _ = translate(recordings / "below", *flags)
        for record in map(json.loads, out.splitlines()):  # the search forbids more already
            assert len(set(record["tokens"])) == len(record["tokens"]) > 0
            assert "decoded_again" not in record

    def test_text_has_no_times(self, translate, stdin):
        stdin(b"")
        status, _, err = translate("--text", "--output-format", "srt")
        assert status == 2 and "text has no times" in err


class TestOutput:
    def test_a_file_appears_whole(self, translate, recordings, expected, tmp_path):
        status, out, _ = translate(recordings, "-o", tmp_path / "new" / "all.txt")
        assert (status, out) == (0, "")
        assert (tmp_path / "new" / "all.txt").read_text().splitlines() == segments(expected)
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["all.txt"]

    @pytest.mark.parametrize("form", ["srt", "text"])
    def test_a_folder_gets_a_file_each(self, translate, recordings, expected, tmp_path, form):
        folder = f"{tmp_path / 'out'}/"
        translate(recordings, "-o", folder, "--output-format", form)
        suffix = {"srt": "srt", "text": "txt"}[form]
        names = [f"a.{suffix}", f"b.{suffix}", f"below/c.{suffix}"]
        files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
        assert sorted(str(file.relative_to(tmp_path / "out")) for file in files) == names
        for name, whole in zip(names, expected):
            content = (tmp_path / "out" / name).read_text()
            found = [cue[2] for cue in cues(content, ",")] if form == "srt" else content.split("\n")
            assert [text for text in found if text] == [t for t in segments([whole]) if t]

    def test_subtitles_of_several_need_a_folder(self, translate, recordings, tmp_path):
        status, _, err = translate(recordings, "--output-format", "vtt")
        assert status == 2 and "-o FOLDER/" in err
        (tmp_path / "one.vtt").write_text("mine")
        status, _, err = translate(recordings, "--output-format", "vtt", "-o", tmp_path / "one.vtt")
        assert status == 2 and "one.vtt is a file" in err
        files = [recordings / "a.WAV", recordings / "b.flac"]
        status, _, err = translate(*files, "--output-format", "vtt", "-o", tmp_path / "new.vtt")
        assert status == 2 and "new.vtt is a file" in err and not (tmp_path / "new.vtt").exists()

    def test_a_full_disk_under_standard_output(
        self, translate, recordings, tmp_path, monkeypatch, full_disk
    ):
        with open(tmp_path / "out.txt", "w") as out:
            monkeypatch.setattr(sys, "stdout", out)
            with full_disk(3):
                status, _, err = translate(recordings)
            assert status == 2 and "error: standard output: File too large; what was writ" in err
        # Closing it has not failed over what could not be written.

    def test_two_of_one_name_do_not_replace_each_other(self, translate, waves, tmp_path):
        for name in ("x.wav", "x.flac"):
            soundfile.write(tmp_path / name, waves[0], RATE)
        status, _, err = translate(tmp_path, "-o", f"{tmp_path}/out/")
        assert status == 1 and "x.wav: its output would take the place of that of" in err


@pytest.fixture
def bad(recordings, waves, tmp_path):
    """Recordings that cannot be used, a good one among them, and what is said of each."""
    whole = (recordings / "b.flac").read_bytes()
    (tmp_path / "1-empty.wav").touch()
    (tmp_path / "2-truncated.flac").write_bytes(whole[:200])
    (tmp_path / "3-good.flac").write_bytes(whole)
    (tmp_path / "4-notes.wav").write_text("these are my notes")
    broken = np.full_like(waves[0], np.nan)
    soundfile.write(tmp_path / "5-nan.wav", broken, RATE, subtype="FLOAT")
    said = {
        "1-empty.wav": "is empty",
        "2-truncated.flac": "holds no samples",
        "4-notes.wav": "is not audio",
        "5-nan.wav": r"(\d+) of \1 samples are NaN",
        "6-missing.wav": "does not exist",
    }
    return [tmp_path / name for name in sorted([*said, "3-good.flac"])], said


class TestBadRecordings:
    @pytest.mark.parametrize("flags", [[], ["--no-segmentation"]], ids=["cut", "whole"])
    def test_the_rest_goes_on(self, translate, bad, expected, flags):
        files, said = bad
        status, out, err = translate(*files, *flags)
        assert status == 1
        assert out.splitlines() == segments(expected[1:2])
        for name, reason in said.items():
            assert re.search(rf"^cress-svcd translate: error: .*{name}.*{reason}", err, re.M), name
        assert err.rstrip().endswith("5 of 6 inputs could not be translated")

    def test_they_leave_no_file(self, translate, bad, tmp_path):
        status, _, _ = translate(*bad[0], "-o", f"{tmp_path}/out/", "--output-format", "srt")
        assert status == 1
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["3-good.srt"]

    def test_nothing_good_writes_nothing(self, translate, bad, tmp_path):
        status, _, err = translate(bad[0][0], "-o", tmp_path / "all.txt")
        assert status == 2 and "1-empty.wav: is empty" in err and "none of 1 inputs" in err
        assert not (tmp_path / "all.txt").exists()

    def test_silence_is_told(self, translate, recordings, expected, tmp_path):
        soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
        status, out, err = translate(tmp_path / "silent.wav", recordings / "b.flac")
        assert status == 0 and out.splitlines() == segments(expected[1:2])
        assert "silent.wav: nothing is heard" in err and "in 1 of 2 recordings" in err

    def test_each_is_called_as_it_was_named(self, translate, waves, tmp_path, monkeypatch):
        """Once, also by a name that holds the path that it is read from."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a b.wav").write_text("no audio")
        _, _, err = translate(".//./a b.wav")
        assert "error: .//./a b.wav: is not audio" in err
        for name in ("x.wav", "x.flac"):
            soundfile.write(tmp_path / name, waves[0], RATE)
        _, _, err = translate("./x.wav", ".//./x.flac", "-o", "out/")
        assert "error: .//./x.flac: its output would take the place of that of ./x.wav;" in err

    def test_standard_input_is_called_by_its_name(self, translate, stdin):
        stdin(b"no audio at all")
        status, _, err = translate("-")
        assert status == 2 and "error: standard input: is not audio" in err

    def test_an_empty_folder(self, translate, tmp_path):
        status, _, err = translate(tmp_path)
        assert status == 2 and "no recording below it" in err

    def test_a_missing_list(self, translate, tmp_path):
        status, _, err = translate("--from-list", tmp_path / "nowhere")
        assert status == 2 and "nowhere: cannot be read" in err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--backend", "gpu"], "backend: gpu"),
        (["--max-segment-seconds", "0"], "max_seconds"),
        (["--text", "--from-list"], "give one of them"),
        (["--text", "--transcript"], "text is not said"),
        (["--text", "--word-times", "--output-format", "jsonl"], "text is not said"),
        (["--word-times"], "add --output-format jsonl"),
        (["--no-repeat-ngram-size", "-1"], "no_repeat_ngram_size"),
        (["--max-cue-seconds", "0.5"], "min_cue_seconds is 1.0"),
        (["--data", "/nowhere"], "no config.yaml in /nowhere"),
    ],
)
def test_options_that_cannot_be_met(translate, recordings, flags, message):
    status, out, err = translate(recordings, *flags)
    assert status == 2 and message in err and out == ""


def test_a_model_of_text_is_given_no_speech(prepared, recordings, tmp_path, capsys):
    path = make_checkpoint(tmp_path / "text.pt", prepared, None)
    status = main(["translate", str(path), *FLAGS, str(recordings)])
    assert status == 2 and "trained on text only" in capsys.readouterr().err


def test_a_model_of_speech_is_given_no_text(prepared, hubert, tmp_path, capsys, stdin):
    path = make_checkpoint(tmp_path / "speech.pt", prepared, hubert)
    stdin(b"the man sees water.\n")
    status = main(["translate", str(path), *FLAGS, "--text"])
    out, err = capsys.readouterr()
    assert status == 2 and "trained on speech only" in err and out == ""
    assert main(["translate", str(path), *FLAGS, "--transcript"]) == 2
    assert "no CTC head" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_read(recordings, tmp_path, capsys):
    (tmp_path / "bad.pt").write_text("no checkpoint")
    status = main(["translate", str(tmp_path / "bad.pt"), *FLAGS, str(recordings)])
    assert status == 2 and "bad.pt" in capsys.readouterr().err
