"""The command ``cress`` in trouble: odd names, lists, outputs, a model that is cut meanwhile."""

import json
import os
import shutil
import subprocess
import time

import pytest


@pytest.fixture
def run(engine, exampled):
    def run(*arguments, model=exampled, **options):
        command = [engine, "translate", "--no-segmentation", "--max-len-b", 5, model, *arguments]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.run([*map(os.fsencode, map(str, command))], timeout=60, **options)

    return run


def one_error(done, status=2) -> str:
    assert done.returncode == status
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("cress: ")
    return line


def test_names_stay_in_their_line_and_in_json(run, voice, tmp_path):
    assert r"no\nsuch\x1b.wav" in one_error(run(tmp_path / "no\nsuch\x1b.wav"))
    odd = tmp_path / "a\nb\udcff\u00e9.wav"
    shutil.copy(voice, odd)
    (line,) = run(odd, "--output-format", "jsonl").stdout.decode().splitlines()
    assert json.loads(line)["source"] == str(odd)


def test_standard_input_has_a_name(run, voice):
    done = run("--output-format", "jsonl", input=voice.read_bytes())
    assert json.loads(done.stdout)["source"] == "standard input"


def test_a_segment_lies_within_its_file(run, voice):
    length = (voice.stat().st_size - 44) // 2
    assert run(f"{voice}:8000:{length - 8000}").returncode == 0
    for part in (f"8000:{length - 7999}", f"{length}:1", f"{2**70}:{2**70}"):
        assert f"after the recording's end; it has {length} samples" in one_error(
            run(f"{voice}:{part}")
        )


def test_lists_are_whole_or_an_error(run, voice, tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"\xef\xbb\xbf" + os.fsencode(voice) + b"\r\n\n" + os.fsencode(voice))
    done = run("--list", path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2
    path.write_bytes(b"x" * 5000 + b"\n")
    assert "longer than 4,000 bytes" in one_error(run("--list", path))
    path.write_bytes(os.fsencode(voice) + b"\0x\n")
    assert "holds a zero" in one_error(run("--list", path))
    path.write_bytes(b"\n")
    assert "names no recording" in one_error(run("--list", path))
    assert str(tmp_path) in one_error(run("--list", tmp_path))


def test_what_cannot_be_written_is_an_error(run, voice, tmp_path):
    done = run("--trace", tmp_path / "none", voice)
    assert "cannot be written" in one_error(done, 1) and done.stdout
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            started = time.monotonic()
            done = run(*[voice] * 1000, stdout=full)
        assert "cannot be written" in one_error(done, 1)
        assert time.monotonic() - started < 30  # it does not translate them all


def test_a_model_that_is_cut_while_it_is_used_is_an_error(engine, exampled, voice, tmp_path):
    model = tmp_path / "cut.cress"
    shutil.copy(exampled, model)
    command = [engine, "translate", model, "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stderr
        process.stdin.write(voice.read_bytes()[:1000])
        process.stdin.flush()
        while str(model) not in _maps(process.pid):  # loaded, and waits for the rest
            time.sleep(0.01)
        time.sleep(0.3)
        model.write_bytes(b"")
        process.stdin.write(voice.read_bytes()[1000:])
        process.stdin.close()
        said = process.stderr.read().decode()
        assert process.wait(60) == 1
    assert "file was cut" in said and said.count("\n") == 1


def _maps(number: int) -> str:
    try:
        with open(f"/proc/{number}/maps", encoding="utf-8") as file:
            return file.read()
    except OSError:
        pytest.skip("no /proc: what a process has mapped is not known")
