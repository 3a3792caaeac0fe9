"""NVIDIA's multi-process service: programs on one GPU run at the same time, not in turns.

A training of a small model leaves most of a GPU idle at any moment; the kernels of another fill it
only where the service lets both in.  A fatal error of one program on a GPU ends the others there;
the commands of a recipe's stage that run side by side end together anyway.
"""

import contextlib
import os
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
QUIT_SECONDS = 5
# Uses each card; prints in one line what stood in the way, without torch's advice.
PROBE = """
import sys, torch
try:
    for card in range(int(sys.argv[1])):
        torch.zeros(1, device=f"cuda:{card}").add_(1).item()
except Exception as error:
    sys.exit((str(error).strip() or repr(error)).splitlines()[0])
"""


class ServiceError(Exception):
    """The service cannot be used; the message says why."""


def variables_by_card(cards: Sequence[str], service: Mapping[str, str]) -> list[dict[str, str]]:
    """What tells a program to use one of ``cards``, for each of them.

    Args:
        service: what :func:`started` has yielded, where the cards are numbered anew; or nothing.
    """
    if service:
        return [{**service, CARDS: str(number)} for number in range(len(cards))]
    return [{CARDS: card} for card in cards]


def can_be_started(environment: Mapping[str, str], cards: Sequence[str]) -> bool:
    """Whether :func:`started` has something to start: not where a service is at work already, and
    not for parts of a card (MIG), each of which would take a service of its own."""
    if not cards or any(card.startswith("MIG") for card in cards):
        return False
    return shutil.which(PROGRAM, path=environment.get("PATH")) is not None and not _is_at_work(
        environment
    )


def _is_at_work(environment: Mapping[str, str]) -> bool:
    """Whether a service that somebody else has started serves the programs of ``environment``."""
    pipes = Path(environment.get(PIPES) or USUAL_PIPES)
    # Not by Path, which raises an error for a folder that is closed to us.
    return os.path.exists(pipes / "control") and _ask("get_server_list", environment) is not None


@contextlib.contextmanager
def started(environment: Mapping[str, str], cards: Sequence[str]) -> Iterator[dict[str, str]]:
    """A service of our own for ``cards`` while the block runs.

    Yields the variables of programs that are to use it.  Such a program names the cards by their
    places in ``cards``, in CUDA_VISIBLE_DEVICES.  Each card has been used through it by then: where
    it cannot serve, every program would end.  The service ends with this process at the latest;
    where that is killed, a folder of some kB stays among the temporary files.

    Raises:
        ServiceError: it does not start, or a program cannot use the cards through it.
    """
    with contextlib.ExitStack() as stack:
        try:
            # Among the temporary files: the path of a socket has 107 bytes at most.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="cress-svcd-mps-", ignore_cleanup_errors=True)
            )
            service = {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
            own = {**environment, **service, CARDS: ",".join(cards)}
            printed = stack.enter_context(open(Path(folder) / "printed", "wb"))
            # In the foreground: so it is this process's child, and ends with it.
            control = Child(
                [PROGRAM, "-f"],
                own,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
            stack.callback(control.stop)
            _wait_for(control, Path(folder))
            numbers = ",".join(map(str, range(len(cards))))
            _probe({**environment, **service, CARDS: numbers}, len(cards))
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise ServiceError(reason) from None
        yield service
        # Where an error ends the block, the service is stopped without a word.
        _ask(f"quit -t {QUIT_SECONDS}", own, seconds=2 * QUIT_SECONDS)


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


def _probe(environment: Mapping[str, str], cards: int) -> None:
    """Use each of ``cards`` cards through the service once."""
    try:
        probe = [sys.executable, "-c", PROBE, str(cards)]
        status, _, said = _run(probe, environment, PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        raise ServiceError(f"no use of a GPU through it within {PROBE_SECONDS} s") from None
    if status:
        last = (said.strip().splitlines() or [f"status {status}"])[-1]
        raise ServiceError(f"a GPU cannot be used through it: {last}")
    # Without one that it finds, a program uses the GPU all the same, alone.
    if not _ask("get_server_list", environment):
        raise ServiceError("programs do not use it")


def _ask(command: str, environment: Mapping[str, str], seconds: float = 20) -> str | None:
    """The answer of a service to one command; None where there is none within so many seconds."""
    try:
        status, answer, _ = _run([PROGRAM], environment, seconds, f"{command}\n")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if status or "Cannot find" in answer else answer.strip()


def _run(
    command: Sequence[str], environment: Mapping[str, str], seconds: float, told: str = ""
) -> tuple[int, str, str]:
    """Status, output and errors of a program that reads ``told``; nothing of it runs on.

    Raises:
        OSError: it cannot be started, or does not read.
        subprocess.TimeoutExpired: it has not ended within so many seconds.
    """
    program = Child(
        command,
        environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, errors = program.communicate(told, timeout=seconds)
    finally:
        program.stop()
    return program.returncode, output, errors
