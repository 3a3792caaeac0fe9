"""Live audio, cut while it comes, by a model that lies in memory."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cress_svcd.cli.main import main
from tests.native.conftest import NATIVE

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("safetensors", reason="pip install 'cress_svcd[export]'")
    path = tmp_path_factory.mktemp("model") / "en-de.cress"
    assert main(["export", str(EXAMPLES / "en-de.pt"), "-o", str(path)]) == 0
    return path


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


def test_segments_come_while_they_are_said(live, engine, model, talk):
    done = subprocess.run([live, model, talk], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, _, srt = done.stdout.partition("\n\n")
    found = [line.split("\t") for line in head.splitlines()]
    command = [
        engine,
        "translate",
        "--segmenter",
        "energy",
        "--output-format",
        "jsonl",
        model,
        talk,
    ]
    whole = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = [json.loads(line) for line in whole.splitlines()]
    assert len(expected) > 6
    assert [words for *_, words in found] == [segment["text"] for segment in expected]
    for (_, start, end, _), segment in zip(found, expected, strict=True):
        assert float(start) == pytest.approx(segment["start"], abs=0.1)
        assert float(end) == pytest.approx(segment["end"], abs=0.1)
    late = [float(heard) - float(end) for heard, _, end, _ in found]
    assert max(late) < 2.6  # a pause of one second, a piece, and what is said without a pause
    assert srt.count(" --> ") >= len(found)
    for segment in expected:
        assert segment["text"].split()[0] in srt
