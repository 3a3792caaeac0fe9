"""The command as a process: names of any bytes, whatever the terminal can show."""

import json
import os
import subprocess
import sys

import pytest
import soundfile

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from tests.helpers.translation_model import make_checkpoint

NAMES = [b"a.wav", b"b\xe9.wav", "größe.wav".encode()]


@pytest.fixture(scope="module")
def checkpoint(prepared, hubert, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.pt", prepared, hubert)


@pytest.fixture(scope="module")
def recordings(prepared, release, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    spec = read_manifest(prepared / "tst-COMMON.tsv")["audio"][0]
    wave = read_audio(spec, root=release / "en-de" / "data")
    for name in NAMES:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            soundfile.write(file, wave, 16_000, format="WAV")
    with open(os.fsencode(folder) + b"/z\xff.wav", "wb") as file:
        file.write(b"no audio")
    return folder


def translate(checkpoint, *arguments, encoding="utf-8"):
    command = [sys.executable, "-m", "cress_svcd.cli.main", "translate", checkpoint, *arguments]
    return subprocess.run(
        [*command, "--beam", "1", "--max-len-b", "4", "--device", "cpu"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_bytes_are_a_name(checkpoint, recordings, tmp_path, encoding):
    options = ["--output-format", "jsonl"]
    result = translate(checkpoint, recordings, *options, encoding=encoding)
    assert result.returncode == 1 and b"Traceback" not in result.stderr
    assert rb"/z\udcff.wav: is not audio" in result.stderr
    records = [json.loads(line) for line in result.stdout.decode(encoding).splitlines()]
    found = [os.fsencode(record["source"]).rpartition(b"/")[2] for record in records]
    assert found == NAMES
    # The same in a file, and in a file for each.
    options += ["-o", tmp_path / "all.jsonl"]
    assert translate(checkpoint, recordings, *options, encoding=encoding).returncode == 1
    lines = (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["source"] for line in lines] == [each["source"] for each in records]


@pytest.mark.slow
def test_subtitles_of_any_bytes_and_lists(checkpoint, recordings, tmp_path):
    (tmp_path / "list").write_bytes(
        b"".join(os.fsencode(recordings) + b"/" + name + b"\n" for name in [*NAMES, b"\xfe.wav"])
    )
    result = translate(
        checkpoint,
        *("--from-list", tmp_path / "list", "-o", f"{tmp_path}/o/", "--output-format", "srt"),
    )
    assert result.returncode == 1 and b"Traceback" not in result.stderr
    assert rb"\udcfe.wav: does not exist" in result.stderr
    written = sorted(os.listdir(os.fsencode(tmp_path / "o")))
    assert written == sorted(name.replace(b".wav", b".srt") for name in NAMES)
