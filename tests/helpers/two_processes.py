"""Several processes on one machine without GPUs, started by torchrun."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cress_svcd.recipes.runner import resolve
from tests.helpers.fairseq_commands import Outcome, run_series

PROCESSES = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch() -> list[str]:
    """What starts a script, or a module after ``-m``, in two processes."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(PROCESSES),
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        str(free_port()),
    ]


def torchrun_command(command: list) -> list[str]:
    """One of our commands, or of fairseq, in two processes."""
    _, _, module, *arguments = resolve([str(item) for item in command])
    return [*launch(), "-m", module, *arguments]


def torchrun_series(commands: dict[str, list], cwd) -> dict[str, Outcome]:
    """Run several of fairseq's commands one after the other in the same two processes."""
    return run_series(commands, cwd, tuple(launch()))


def torchrun(command: list, cwd) -> subprocess.CompletedProcess:
    """Run one of fairseq's commands in two processes."""
    return subprocess.run(
        torchrun_command(command),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def children(pid: int) -> list[int]:
    """Processes that a process has started, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_one_at_update(command: list, update: int, log: Path, cwd) -> tuple[int, float]:
    """Run a training in two processes and end one of them by SIGKILL once ``update`` is logged.

    Returns:
        the status of the whole, and the seconds from the kill to its end.
    """
    with log.open("w") as sink:
        launcher = subprocess.Popen(
            torchrun_command(command),
            cwd=cwd,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        end = time.monotonic() + 300
        while f'"num_updates": "{update}"' not in log.read_text():
            assert launcher.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.02)
        workers = children(launcher.pid)
        assert len(workers) == PROCESSES
        os.kill(workers[-1], signal.SIGKILL)
        killed = time.monotonic()
        status = launcher.wait(timeout=300)
    seconds = time.monotonic() - killed
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    return status, seconds
