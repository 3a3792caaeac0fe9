"""Running fairseq's programs as processes: arguments as lists, a log file, live progress."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cress_svcd.errors import CressError
from cress_svcd.recipes.children import Child
from cress_svcd.recipes.runner import child_environment

# "… | train_inner | {…}" with --log-format json; the tag says which split it is about.
_LOGGED = re.compile(r"\[?(?P<tag>[\w.-]+)\]?(?:\[INFO\])? (?:-|\|) (?P<json>\{.*\})\s*$")
_TAIL_LINES = 15


class ProcessError(CressError):
    """A program that we started has failed."""


def logged_numbers(line: str) -> tuple[str, dict[str, float]] | None:
    """Tag and numbers of a line that fairseq logs as JSON, or None for any other line.

    Values that are no numbers are left out; ``nan`` and ``inf`` count as numbers.
    """
    match = _LOGGED.search(line)
    if match is None:
        return None
    try:
        values: Mapping[str, Any] = json.loads(match["json"])
    except (ValueError, RecursionError):
        return None
    numbers = {}
    for key, value in values.items():
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            numbers[key] = float(value)
    return match["tag"], numbers


class TrainingProgress:
    """A bar over the updates of a training, fed with the lines of its log.

    Args:
        title: before the bar.
        updates: how many there will be.
        show: names of what is shown behind the bar, as fairseq logs them.

    ``last`` has what was logged last for each tag, ``updates`` how far the training is.
    """

    def __init__(self, title: str, updates: int, show: Sequence[str]):
        self.show = show
        self.last: dict[str, dict[str, float]] = {}
        self.updates = 0
        self.bar = tqdm(total=updates, desc=title, unit="update", disable=None)

    def __call__(self, line: str) -> None:
        logged = logged_numbers(line)
        if logged is None:
            return
        tag, numbers = logged
        self.last[tag] = numbers
        if tag == "train_inner":
            shown = {key: f"{numbers[key]:.3g}" for key in self.show if key in numbers}
            self.bar.set_postfix(shown, refresh=False)
            done, self.updates = self.updates, int(numbers.get("num_updates", 0))
            self.bar.update(self.updates - done)

    def close(self) -> None:
        self.bar.close()


def run_logged(
    arguments: Sequence[str],
    log: str | os.PathLike,
    on_line=lambda line: None,
    environment: Mapping[str, str] | None = None,
    locks: Sequence[int] = (),
) -> None:
    """Run a program to its end, appending what it prints to ``log``.

    It ends with this process at the latest, with all that it has started.

    Args:
        arguments: program and arguments; no shell sees them.
        log: file; its folder is made.
        on_line: called with each line as it comes.
        environment: variables to set besides this process's own.
        locks: what ``children.alone_in`` has yielded, which the program holds as well.
    Raises:
        ProcessError: it ended with another status than 0; the message has the end of the log.
    """
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8", errors="surrogateescape") as sink:
        sink.write(f"$ {' '.join(map(str, arguments))}\n")
        sink.flush()
        start = sink.tell()
        process = Child(
            list(map(str, arguments)),
            child_environment(environment),
            locks,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        try:
            for line in process.stdout:
                sink.write(line)
                sink.flush()
                on_line(line)
            status = process.wait()
        finally:
            process.stop()
    if status:
        raise ProcessError(_failure(arguments, status, log, start))


def python_module(module: str, *arguments: str) -> list[str]:
    """Arguments that run a module with this very Python."""
    # Not of our making, and in the way of what matters: torch's and hydra's deprecations.
    return [sys.executable, "-W", "ignore", "-m", module, *arguments]


def _failure(arguments: Sequence[str], status: int, log: Path, start: int) -> str:
    reason = f"status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    tail = "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])
    program = " ".join(map(str, arguments[-3:]))
    return f"{program} ended with {reason}; the end of {log}:\n{tail}"
