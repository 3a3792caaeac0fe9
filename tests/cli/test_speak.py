import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from cress_svcd.cli.main import main
from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.data.synthesis.spoken_corpus import speaking_pool

ENGLISH = (
    "Two young males are outside near many bushes.",
    "A little girl climbs into a wooden playhouse.",
    "",
    "A man in a blue shirt is standing on a ladder, cleaning a window.",
    "Two men are at the stove preparing food.",
    "…",
    "He takes the train at 7:45.",
    "Why did you not call me yesterday?",
    "A boy wearing headphones sits on a woman's shoulders.",
    "Ballet dancers in a studio practise jumping.",
)
SPOKEN = [0, 1, 3, 4, 6, 7, 8, 9]


@pytest.fixture
def text(tmp_path):
    """Options that name a split of ten lines, of which eight can be spoken."""

    def write(split="train", english=ENGLISH):
        source, target = tmp_path / f"{split}.en", tmp_path / f"{split}.de"
        source.write_text("".join(f"{line}\n" for line in english), encoding="utf-8")
        target.write_text("".join(f"Satz {n}\n" for n in range(len(english))), encoding="utf-8")
        return ["--split", split, str(source), str(target)]

    return write


def speak(*arguments, workers=2):
    """Run the command in this process; its workers are processes in any case."""
    return main(["speak", "--tgt-lang", "de", "--workers", str(workers), *map(str, arguments)])


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_split(folder: Path, split="train"):
    txt = folder / "en-de" / "data" / split / "txt"
    rows = yaml.load((txt / f"{split}.yaml").read_text(), yaml.CSafeLoader)
    texts = [(txt / f"{split}.{lang}").read_text().split("\n")[:-1] for lang in ("en", "de")]
    return rows, *texts


@pytest.mark.parametrize("audio_format", ["wav", "flac", "ogg"])
def test_layout_of_a_release(text, tmp_path, capfd, audio_format):
    arguments = [*text(), *text("dev"), "--segments-per-file", 3, "--format", audio_format]
    assert speak(*arguments, "-o", tmp_path / "out") == 0
    rows, english, german = read_split(tmp_path / "out")
    assert english == [ENGLISH[n] for n in SPOKEN]
    assert german == [f"Satz {n}" for n in SPOKEN]
    assert [row["wav"] for row in rows] == [
        f"train_{talk:05d}.{audio_format}" for talk in (0, 0, 0, 1, 1, 2, 2, 2)
    ]
    assert [row["rW"] for row in rows] == [len(line.split()) for line in english]
    assert {tuple(row) for row in rows} == {("duration", "offset", "rW", "uW", "speaker_id", "wav")}
    folder = tmp_path / "out" / "en-de" / "data" / "train"
    for row in rows:
        end = row["offset"] + row["duration"]
        assert end <= soundfile.info(folder / "wav" / row["wav"]).duration
    assert {path.name for path in folder.iterdir()} == {"wav", "txt"}
    report = capfd.readouterr().out
    assert "train: 8 segments" in report and "3 speakers" in report
    assert "1 nothing to hear" in report and "1 empty line" in report
    assert "x real time" in report


def test_offsets_and_durations_are_whole_samples(text, tmp_path):
    speak(*text(), "-o", tmp_path / "out")
    rows = (tmp_path / "out/en-de/data/train/txt/train.yaml").read_text().splitlines()
    assert rows[0].startswith("- {duration: ")
    assert ", uW: 0, speaker_id: spk.train-0, wav: train_00000.wav}" in rows[0]
    folder = tmp_path / "out/en-de/data/train/wav"
    for row in yaml.load("\n".join(rows), yaml.CSafeLoader):
        # Readers differ: some round, some truncate.
        offset, frames = (row[key] * SAMPLE_RATE for key in ("offset", "duration"))
        assert offset == int(offset) and frames == int(frames)
        wave = read_audio(f"{folder / row['wav']}:{int(offset)}:{int(frames)}")
        before = read_audio(f"{folder / row['wav']}:{int(offset) - 3200}:3200")
        audible = np.flatnonzero(wave)
        assert SAMPLE_RATE // 10 <= audible[0] < SAMPLE_RATE // 10 + 250
        assert len(wave) - audible[-1] <= SAMPLE_RATE // 10 + 251
        assert not before.any()


def test_bytes_do_not_depend_on_the_number_of_workers(text, tmp_path):
    arguments = [*text(), *text("dev"), "--segments-per-file", 2, "--phones", "--noise", 30]
    for workers in (1, 2):
        assert speak(*arguments, "-o", tmp_path / f"out{workers}", workers=workers) == 0
    one, two = files_below(tmp_path / "out1"), files_below(tmp_path / "out2")
    assert len([name for name in one if name.endswith(".wav")]) == 10
    assert one == two


def test_seed_and_voices(text, tmp_path):
    for name, options in {
        "a": ["--seed", 1],
        "b": ["--seed", 2],
        "c": ["--voices", "en-gb+f2"],
        "d": ["--voices", "en-gb+f2", "--test-voices", "en-gb-scotland"],
    }.items():
        speak(*text(), *text("dev"), "-o", tmp_path / name, *options)
    audio = {
        (name, split): (tmp_path / name / f"en-de/data/{split}/wav/{split}_00000.wav").read_bytes()
        for name in "abcd"
        for split in ("train", "dev")
    }
    assert audio.pop(("c", "train")) == audio[("d", "train")]
    assert len(set(audio.values())) == len(audio)
    done = json.loads((tmp_path / "d/en-de/data/dev/txt/dev.speak.json").read_text())
    assert done["settings"]["voices"] == ["gmw/en-GB-scotland"]
    assert done["speakers"]["spk.dev-0"]["voice"] == "gmw/en-GB-scotland"


def test_phones_are_aligned_with_the_segments(text, tmp_path):
    speak(*text(), "--phones", "--speaker-per", "segment", "-o", tmp_path / "out")
    rows, english, _ = read_split(tmp_path / "out")
    lines = (tmp_path / "out/en-de/data/train/txt/train.phones").read_text().splitlines()
    assert len(lines) == len(english) == len({row["speaker_id"] for row in rows})
    for row, line in zip(rows, map(json.loads, lines), strict=True):
        times = [seconds for seconds, _ in line]
        assert times[0] == 0.0 and times == sorted(times) and times[-1] < row["duration"]
        assert len(line) > 8 and line[-1][1] == "_"


def test_another_source_language(text, tmp_path):
    german = ["Guten Morgen, wie geht es Ihnen?", "Der Zug fährt um halb acht ab."]
    arguments = [*text(english=german), "--source-lang", "de", "-o", tmp_path / "out"]
    assert main(["speak", "--tgt-lang", "ro", "--workers", "1", *map(str, arguments)]) == 0
    txt = tmp_path / "out/de-ro/data/train/txt"
    assert (txt / "train.de").read_text().splitlines() == german
    assert "gmw/de" in json.loads((txt / "train.speak.json").read_text())["settings"]["voices"]


def test_a_finished_release_is_kept_and_force_makes_it_again(text, tmp_path, capfd):
    arguments = [*text(), "-o", tmp_path / "out", "--segments-per-file", 2]
    speak(*arguments)
    before = files_below(tmp_path / "out")
    wav = tmp_path / "out/en-de/data/train/wav/train_00000.wav"
    made = wav.stat().st_mtime_ns
    assert speak(*arguments) == 0
    assert wav.stat().st_mtime_ns == made
    assert "was there already" in capfd.readouterr().out
    assert speak(*arguments, "--force") == 0
    assert wav.stat().st_mtime_ns != made
    assert files_below(tmp_path / "out") == before
    assert speak(*arguments, "--segments-per-file", 5, "--force") == 0
    left = {path.name for path in (tmp_path / "out/en-de/data/train/wav").iterdir()}
    assert left == {"train_00000.wav", "train_00001.wav"}


@pytest.mark.parametrize(
    "change, message",
    [
        (["--seed", "2"], "seed 1 there, 2 now"),
        (["--format", "flac"], "audio_format 'wav' there, 'flac' now"),
        (["--phones"], "phones False there, True now"),
    ],
)
def test_other_settings_do_not_mix(text, tmp_path, capfd, change, message):
    speak(*text(), "-o", tmp_path / "out")
    before = files_below(tmp_path / "out")
    assert speak(*text(), "-o", tmp_path / "out", *change) == 2
    error = capfd.readouterr().err
    assert message in error and "--force" in error
    assert files_below(tmp_path / "out") == before


def test_other_text_does_not_mix(text, tmp_path, capfd):
    speak(*text(), "-o", tmp_path / "out")
    assert speak(*text(english=ENGLISH[::-1]), "-o", tmp_path / "out") == 2
    assert "other text" in capfd.readouterr().err


def test_a_release_of_someone_else_is_left_alone(text, tmp_path, capfd):
    txt = tmp_path / "out/en-de/data/train/txt"
    txt.mkdir(parents=True)
    (txt / "train.yaml").write_text("- {duration: 3.5}\n")
    assert speak(*text(), "-o", tmp_path / "out") == 2
    assert "train.yaml was not made by this command" in capfd.readouterr().err
    there = files_below(tmp_path / "out")
    assert there == {"en-de/data/train/txt/train.yaml": b"- {duration: 3.5}\n"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--voices", "en-us+f33"], "unknown voice variant 'f33' in 'en-us+f33'; near names"),
        (["--test-voices", "en-uk"], "unknown voice 'en-uk'"),
        (["--source-lang", "xx"], "--source-lang xx: no voice has that name"),
        (["--tgt-lang", "en"], "--tgt-lang 'en' is the source language too"),
        (["--rate", "300", "200"], "--rate 300 200"),
    ],
)
def test_bad_options(text, tmp_path, capfd, options, message):
    assert speak(*text(), "-o", tmp_path / "out", *options) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_text(text, tmp_path, capfd):
    assert speak(*text(english=["fine", "a\ttab"]), "-o", tmp_path / "out") == 2
    assert "train.en:2: character 2 is a tab" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    arguments = [*text("dev", english=["fine", "a\ttab"]), "-o", tmp_path / "cleaned", "--clean"]
    assert speak(*arguments) == 0
    assert "cleaned: 1" in capfd.readouterr().out
    assert read_split(tmp_path / "cleaned", "dev")[1] == ["fine", "a tab"]
    assert speak(*text(), *text(), "-o", tmp_path / "out") == 2
    assert "--split train is given 2 times" in capfd.readouterr().err
    assert speak(*text(english=["…", "!"[:0]]), "-o", tmp_path / "out") == 2
    assert "split train: none of its lines could be spoken" in capfd.readouterr().err


def test_output_that_cannot_be_written(text, tmp_path, capfd):
    (tmp_path / "out").write_text("a file")
    assert speak(*text(), "-o", tmp_path / "out") == 2
    assert "Not a directory" in capfd.readouterr().err


def test_workers_are_silent(capfd):
    with speaking_pool(1) as pool:
        for stream in (1, 2):
            assert pool.submit(os.write, stream, b"noise of the library").result() == 20
    assert capfd.readouterr() == ("", "")


def run_process(arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "cress_svcd.cli.main", "speak", "--tgt-lang", "de"]
    return subprocess.Popen([*command, *map(str, arguments)], **options)


@pytest.mark.slow
def test_full_disk_leaves_nothing_half_written_and_can_be_resumed(text, tmp_path):
    """A limit on the size of files stands for the full disk: writing fails half-way."""
    arguments = [*text(english=ENGLISH[:2] + ENGLISH[:1] * 9), "-o", tmp_path / "out"]
    arguments += ["--segments-per-file", 2, "--workers", 1]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1));"
        "from cress_svcd.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", limited, "speak", "--tgt-lang", "de", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr and "run the same command again" in result.stderr
    assert not [name for name in files_below(tmp_path / "out") if not name.endswith(".json")]
    assert speak(*arguments) == 0
    assert len(read_split(tmp_path / "out")[0]) == 11


def processes_of_session(leader: int) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(status.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table")
def test_a_killed_run_leaves_no_processes_and_is_resumed(text, tmp_path):
    arguments = [*text(english=ENGLISH * 30), "--segments-per-file", 5, "--workers", 2]
    process = run_process(
        [*arguments, "-o", tmp_path / "killed"], start_new_session=True, stderr=subprocess.DEVNULL
    )
    progress = tmp_path / "killed/en-de/data/train/.speak"
    deadline = time.monotonic() + 60
    while len(list(progress.glob("talk_*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "finished before it could be killed"
    while processes_of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of_session(process.pid)

    records = sorted(progress.glob("talk_*.json"))
    assert 3 <= len(records) < 54
    spoken = tmp_path / "killed/en-de/data/train/wav/train_00000.wav"
    made = spoken.stat().st_mtime_ns
    assert speak(*arguments, "-o", tmp_path / "killed") == 0
    assert spoken.stat().st_mtime_ns == made
    assert speak(*arguments, "-o", tmp_path / "whole") == 0
    assert files_below(tmp_path / "killed") == files_below(tmp_path / "whole")
