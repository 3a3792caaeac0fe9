"""Live audio, cut while it comes, by a model that lies in memory."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.native.conftest import EXAMPLES, NATIVE


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Two recordings with a long pause of noise between them, then speech that ends at once."""
    waves = [soundfile.read(EXAMPLES / f"voice-{n}.flac", dtype="float32")[0] for n in (1, 6)]
    noise = 1e-4 * np.random.default_rng(1).standard_normal(48_000).astype(np.float32)
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, np.concatenate([waves[0], noise, waves[1], waves[0][:40_000]]), 16_000)
    return path


@pytest.fixture(scope="module")
def live(engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    source = Path(__file__).with_name("live.c")
    command = ["cc", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE / 'include'}", source]
    command += [engine.parent / "libcress.a", "-lm", "-pthread", "-o", folder / "live"]
    subprocess.run([*map(str, command)], check=True)
    return folder / "live"


@pytest.fixture(scope="module")
def both(live, engine, exampled, talk):
    """Segments (seconds heard before, start, end, words) of the recording in pieces, its subtitles,
    and the segments of the command, which cuts it as a whole."""

    def translate(segmenter, seconds):
        command = [*map(str, (live, exampled, talk, segmenter, seconds))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        head, _, srt = done.stdout.partition("\n\n")
        found = [line.split("\t") for line in head.splitlines()]
        command = [engine, "translate", "--segmenter", segmenter, "--output-format", "jsonl"]
        command += [exampled, talk]
        whole = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return found, srt, [json.loads(line) for line in whole.splitlines()]

    return translate


@pytest.mark.parametrize("segmenter, seconds, late", [("energy", 0.5, 2.6), ("learnt", 10, 13)])
def test_segments_come_while_they_are_said(both, segmenter, seconds, late):
    """``late``: a pause of one second (two), a piece, and what is said without a pause."""
    found, srt, expected = both(segmenter, seconds)
    assert len(expected) > 6
    assert len(found) == len(expected)
    words = zip((words for *_, words in found), (part["text"] for part in expected), strict=True)
    others = sum(one != other for one, other in words)
    # A segment may begin some hundredths later, and the toy say something else.
    assert others <= {"energy": 0, "learnt": 3}[segmenter]
    for (_, start, end, _), segment in zip(found, expected, strict=True):
        assert float(start) == pytest.approx(segment["start"], abs=0.1)
        assert float(end) == pytest.approx(segment["end"], abs=0.1)
    assert max(float(heard) - float(end) for heard, _, end, _ in found) < late
    assert srt.count(" --> ") >= len(found)
    for segment in expected:
        assert segment["text"].split()[0] in srt
