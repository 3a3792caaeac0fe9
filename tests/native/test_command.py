"""What the command ``cress`` says of a wrong command line: one line, which helps."""

import os
import pty
import shutil
import subprocess

import pytest

from tests.native.conftest import EXAMPLES


def run(engine, *arguments, **options) -> subprocess.CompletedProcess:
    command = [*map(str, (engine, *arguments))]
    options = {"stdin": subprocess.DEVNULL} | options
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def refusal(done) -> str:
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    return line.removeprefix("cress: error: ")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--beam", "5000"], "--beam: found 5000, expected a number from 1 to 1000"),
        (["--beam", "x"], "--beam: found x, expected a number from 1 to 1,000,000"),
        (["--lenpen=inf"], "--lenpen: found inf, expected a number from -1000 to 1000"),
        (
            ["--max-segment-seconds=0"],
            "--max-segment-seconds: found 0, expected a number from 1 to 3600",
        ),
        (
            ["--min-segment-seconds", "30"],
            "--min-segment-seconds: found 30, expected a number from 0 to 10",
        ),
        (["--isa", "z80"], "--isa: found z80, and this processor has portable"),
        (["--segmenter", "no"], "--segmenter: expected auto, energy or learnt"),
        (["--tgt-lang", "de"], "--tgt-lang de: the model has one language; leave it out"),
        (
            ["--output-format", "ttml"],
            "--output-format: found ttml, expected text, jsonl, srt or vtt",
        ),
        (["--output-format"], "--output-format: its value is missing"),
        (["--threads"], "--threads: its value is missing"),
        (["--fast"], "--fast: no such option"),
        (["--fast=1"], "--fast: no such option"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(engine, exampled, voice, options, words):
    assert refusal(run(engine, "translate", exampled, voice, *options)).startswith(words)


def test_a_segmenter_that_the_model_has_not_is_an_error(engine, voice, tmp_path):
    pytest.importorskip("safetensors", reason="pip install 'cress_svcd[export]'")
    from cress_svcd.cli.main import main

    path = tmp_path / "en-ro.cress"
    assert main(["export", str(EXAMPLES / "en-ro.pt"), "-o", str(path)]) == 0
    said = refusal(run(engine, "translate", path, voice, "--segmenter", "learnt"))
    assert said == "--segmenter: the model carries none that is learnt; take energy"


def test_values_may_follow_an_equals_sign(engine, exampled, voice):
    first = run(engine, "translate", "--output-format", "jsonl", "--nbest", 2, exampled, voice)
    other = run(engine, "translate", "--output-format=jsonl", "--nbest=2", exampled, voice)
    assert first.returncode == 0 and first.stdout.count("\n") == 8
    assert first.stdout == other.stdout


def test_another_command_is_an_error(engine):
    assert refusal(run(engine, "transcribe", "x")).startswith("transcribe: no such command")
    assert refusal(run(engine, "translate")).startswith("no model is named")
    assert run(engine, "--help").stdout == run(engine).stderr


def test_what_is_no_model_is_told_by_its_kind(engine, voice, tmp_path):
    packed = EXAMPLES / "en-de.pt"
    assert "'cress-svcd export' makes" in refusal(run(engine, "translate", packed, voice))
    assert "is a recording" in refusal(run(engine, "translate", voice, packed))
    (tmp_path / "zeros").write_bytes(bytes(100))
    assert "is no .cress file" in refusal(run(engine, "translate", tmp_path / "zeros", voice))


def test_what_is_no_recording_says_why(engine, exampled, tmp_path):
    shutil.copy(EXAMPLES / "voice-1.flac", tmp_path)
    said = {
        path: refusal(run(engine, "translate", exampled, tmp_path / path))
        for path in ("none.wav", ".", "voice-1.flac")
    }
    assert "(No such file or directory)" in said["none.wav"]
    assert "(Is a directory)" in said["."]
    assert "ffmpeg" in said["voice-1.flac"]
    assert (
        refusal(run(engine, "translate", exampled)) == "standard input: is no WAV file, but empty"
    )


def test_a_part_lies_within_its_recording(engine, exampled, voice):
    done = run(engine, "translate", exampled, f"{voice}:150400:16000")
    assert refusal(done).endswith("begins after the recording's end; it has 150400 samples")
    done = run(engine, "translate", exampled, f"{voice}:150000:401")  # as in Python
    assert refusal(done).endswith("ends after the recording's end; it has 150400 samples")


@pytest.mark.parametrize(
    "content, words",
    [("", "names no recording"), ("x" * 5000, "longer than 4,000 bytes"), (None, "Is a directory")],
)
def test_a_list_that_is_none_is_an_error(engine, exampled, tmp_path, content, words):
    path = tmp_path if content is None else tmp_path / "list"
    if content is not None:
        path.write_text(content)
    assert words in refusal(run(engine, "translate", exampled, "--list", path))


def test_a_terminal_is_no_recording(engine, exampled):
    leader, follower = pty.openpty()
    try:
        said = refusal(run(engine, "translate", exampled, stdin=follower))
    finally:
        os.close(leader)
        os.close(follower)
    assert said.startswith("no recording is named, and standard input is a terminal")
