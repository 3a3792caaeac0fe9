"""Waveforms that numpy.save wrote."""

import os
import tokenize
from functools import lru_cache

import numpy as np

from cress_svcd.data.audio_mixing import MAX_CHANNELS, full_scale, samples_by_channels
from cress_svcd.errors import AudioError

_BROKEN_HEADER = (
    ValueError, EOFError, OSError, SyntaxError, TypeError, OverflowError, tokenize.TokenError
)  # fmt: skip


def load_npy(path: str) -> tuple[np.ndarray, int]:
    """Map a waveform into memory as (samples, channels), of whatever number type it has.

    Returns it, and the samples that its header announces: more, if the file was cut.
    """
    try:
        wave = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(wave, np.ndarray):
            raise ValueError("it is an archive of arrays")
    except _BROKEN_HEADER as error:
        cut = _load_cut(path)
        if cut is None:
            raise AudioError(
                f"{path}: is truncated or no .npy file ({error}); expected a waveform saved by "
                f"numpy.save"
            ) from None
        return cut
    wave = samples_by_channels(wave, path)
    return wave, len(wave)


def _load_cut(path: str) -> tuple[np.ndarray, int] | None:
    """A waveform of which the end is missing, if all channels of what is left are there."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, by_columns, dtype = read(file)
            start = file.tell()
    except (*_BROKEN_HEADER, KeyError):
        return None
    if len(shape) not in (1, 2) or dtype.hasobject or not dtype.itemsize or 0 in shape:
        return None
    frames, channels = (*shape, 1)[:2]
    if by_columns and len(shape) == 2:
        channels, frames = shape
    if channels > MAX_CHANNELS:
        return None
    whole = (os.path.getsize(path) - start) // (dtype.itemsize * channels)
    if not 0 < whole < frames:
        return None
    wave = np.memmap(path, dtype, "r", start, (whole, channels))
    return samples_by_channels(wave, path), frames


def npy_scale(path: str) -> float:
    """The full scale of a file's samples: that of all, not of a segment."""
    status = os.stat(path)
    return _scale(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 14)
def _scale(path: str, size: int, modified: int) -> float:
    return full_scale(load_npy(path)[0], path)
