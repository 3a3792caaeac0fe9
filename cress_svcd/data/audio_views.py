"""Parts of a file, one behind the other, as libsndfile shall see them."""

import io
import mmap
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import soundfile

from cress_svcd.data.audio_complaints import complaints

Part = bytes | tuple[int, int]
"""Bytes that stand for themselves, or [start, stop) of the file."""


class FileView(io.RawIOBase):
    """A file for reading that consists of ``parts`` of another."""

    def __init__(self, path: str, parts: Sequence[Part]) -> None:
        super().__init__()
        self._parts = [
            part for part in parts if (len(part) if isinstance(part, bytes) else part[1] > part[0])
        ]
        lengths = (len(p) if isinstance(p, bytes) else p[1] - p[0] for p in self._parts)
        self._starts = list(accumulate(lengths, initial=0))
        self._position = 0
        self._descriptor = os.open(path, os.O_RDONLY)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}
        self._position = max(0, base[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer across parts: libsndfile takes fewer bytes for the end."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target):
            chunk = self._read_within_part(len(target) - done)
            if not chunk:
                break
            target[done : done + len(chunk)] = chunk
            done += len(chunk)
            self._position += len(chunk)
        return done

    def _read_within_part(self, most: int) -> bytes:
        index = bisect_right(self._starts, self._position) - 1
        if index >= len(self._parts):
            return b""
        part, skip = self._parts[index], self._position - self._starts[index]
        if isinstance(part, bytes):
            return part[skip : skip + most]
        start, stop = part
        return os.pread(self._descriptor, min(most, stop - start - skip), start + skip)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class Sound(soundfile.SoundFile):
    """A file, or parts of one, that libsndfile decodes from where it stands, without seeking.

    soundfile seeks after every read, to where the decoder stands already.  That costs samples: a
    second seek in a Vorbis handle may give wrong ones (libsndfile 1.2.2: 3 % of random ones), and
    one behind the last sample of a FLAC stream is an error.

    Attributes:
        complaints: damaged packets in what was read, so far as they are known.
    """

    _view: FileView | None = None  # soundfile closes also what could not be opened

    def __init__(self, path: str, parts: Sequence[Part] | None = None) -> None:
        self._view = None if parts is None else FileView(path, parts)
        self.complaints = 0
        try:
            with complaints():
                # As bytes: any name will do, whatever its encoding.
                super().__init__(os.fsencode(path) if self._view is None else self._view)
        except BaseException:
            self._close_view()
            raise

    def seekable(self) -> bool:
        return False

    def read(self, *arguments: Any, **options: Any) -> np.ndarray:
        with complaints() as heard:
            wave = super().read(*arguments, **options)
        self.complaints += len(heard)
        return wave

    def seek(self, *arguments: Any, **options: Any) -> int:
        with complaints():
            return super().seek(*arguments, **options)

    def close(self) -> None:
        super().close()
        self._close_view()

    def _close_view(self) -> None:
        if self._view is not None:
            self._view.close()


class Source:
    """The bytes of a file that is not empty, read at any place and found by what they are."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115  closed by __exit__
        self.size = os.fstat(self._file.fileno()).st_size
        self._data: mmap.mmap | None = None

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._data is not None:
            self._data.close()
        self._file.close()

    def at(self, position: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), max(0, length), position) if position >= 0 else b""

    @property
    def data(self) -> mmap.mmap:
        """The whole file, mapped into memory."""
        if self._data is None:
            self._data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._data
