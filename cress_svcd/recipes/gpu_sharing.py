"""NVIDIA's multi-process service: programs on one GPU run at the same time, not in turns.

A training of a small model leaves most of a GPU idle at any moment; the kernels of another fill it
only where the service puts both into one context.  That context is one for all: where a program
breaks it, all end.  The programs of a recipe's stage stand and fall together anyway.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cress_svcd.recipes.children import Child

PROGRAM = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
CARDS = "CUDA_VISIBLE_DEVICES"
# Where a service listens whose pipes nobody has named.
USUAL_PIPES = Path("/tmp/nvidia-mps")
START_SECONDS = 20
PROBE_SECONDS = 120
PROBE = "import torch; torch.zeros(1, device='cuda').add_(1).item()"


class ServiceError(Exception):
    """The service cannot be used; the message says why."""


def variables(cards: Sequence[str], service: Mapping[str, str]) -> list[dict[str, str]]:
    """What tells a program to use one of ``cards``, for each of them.

    Args:
        service: what :func:`started` has yielded, where the cards are numbered anew; or nothing.
    """
    if service:
        return [{**service, CARDS: str(number)} for number in range(len(cards))]
    return [{CARDS: card} for card in cards]


def is_at_hand(environment: Mapping[str, str], cards: Sequence[str]) -> bool:
    """Whether :func:`started` has something to start: not where a service is in use already, and
    not for parts of a card (MIG), each of which would take a service of its own."""
    used = PIPES in environment or (USUAL_PIPES / "control").exists()
    divided = any(card.startswith("MIG") for card in cards)
    found = shutil.which(PROGRAM, path=environment.get("PATH"))
    return bool(cards) and found is not None and not used and not divided


@contextlib.contextmanager
def started(environment: Mapping[str, str], cards: Sequence[str]) -> Iterator[dict[str, str]]:
    """A service of our own for ``cards`` while the block runs; it ends with this process.

    Yields the variables of programs that are to use it.  Such a program names the cards by their
    places in ``cards``, in CUDA_VISIBLE_DEVICES.

    Raises:
        ServiceError: it does not start, or a program cannot use a GPU through it.
    """
    # In the folder for temporary files: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="mps") as folder:
        service = {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        own = {**environment, **service, CARDS: ",".join(cards)}
        with open(Path(folder) / "printed", "wb") as printed:
            try:
                # In the foreground: so it is this process's child, and ends with it.
                control = Child(
                    [PROGRAM, "-f"],
                    own,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                raise ServiceError(f"{PROGRAM}: {error.strerror}") from None
            try:
                _wait_for(control, Path(folder))
                _probe({**environment, **service, CARDS: "0"}, Path(folder))
                yield service
            finally:
                if control.poll() is None:
                    _say("quit -t 10", own)
                control.stop()


def _wait_for(control: Child, folder: Path) -> None:
    """Until it listens: a program that starts before would run without it."""
    deadline = time.monotonic() + START_SECONDS
    while not (folder / "control").exists():
        if control.poll() is not None:
            said = (folder / "printed").read_text(encoding="utf-8", errors="replace").strip()
            raise ServiceError(said or f"{PROGRAM} ended with status {control.returncode}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{PROGRAM} does not listen after {START_SECONDS} s")
        time.sleep(0.05)


def _probe(environment: Mapping[str, str], folder: Path) -> None:
    """Use a GPU through it once: where it cannot serve, every program would end."""
    try:
        subprocess.run(
            [sys.executable, "-c", PROBE],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(f"no use of a GPU through it within {PROBE_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
        raise ServiceError(f"a GPU cannot be used through it: {last}") from None
    if not _say("get_server_list", environment).strip():
        raise ServiceError("programs do not use it")


def _say(command: str, environment: Mapping[str, str]) -> str:
    """One command to the service; returns its answer, empty where there is none."""
    try:
        return subprocess.run(
            [PROGRAM], env=environment, input=f"{command}\n", capture_output=True, text=True,
            timeout=START_SECONDS, check=False,
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
