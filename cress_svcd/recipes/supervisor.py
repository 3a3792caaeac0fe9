"""Runs one command, and lets nothing of it outlive whoever asked for it.

  python supervisor.py LIFELINE COMMAND [ARGUMENT ...]

LIFELINE is the number of a pipe's reading end.  The writing end is held by the process that asked;
the system closes it when that process ends, also by SIGKILL.  The command is stopped then, as on
SIGTERM.  Stopped means: SIGTERM to the command, which may stop its own children in order; SIGKILL
to all its descendants after GRACE_SECONDS.  What the command leaves behind when it ends is stopped
as well.  The status is that of the command, also if that was a signal.

On Linux the descendants are found whatever their session or process group: orphans among them
become children of this process (prctl, PR_SET_CHILD_SUBREAPER).  Elsewhere they are the process
group, of which this process is the leader.

Started for every command, as a file of its own: it imports little, and nothing of the package.
"""

import contextlib
import os
import resource
import select
import signal
import sys
import time
from types import FrameType

GRACE_SECONDS = 10
# Helpers such as multiprocessing's end by themselves soon after the process that they serve.
LINGER_SECONDS = 2
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CANNOT_START = 127  # as shells say it

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = "/proc"


def tell_kernel(option: int, value: int) -> bool:
    """``prctl(option, value)``; False where there is no such thing."""
    try:
        import ctypes

        return ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        return False


class Supervisor:
    """See the module."""

    def __init__(self, lifeline: int, command: list[str]):
        self.lifeline, self.command = lifeline, command
        self.status: int | None = None
        self.stop_asked = False
        self.wake_reading, self.wake_writing = os.pipe()
        for end in (self.wake_reading, self.wake_writing):
            os.set_blocking(end, False)

    def run(self) -> int:
        """Run the command; returns its wait status."""
        os.set_inheritable(self.lifeline, False)
        adopts = tell_kernel(_PR_SET_CHILD_SUBREAPER, 1) and os.path.isfile(f"{_PROC}/self/stat")
        signal.set_wakeup_fd(self.wake_writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._ask_to_stop)
        child = self._start()
        self._wait(child, adopts)
        self._end_all(adopts)
        assert self.status is not None
        return self.status

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_asked = True

    def _start(self) -> int:
        parent = os.getpid()
        child = os.fork()
        if child:
            return child
        try:
            # Should somebody kill the supervisor.
            tell_kernel(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(CANNOT_START)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                signal.signal(number, signal.SIG_DFL)
            os.execvp(self.command[0], self.command)
        except OSError as error:
            os.write(2, os.fsencode(f"{self.command[0]}: cannot be started ({error.strerror})\n"))
        finally:
            os._exit(CANNOT_START)

    def _wait(self, child: int, adopts: bool) -> None:
        """Until the command ends; it is stopped on its way if that is asked for."""
        deadline = None
        while not self._reap(child):
            if self.stop_asked and deadline is None:
                os.kill(child, signal.SIGTERM)
                deadline = time.monotonic() + GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                signal_all(signal.SIGKILL, adopts)
            watched = [self.wake_reading] if deadline else [self.lifeline, self.wake_reading]
            ready, _, _ = select.select(watched, [], [], 0.5 if deadline else None)
            if self.wake_reading in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake_reading, 512)
            if self.lifeline in ready:
                self.stop_asked = True

    def _reap(self, child: int) -> bool:
        """Take note of processes that ended; whether the command has."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    self.status = ended[1]
        return self.status is not None

    def _end_all(self, adopts: bool) -> None:
        """End what the command has left behind."""
        if not adopts:
            for number in STOPPING:
                signal.signal(number, signal.SIG_IGN)
            os.killpg(os.getpgrp(), signal.SIGTERM)
            return
        linger = 0 if self.stop_asked else LINGER_SECONDS
        for number, seconds in ((0, linger), (signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 60)):
            signal_all(number, adopts)
            end = time.monotonic() + seconds
            while descendants(os.getpid()):
                if time.monotonic() > end:
                    break
                time.sleep(0.02)
                self._reap(0)
            else:
                return


def signal_all(number: int, adopts: bool) -> None:
    """Send a signal to all descendants."""
    if not adopts:
        os.killpg(os.getpgrp(), number)
        return
    for process in descendants(os.getpid()) if number else ():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def descendants(ancestor: int) -> list[int]:
    """Processes below ``ancestor`` that have not ended, from /proc."""
    children: dict[int, list[tuple[int, str]]] = {}
    for name in os.listdir(_PROC):
        if name.isdigit():
            try:
                with open(f"{_PROC}/{name}/stat", "rb") as file:
                    # The name of the program, in brackets, may hold anything.
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            children.setdefault(int(parent), []).append((int(name), state.decode()))
    found, waiting = [], [ancestor]
    while waiting:
        for process, state in children.get(waiting.pop(), []):
            waiting.append(process)
            if state not in "ZX":
                found.append(process)
    return found


def end_as(status: int) -> None:
    """End this process with a wait status, or by the same signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    end_as(Supervisor(int(sys.argv[1]), sys.argv[2:]).run())
