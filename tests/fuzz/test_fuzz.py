"""The fuzzer runs, finds nothing in a few seconds, and sees the faults that it is to see."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cress_svcd.errors import ConfigError
from tests.fuzz import execution
from tests.fuzz.__main__ import main
from tests.fuzz.readers import READERS, Reader

ROOT = Path(__file__).parents[2]


def fuzz(*options) -> subprocess.CompletedProcess:
    """The fuzzer, as a process of its own: it copies itself for each reader."""
    command = [sys.executable, "-m", "tests.fuzz", *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_every_reader_bears_a_few_damaged_files(tmp_path):
    places = ["--world", tmp_path / "world", "--findings", tmp_path / "findings"]
    result = fuzz("--turns", 1, "--inputs", 4, "--in-process", "--seed", 15, *places)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"seed 15, {len(READERS)} readers" in result.stdout and "0 findings" in result.stdout
    assert not (tmp_path / "findings").exists()


def test_the_list_names_every_reader(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(READERS)
    assert all(line.startswith(name) for line, name in zip(lines, READERS))


def refuses(case):
    raise ConfigError("x.txt: expected other words")


def breaks(case):
    raise KeyError("x")


def crashes(case):
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(case):
    while True:
        pass


def takes_memory(case):
    return bytearray(5 << 30)


def says_much(case):
    raise ConfigError("x.txt:\nexpected\nother words")


def leaves_a_part(case):
    (case.out / "made.txt").write_text("half")
    raise ConfigError("x.txt: expected other words")


@pytest.mark.parametrize(
    "call, fault",
    [
        (lambda case: None, ""),
        (refuses, ""),
        (breaks, "KeyError in ?"),
        (crashes, "ended by SIGSEGV"),
        (hangs, "hang"),
        (takes_memory, "MemoryError"),
        (says_much, "a refusal of several lines"),
        (leaves_a_part, "left made.txt"),
    ],
)
def test_what_is_a_finding(tmp_path, monkeypatch, call, fault):
    monkeypatch.setattr(execution, "CPU_SECONDS", 1)
    (tmp_path / "world" / "texts").mkdir(parents=True)
    (tmp_path / "world" / "texts" / "x.txt").write_text("words")
    reader = Reader("toy", "text", "texts/x.txt", call)
    verdicts = execution.run_forked(reader, tmp_path / "world", [b"a", b"b"], tmp_path / "run")
    assert len(verdicts) == 2  # what comes behind a crash is run as well
    for verdict in verdicts:
        assert verdict.fault.startswith(fault) and bool(verdict.fault) == bool(fault)
