"""Waveforms that numpy.save wrote."""

import os
import tokenize
from functools import lru_cache
from typing import BinaryIO

import numpy as np

from cress_svcd.data.audio_mixing import MAX_CHANNELS, full_scale, samples_by_channels
from cress_svcd.errors import AudioError

_BROKEN_HEADER = (
    ValueError, EOFError, OSError, SyntaxError, TypeError, OverflowError, tokenize.TokenError
)  # fmt: skip


def load_npy(path: str) -> tuple[np.ndarray, int]:
    """A waveform as (samples, channels), of whatever number type it has, mapped into memory.

    Returns it, and the samples that its header announces: more, if the file was cut; fewer, if
    there are more behind them, or another array of the kind.
    """
    size = os.path.getsize(path)
    try:
        wave = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(wave, np.memmap):
            raise ValueError("it is an archive of arrays")
    except _BROKEN_HEADER as error:
        arrays = _arrays(path, size)
        if not arrays:
            raise AudioError(
                f"{path}: is truncated or no .npy file ({error}); expected a waveform saved by "
                f"numpy.save"
            ) from None
    else:
        whole = samples_by_channels(wave, path)
        if wave.offset + wave.nbytes == size:
            return whole, len(whole)
        arrays = _arrays(path, size) or [(wave, len(whole))]
    waves = [samples_by_channels(wave, path) for wave, _ in arrays]
    same = [wave for wave in waves if (wave.dtype, wave.shape[1]) == _kind(waves[0])]
    return same[0] if len(same) == 1 else np.concatenate(same), arrays[0][1]


def _kind(wave: np.ndarray) -> tuple[np.dtype, int]:
    return wave.dtype, wave.shape[1]


def _arrays(path: str, size: int) -> list[tuple[np.ndarray, int]]:
    """What there is of each array in a file, and the samples that its header announces."""
    arrays: list[tuple[np.ndarray, int]] = []
    with open(path, "rb") as file:
        while (array := _next_array(file, size)) is not None:
            arrays.append(array)
    return arrays


def _next_array(file: BinaryIO, size: int) -> tuple[np.ndarray, int] | None:
    """The array at the place of the file, if all its channels are there, of some samples."""
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, by_columns, dtype = read(file)
    except (*_BROKEN_HEADER, KeyError):
        return None
    start = file.tell()
    if len(shape) not in (1, 2) or dtype.hasobject or not dtype.itemsize or 0 in shape:
        return None
    frames, channels = (*shape, 1)[:2]
    if by_columns and len(shape) == 2:
        channels, frames = shape
    row = dtype.itemsize * channels
    file.seek(start + frames * row)
    if channels > MAX_CHANNELS:
        # Or one channel behind the other, of which all must be there.
        if start + frames * row > size:
            return None
        order = "F" if by_columns else "C"
        return np.memmap(file.name, dtype, "r", start, shape, order), max(shape)
    there = (size - start) // row
    if file.read(6) == np.lib.format.MAGIC_PREFIX:
        there = min(there, frames)
    file.seek(start + there * row)
    if there <= 0:
        return None
    return np.memmap(file.name, dtype, "r", start, (there, channels)), frames


def npy_scale(path: str) -> float:
    """The full scale of a file's samples: that of all, not of a segment."""
    status = os.stat(path)
    return _scale(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 14)
def _scale(path: str, size: int, modified: int) -> float:
    return full_scale(load_npy(path)[0], path)
