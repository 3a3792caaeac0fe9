"""Waveforms that numpy.save wrote."""

import os
import tokenize
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import numpy as np

from cress_svcd.data.audio_samples import (
    MAX_CHANNELS,
    full_scale,
    no_waveform,
    samples_by_channels,
)
from cress_svcd.errors import AudioError

# numpy reads a header as a Python literal, of which any part may be anything.
_BROKEN_HEADER = (
    ValueError, EOFError, OSError, SyntaxError, TypeError, OverflowError, LookupError,
    AttributeError, MemoryError, RecursionError, tokenize.TokenError
)  # fmt: skip
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # but for the letters in names of fields
}


@dataclass(frozen=True)
class _Header:
    """What stands before the samples.  A negative length is one that the writer did not know."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype
    at: int


def load_npy(path: str) -> tuple[np.ndarray, int]:
    """A waveform as (samples, channels), of whatever number type it has, mapped into memory.

    Returns it, and the samples that its header announces: more, if the file was cut; fewer, if
    there are more behind them, or another array of the kind.
    """
    size = os.path.getsize(path)
    arrays: list[tuple[np.ndarray, int]] = []
    with open(path, "rb") as file:
        try:
            header = _read_header(file)
        except _BROKEN_HEADER as error:
            reason = str(error).strip().split("\n")[0][:100]
            if file.seek(0) == 0 and file.read(2) == b"PK":
                reason = "it is an archive of arrays"
            raise AudioError(
                f"{path}: is truncated or no .npy file ({reason or 'its header is damaged'}); "
                f"expected a waveform saved by numpy.save"
            ) from None
        _refuse_shape(path, header)
        while (array := _array(file, header, size)) is not None:
            arrays.append(array)
            try:
                header = _read_header(file)
            except _BROKEN_HEADER:
                break
    if not arrays:
        raise AudioError(
            f"{path}: is truncated: of shape {header.shape} only {size - header.at} bytes are "
            f"there; fetch or compute it again"
        )
    waves = [samples_by_channels(wave, path) for wave, _ in arrays]
    same = [wave for wave in waves if _kind(wave) == _kind(waves[0])]
    return same[0] if len(same) == 1 else np.concatenate(same), arrays[0][1]


def _kind(wave: np.ndarray) -> tuple[np.dtype, int]:
    return wave.dtype, wave.shape[1]


def _read_header(file: BinaryIO) -> _Header:
    """The header at the place of the file.  Raises any of _BROKEN_HEADER."""
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
    shape, by_columns, dtype = _READERS[version](file)
    return _Header(tuple(int(length) for length in shape), bool(by_columns), dtype, file.tell())


def _refuse_shape(path: str, header: _Header) -> None:
    """AudioError, if an array can be no waveform whatever its samples are."""
    shape, dtype = header.shape, header.dtype
    if len(shape) not in (1, 2) or dtype.hasobject or dtype.kind not in "fiu" or dtype.shape:
        raise no_waveform(path, dtype, shape)
    if 0 in shape:
        raise AudioError(f"{path}: holds no samples; compute it again")


def _array(file: BinaryIO, header: _Header, size: int) -> tuple[np.ndarray, int] | None:
    """What there is of an array, if all its channels are there, of some samples.

    Returns it, and the samples that its header announces; the file stands behind it.
    """
    shape, start = header.shape, header.at
    if len(shape) not in (1, 2) or header.dtype.hasobject or header.dtype.shape or 0 in shape:
        return None
    frames, channels = (*shape, 1)[:2]
    if header.by_columns and len(shape) == 2:
        channels, frames = shape
    row = header.dtype.itemsize * channels
    if row <= 0:
        return None
    stop = start + frames * row
    if channels > MAX_CHANNELS:
        # Or one channel behind the other, of which all must be there.
        if not start < stop <= size:
            return None
        file.seek(stop)
        order = "F" if header.by_columns else "C"
        return np.memmap(file.name, header.dtype, "r", start, shape, order), max(shape)
    there = (size - start) // row
    if start < stop < size:
        file.seek(stop)
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            there = frames
    if there <= 0:
        return None
    file.seek(start + there * row)
    wave = np.memmap(file.name, header.dtype, "r", start, (there, channels))
    return wave, frames if frames > 0 else there


def npy_scale(path: str) -> float:
    """The full scale of a file's samples: that of all, not of a segment."""
    status = os.stat(path)
    return _scale(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 14)
def _scale(path: str, size: int, modified: int) -> float:
    return full_scale(load_npy(path)[0], path)
