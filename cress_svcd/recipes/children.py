"""Processes that end with the one that started them, and hold its locks until they do."""

import contextlib
import errno
import fcntl
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cress_svcd.errors import CressError, OutputError
from cress_svcd.recipes import supervisor

logger = logging.getLogger(__name__)

# Files that are locked for a child: number in it, device and inode of each.
LOCKS_VARIABLE = "CRESS_SVCD_LOCKS"


class FolderInUseError(CressError):
    """Another process is at work in a folder."""


@contextlib.contextmanager
def alone_in(folder: Path, lock: Path, work: str) -> Iterator[tuple[int, ...]]:
    """Keep others that ask for ``lock`` out of ``folder`` while the block runs.

    Yields what to give to :class:`Child` as ``locks``.  The system releases the lock when the last
    process that has it ends.

    Args:
        work: what is done there, for the message.
    Raises:
        FolderInUseError: somebody is at work there.
        OutputError: the folder cannot be written to.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written ({error.filename}: {error.strerror}); name a folder that "
            "can be written to"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"{folder}: another {work} is at work there, or a command that one left behind; "
                "wait for it, or stop it"
            ) from None
        except OSError as error:
            logger.warning("%s: cannot be locked (%s): start no second one", lock, error.strerror)
        yield (file.fileno(),)


class Child(subprocess.Popen):
    """A command that ends when this process does, with all that it has started.

    However this process ends: a supervisor of its own (``supervisor.py``) sees to it.  Both hold
    this process's locks until then.

    Args:
        command: program and arguments; no shell sees them.
        locks: what :func:`alone_in` has yielded.
        environment: all of it.
        options: of ``subprocess.Popen``.
    Raises:
        OSError: there is no such program.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        locks: Sequence[int] = (),
        **options: Any,
    ):
        self._lifeline = -1
        if shutil.which(command[0], path=environment.get("PATH")) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
        held = sorted({*locks, *_inherited_locks()})
        reading, self._lifeline = os.pipe()
        try:
            super().__init__(
                [sys.executable, "-I", "-S", supervisor.__file__, str(reading), *command],
                env={**environment, LOCKS_VARIABLE: " ".join(map(_identity, held))},
                pass_fds=(reading, *held),
                # Ctrl-C reaches this process, which stops the child in order.
                process_group=0,
                **options,
            )
        except BaseException:
            self._let_go()
            raise
        finally:
            os.close(reading)

    def _let_go(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def stop(self) -> None:
        """End it if it still runs: politely, then for sure."""
        self._let_go()
        try:
            self.wait(timeout=3 * supervisor.GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()


def _identity(number: int) -> str:
    found = os.fstat(number)
    return f"{number}:{found.st_dev}:{found.st_ino}"


def _inherited_locks() -> list[int]:
    """Those of the processes above this one.

    A program between may have closed one: its number stands for another file then, or for none.
    """
    found = []
    for identity in os.environ.get(LOCKS_VARIABLE, "").split():
        with contextlib.suppress(OSError, OverflowError, ValueError):
            number = int(identity.partition(":")[0])
            if _identity(number) == identity:
                found.append(number)
    return found


@contextlib.contextmanager
def ending_in_order(signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> Iterator[None]:
    """Let ``signals`` end the block as an exception does, so that children are stopped and
    temporary files removed."""
    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in signals if is_main and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def serve_parent() -> None:
    """In a worker of a pool: end with the process that uses it, and leave Ctrl-C to that one.

    A parent that is killed cannot end its pool; idle workers would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
