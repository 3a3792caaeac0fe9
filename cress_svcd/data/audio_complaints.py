"""What decoders print on C's standard error: heard, not shown.

libmpg123, of which libsndfile does not let anybody turn that off, prints a line for each damaged
frame.  While one of its functions runs, C's variable ``stderr`` is another stream.  Python's own
standard error, file descriptor 2 and what other processes inherit stay as they are, so that nothing
of ours can be lost; what another library prints meanwhile is passed on.
"""

import ctypes
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_OURS = b"mpg123"
_UNBUFFERED = 2
_MOST_BYTES = 1 << 20


class _Ear:
    """The stream in the place of ``stderr``.  It is never closed: somebody may be writing to it."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._variable = ctypes.c_void_p.in_dll(libc, "stderr")
        self._descriptor = os.memfd_create("complaints")
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        libc.fdopen.restype = ctypes.c_void_p
        libc.fdopen.argtypes = ctypes.c_int, ctypes.c_char_p
        self._stream = libc.fdopen(self._descriptor, b"a")
        libc.setvbuf.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
        libc.setvbuf(self._stream, None, _UNBUFFERED, 0)
        self._true: int | None = None

    def open(self) -> None:
        self._true = self._variable.value
        self._variable.value = self._stream

    def close(self) -> list[bytes]:
        self._variable.value = self._true
        text = os.pread(self._descriptor, _MOST_BYTES, 0)
        if text:
            os.ftruncate(self._descriptor, 0)
        return text.splitlines(keepends=True)

    def forget(self) -> None:
        """In a child of a process in which it was open."""
        if self._variable.value == self._stream:
            self._variable.value = self._true


class _State:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.alone = True
        self.ear: _Ear | None = None
        self.deaf = False


_state = _State()


def _in_child() -> None:
    # The other process goes on to use the old one's memory.
    global _state
    if _state.ear is not None:
        _state.ear.forget()
    _state = _State()


os.register_at_fork(after_in_child=_in_child)


@contextmanager
def complaints() -> Iterator[list[bytes]]:
    """Lines that libmpg123 prints meanwhile; none if others decode at the same time.

    The list is filled at the end.  Nothing happens on systems without what this needs.
    """
    heard: list[bytes] = []
    state = _state
    with state.lock:
        if state.ear is None and not state.deaf:
            try:
                state.ear = _Ear()
            except (OSError, ValueError, AttributeError):
                state.deaf = True
        state.users += 1
        if state.users > 1:
            state.alone = False
        elif state.ear is not None:
            state.alone = True
            state.ear.open()
    try:
        yield heard
    finally:
        with state.lock:
            state.users -= 1
            lines = state.ear.close() if state.users == 0 and state.ear is not None else []
            if state.alone:
                heard += [line for line in lines if _OURS in line]
        if others := b"".join(line for line in lines if _OURS not in line):
            os.write(2, others)
