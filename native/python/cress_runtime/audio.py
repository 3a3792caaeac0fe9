"""Recordings: files of any format that libsndfile reads, and samples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Union

import numpy as np
import soundfile

from cress_runtime.engine import mix
from cress_runtime.errors import AudioError

Audio = Union[str, "os.PathLike[str]", BinaryIO, np.ndarray]
"""A file, or samples (frames,) or (frames, channels): floats of full scale 1, or
16-bit integers."""

SAMPLE_RATE = 16000
BLOCK_SECONDS = 10
MOST_CHANNELS = 64  # of the engine


def read(audio: Audio, sampling_rate: int | None) -> tuple[int, Iterator[np.ndarray]]:
    """Samples a second of a recording, and its samples, mixed to one channel, block after block.

    Raises:
        AudioError: it cannot be used.
    """
    if isinstance(audio, np.ndarray):
        rate = SAMPLE_RATE if sampling_rate is None else _whole(sampling_rate)
        return rate, iter([_mono(_as_floats(audio), rate)])
    if sampling_rate is not None:
        raise AudioError("a file tells its own sampling rate: give none")
    name = getattr(audio, "name", "the recording") if hasattr(audio, "read") else _existing(audio)
    try:
        file = soundfile.SoundFile(audio)
    except (OSError, RuntimeError, TypeError) as error:
        raise AudioError(f"{name}: cannot be read as sound: {error}") from error
    return file.samplerate, _blocks(file, str(name))


def _whole(rate: Any) -> int:
    is_number = isinstance(rate, (int, float, np.integer, np.floating))
    if not is_number or not 0 < rate < 1 << 31 or rate != rate // 1:
        raise AudioError(
            f"sampling_rate: found {rate!r}, expected a whole number of samples a second"
        )
    return int(rate)


def _existing(audio: object) -> str:
    """The path of a file that is there; a pipe is one, too."""
    if not isinstance(audio, (str, os.PathLike)):
        kind = type(audio).__name__
        raise AudioError(
            f"a {kind} is no recording; expected a path, an open file or a numpy array"
        )
    name = os.fspath(audio)
    if not os.path.exists(name):
        raise AudioError(f"{name}: cannot be read: there is no such file")
    if os.path.isdir(name):
        raise AudioError(f"{name}: cannot be read: it is a folder")
    return name


def _blocks(file: soundfile.SoundFile, name: str) -> Iterator[np.ndarray]:
    with file:
        try:
            # Channels are compared over the whole recording, and only floats can be NaN.
            if file.channels > 1 or file.subtype in ("FLOAT", "DOUBLE"):
                yield mix(file.read(dtype="float32", always_2d=True), file.samplerate)
                return
            size, heard = BLOCK_SECONDS * file.samplerate, 0
            while len(block := file.read(size, dtype="float32")):
                heard += len(block)
                yield block
            if not heard:
                raise AudioError("holds no samples")
        except (soundfile.SoundFileError, AudioError) as error:
            reason = str(error).removeprefix("the recording: ")
            raise AudioError(f"{name}: {reason}") from error


def _as_floats(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.int16:
        return samples / np.float32(32768)
    if samples.dtype.kind != "f":
        raise AudioError(f"samples are {samples.dtype}; expected floats or 16-bit integers")
    return samples


def _mono(samples: np.ndarray, rate: int) -> np.ndarray:
    if samples.ndim not in (1, 2):
        raise AudioError(f"samples have the shape {samples.shape}; expected one or two dimensions")
    if samples.ndim == 2 and samples.shape[1] > MOST_CHANNELS:
        raise AudioError(
            f"samples have the shape {samples.shape}; expected (frames, channels), of at most "
            f"{MOST_CHANNELS} channels"
        )
    if not len(samples):
        raise AudioError("the recording: holds no samples")
    return mix(samples.reshape(len(samples), -1), rate)
