"""``cress-svcd translate`` with a trained model: the words of fairseq-generate, and subtitles."""

import json
import re

import numpy as np
import pysubs2
import pytest
import soundfile

from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.data.corpus.manifest import read_manifest

FLAGS = ["--beam", "3", "--max-len-b", "20", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def waves(prepared, release) -> list[np.ndarray]:
    """The sentences of the test set."""
    root = release / "en-de" / "data"
    specs = read_manifest(prepared / "tst-COMMON.tsv")["audio"]
    return [read_audio(spec, root=root) for spec in specs]


def test_the_words_are_those_of_fairseq_generate(run, averaged, waves, speech, elsewhere, tmp_path):
    for number, wave in enumerate(waves):
        path = tmp_path / "speech" / f"{number:02}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, wave, SAMPLE_RATE, subtype="FLOAT")
    result = run(
        "cress-svcd",
        "translate",
        averaged,
        tmp_path / "speech",
        *FLAGS,
        "--output-format",
        "jsonl",
        "-o",
        tmp_path / "all.jsonl",
        cwd=elsewhere,
    )
    assert result.stdout == ""
    found = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    lines = re.findall(r"^D-(\d+)\t(\S+)\t(.*)$", speech, re.MULTILINE)
    expected = {int(number): (float(score), text) for number, score, text in lines}
    assert len(found) == len(expected) == 12
    assert len({text for _, text in expected.values()}) > 1
    for number, record in enumerate(found):
        score, text = expected[number]
        assert record["text"] == text and record["source"].endswith(f"{number:02}.wav")
        assert record["score"] == pytest.approx(score, abs=1e-3)


def test_a_long_recording_from_a_pipe_becomes_subtitles(run, averaged, waves, elsewhere, tmp_path):
    pause = np.zeros(SAMPLE_RATE, np.float32)
    parts = [part for wave in waves for part in (pause, wave)]
    starts = np.cumsum([len(part) for part in parts])[::2] / SAMPLE_RATE
    soundfile.write(tmp_path / "talk.flac", np.concatenate(parts), SAMPLE_RATE)
    with open(tmp_path / "talk.flac", "rb") as talk:
        result = run(
            "cress-svcd",
            "translate",
            averaged,
            "-",
            *FLAGS,
            "--output-format",
            "vtt",
            cwd=elsewhere,
            stdin=talk,
        )
    assert result.stdout.startswith("WEBVTT\n\n")
    cues = pysubs2.SSAFile.from_string(result.stdout, format_="vtt")
    assert len(waves) / 2 <= len(cues) <= len(waves)  # a short sentence may join the next one
    for cue in cues:
        begins = [start for start in starts if start - 0.3 < cue.start / 1000 < start + 0.5]
        assert begins and 1000 <= cue.duration <= 7000
        assert all(len(line) <= 42 for line in cue.plaintext.split("\n"))
    for cue, following in zip(cues, cues[1:]):
        assert following.start - cue.end >= 80
    assert "Traceback" not in result.stderr
