"""A real server process with two small models, and how to ask it."""

import contextlib
import functools
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cress_svcd.cli.main import main
from tests.helpers.translation_model import make_checkpoint

ROOT = Path(__file__).parents[2]
SEARCH = ["--beam", "2", "--max-len-b", "12", "--device", "cpu", "--threads", "1"]


class Process:
    """``cress-svcd serve`` at a free port; ``log`` has what it says."""

    def __init__(self, *arguments, most_bytes: int | None = None, **environment):
        """most_bytes: of a file that the process writes."""

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        self.process = subprocess.Popen(
            [sys.executable, "-m", "cress_svcd.cli.main", "serve", "--port", "0"]
            + [str(argument) for argument in [*arguments, *SEARCH]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
            preexec_fn=None if most_bytes is None else limit,
        )
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"^serving .* at (http://\S+)", line):
                self.url = found[1]
                break
        else:
            raise RuntimeError(self.log)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        self.lines += self.process.stdout

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        status = self.process.wait(60)
        self.reader.join(10)
        return status

    def close(self) -> None:
        self.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def checkpoint(prepared, hubert, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "model.pt"
    return make_checkpoint(path, prepared, hubert, "--st-training")


@pytest.fixture(scope="session")
def recordings(release) -> list[Path]:
    return sorted((release / "en-de" / "data" / "tst-COMMON" / "wav").iterdir())


@contextlib.contextmanager
def running(*arguments, **options):
    process = Process(*arguments, **options)
    try:
        yield process
    finally:
        process.close()


@pytest.fixture(scope="session")
def start_server():
    """Context of a server with arguments of one's own."""
    return running


@pytest.fixture(scope="session")
def server(checkpoint):
    """One for all tests that leave it as it is."""
    with running(f"one={checkpoint}", f"two={checkpoint}") as process:
        yield process


@pytest.fixture(scope="session")
def said(checkpoint, tmp_path_factory):
    """What ``translate`` writes of a recording in a format."""

    @functools.cache
    def translate(path: Path, form: str) -> str:
        output = tmp_path_factory.mktemp("said") / "out"
        words = ["translate", checkpoint, path, "--output-format", form, "-o", output, *SEARCH]
        assert main([str(word) for word in words]) == 0  # a process would take seconds to start
        return output.read_text(encoding="utf-8")

    return translate
