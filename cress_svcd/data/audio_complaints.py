"""What decoders print on C's standard output and standard error: heard, not shown.

libmpg123, of which libsndfile does not let anybody turn that off, prints lines about damaged frames
on standard error; libsndfile prints some about packets of SDS on standard output, between our
translations.  While one of their functions runs, C's variables ``stdout`` and ``stderr`` are other
streams.  Python's own streams, the file descriptors and what other processes inherit stay as they
are, so that nothing of ours can be lost; what another library prints meanwhile is passed on.
"""

import ctypes
import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OF_DECODERS = re.compile(
    rb"\[src/libmpg123/|mpg123: |Warning: Xing "
    rb"|(?:Note|Warning): .*(?:MPEG|sync|input|stream|frame)"
    rb"|Error [1A] : [0-9A-F]+$|bad end : [0-9A-F]+$|alac_\w+ \d+ : |\s*$"
)
_OF_DAMAGE = re.compile(
    rb".*\berror: (?!Giving up searching)|Error [1A] : |bad end : |alac_\w+ \d+ : "
)
_UNBUFFERED = 2
_MOST_BYTES = 1 << 20


class _Ear:
    """The stream in the place of another.  It is never closed: somebody may be writing to it."""

    def __init__(self, name: str, number: int) -> None:
        libc = ctypes.CDLL(None)
        self._number = number
        self._variable = ctypes.c_void_p.in_dll(libc, name)
        self._descriptor = os.memfd_create("complaints")
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        libc.fdopen.restype = ctypes.c_void_p
        libc.fdopen.argtypes = ctypes.c_int, ctypes.c_char_p
        self._stream = libc.fdopen(self._descriptor, b"a")
        libc.setvbuf.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
        libc.setvbuf(self._stream, None, _UNBUFFERED, 0)
        self._true: int | None = None
        self._file = self._file_now()

    def _file_now(self) -> tuple[int, int] | None:
        """Device and inode behind the descriptor."""
        try:
            status = os.fstat(self._descriptor)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @property
    def is_whole(self) -> bool:
        """Whether the descriptor is still of the file that it was made for.

        Once, on a machine with a GPU, something in the process had closed it between two trainings,
        and the number was another file's.
        """
        return self._file_now() == self._file

    def open(self) -> None:
        self._true = self._variable.value
        self._variable.value = self._stream

    def close(self) -> list[bytes]:
        """Lines of decoders; what others printed is passed on."""
        self._variable.value = self._true
        if not self.is_whole:
            return []
        text = os.pread(self._descriptor, _MOST_BYTES, 0)
        if not text:
            return []
        os.ftruncate(self._descriptor, 0)
        lines = text.splitlines(keepends=True)
        heard = [line for line in lines if _OF_DECODERS.match(line)]
        if others := b"".join(line for line in lines if not _OF_DECODERS.match(line)):
            with suppress(
                OSError
            ):  # of a reader that has gone: a print of C's would not fail either
                os.write(self._number, others)
        return heard

    def forget(self) -> None:
        """In a child of a process in which it was open."""
        if self._variable.value == self._stream:
            self._variable.value = self._true


class _State:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.alone = True
        self.ears: list[_Ear] | None = None


_state = _State()


def _in_child() -> None:
    # The other process goes on to use the old one's memory.
    global _state
    for ear in _state.ears or ():
        ear.forget()
    _state = _State()


os.register_at_fork(after_in_child=_in_child)


@contextmanager
def complaints() -> Iterator[list[bytes]]:
    """Lines that decoders print meanwhile about damage; none if others decode at the same time.

    The list is filled at the end.  Nothing happens on systems without what this needs.
    """
    heard: list[bytes] = []
    state = _state
    with state.lock:
        if state.users == 0 and not all(ear.is_whole for ear in state.ears or ()):
            state.ears = None
        if state.ears is None:
            try:
                state.ears = [_Ear("stdout", 1), _Ear("stderr", 2)]
            except (OSError, ValueError, AttributeError):
                state.ears = []
        state.users += 1
        if state.users == 1:
            state.alone = True
            for ear in state.ears:
                ear.open()
        else:
            state.alone = False
    try:
        yield heard
    finally:
        with state.lock:
            state.users -= 1
            ears = state.ears or () if state.users == 0 else ()
            lines = [line for ear in ears for line in ear.close()]
            if state.alone:
                heard += [line for line in lines if _OF_DAMAGE.match(line)]
