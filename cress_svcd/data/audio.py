"""Reading speech: one segment of a file at a time, mono, float32, at the model's rate.

A segment is written ``path[:offset:frames]``, offset and frames in samples at the file's own rate.
Everything libsndfile reads will do (wav, flac, ogg with Vorbis or Opus, ...), and ``.npy`` files
that hold a waveform.  Only numpy, soundfile and soxr are needed.
"""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from cress_svcd.data.audio_damage import say_gaps, shorten
from cress_svcd.data.audio_decoding import (
    Recording,
    UndecodableError,
    decode_mono,
    file_key,
    length_remark,
    noise_in_file,
    open_recording,
    refuse_unless_file,
    warn_once,
)
from cress_svcd.data.audio_mixing import mix, mix_block, mixing_blocks
from cress_svcd.data.audio_npy import load_npy, npy_scale
from cress_svcd.data.audio_samples import full_scale, mend, samples_by_channels, to_float
from cress_svcd.data.corpus.names import existing
from cress_svcd.errors import AudioError

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
"""Samples a second of the model's input; ``.npy`` files are taken to have it already."""

SILENCE_PEAK = 1e-4
"""Largest deviation from the mean (full scale is 1) that counts as silence: 3 steps of 16 bit."""

SUFFIXES = frozenset(
    [
        ".aif",
        ".aiff",
        ".au",
        ".caf",
        ".flac",
        ".mp3",
        ".npy",
        ".oga",
        ".ogg",
        ".opus",
        ".rf64",
        ".w64",
        ".wav",
    ]
)
"""What recordings are looked for by, in a folder."""

_SPEC = re.compile(r"(?s)(.+):(-?\d+):(-?\d+)")
_NPY_SUFFIX = ".npy"
_BROKEN = (
    "has samples that are NaN, infinite or far beyond all others, such as at {at:.2f} s; they are "
    "taken for silence"
)
_LAYER_NORM_EPSILON = 1e-5


def spelt_as_there(path: str) -> str:
    """The path, or the one that is there with letters composed otherwise, as copying leaves it."""
    return path if path.isascii() or os.path.lexists(path) else os.fspath(existing(path))


class NotFiniteError(AudioError):
    """More samples than not are NaN, infinite or far beyond all others."""


@dataclass(frozen=True)
class AudioSpec:
    """A segment: ``frames`` samples of a file from ``offset`` on; ``frames=-1``: up to the end."""

    path: str
    offset: int = 0
    frames: int = -1

    def __str__(self) -> str:
        if self.offset == 0 and self.frames == -1:
            return self.path
        return f"{self.path}:{self.offset}:{self.frames}"


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says; ``frames`` counts samples of one channel."""

    sample_rate: int
    frames: int
    channels: int


def parse_audio_spec(text: str) -> AudioSpec:
    """Parse ``path[:offset:frames]``.

    The last two fields are split off only if both are numbers, so a path may contain colons.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        if not text:
            raise AudioError("empty audio field; expected path[:offset:frames]")
        return AudioSpec(text)
    path, offset, frames = match[1], int(match[2]), int(match[3])
    if offset < 0 or (frames <= 0 and frames != -1):
        raise AudioError(
            f"{text}: offset {offset} and length {frames}; expected an offset of 0 or more and a "
            f"length of 1 or more (or -1, up to the end), in samples at the file's rate"
        )
    return AudioSpec(path, offset, frames)


def resampled_length(frames: int, rate: int, target: int = SAMPLE_RATE) -> int:
    """Length at ``target`` Hz of ``frames`` samples at ``rate`` Hz, rounded half up, at least 1."""
    return max(1, (2 * frames * target + rate) // (2 * rate))


def audio_info(path: str | os.PathLike) -> AudioInfo:
    """Rate, length and channels of a file: the length that :func:`read_audio` delivers.

    It is that of the header, where this agrees with the structure of the file; otherwise frames
    are counted, and a warning has both lengths.  Damage within the sound shows when it is read.
    Raises AudioError for a file that is missing, empty, not audio, or of which nothing decodes.
    """
    path = spelt_as_there(os.fspath(path))
    if _is_npy(path):
        return AudioInfo(SAMPLE_RATE, *_open_npy(path).shape)
    recording = open_recording(path)
    return AudioInfo(recording.rate, recording.frames, recording.channels)


def read_audio(
    spec: str | AudioSpec, root: str | os.PathLike = "", sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """Read a segment as float32 of shape (samples,), channels mixed, at ``sample_rate`` Hz.

    ``root`` is put before relative paths.  Only the segment is decoded, never the whole file.  The
    result has exactly :func:`resampled_length` samples.  Channels are averaged, but for those that
    would cancel others: see :mod:`cress_svcd.data.audio_mixing`.

    A whole file is read as far as it can be decoded; a warning has what is lost.  Single samples
    that are NaN, infinite or far beyond all others are taken for silence; a warning has the first.
    Raises AudioError for a file that is missing, empty, not audio, or of which nothing decodes, for
    a segment that does not lie within what decodes, and (NotFiniteError) if more samples are broken
    than not.
    """
    if isinstance(spec, str):
        spec = parse_audio_spec(spec)
    path = spelt_as_there(os.path.join(root, spec.path))
    rate, chunks = _segment(path, spec)
    broken, have, waves = 0, 0, []
    for mono, flaws in chunks:
        broken += _say_broken(path, flaws, spec.offset + have, rate)
        have += len(mono)
        waves.append(mono)
    mono = waves[0] if len(waves) == 1 else np.concatenate(waves)
    _refuse_broken(broken, len(mono), _shown(path, spec))
    return resample(mono, rate, sample_rate)


def read_blocks(path: str | os.PathLike, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """A whole file from its beginning, ``seconds`` at a time, whatever its length.

    Yields float32 of shape (samples,), channels mixed, at the file's own rate: what
    :func:`read_audio` gives for the whole.  Raises AudioError as that does, but NotFiniteError only
    if no sample is sound, at the end.
    """
    path = spelt_as_there(os.fspath(path))
    rate, chunks = _segment(path, AudioSpec(path))
    block = max(1, round(seconds * rate))
    have, total, broken, waves = 0, 0, 0, []
    for mono, flaws in chunks:
        broken += _say_broken(path, flaws, total, rate)
        total += len(mono)
        while len(mono):
            waves.append(mono[: block - have])
            have += len(waves[-1])
            mono = mono[len(waves[-1]) :]
            if have == block:
                yield waves[0] if len(waves) == 1 else np.concatenate(waves)
                have, waves = 0, []
    if broken == total:
        _refuse_broken(broken, total, path)
    if have:
        yield waves[0] if len(waves) == 1 else np.concatenate(waves)


def mono_waveform(
    samples: np.ndarray, rate: int = SAMPLE_RATE, sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """What :func:`read_audio` would give for ``samples`` of ``rate`` Hz that are in memory.

    ``samples``: shape (samples,), (samples, channels) or (channels, samples); float with a full
    scale of 1, signed integers, or uint8 around 128.  Wide integers, and floats beyond 256, have a
    full scale of 16, 24 or 32 bits, by their peak.  Raises AudioError for anything else.
    """
    rate = whole_rate(rate)
    wave = samples_by_channels(np.asarray(samples), "waveform")
    wave = to_float(wave, full_scale(wave, "waveform"))
    mono, flaws = mix(wave, rate)
    if broken := np.count_nonzero(flaws):
        _refuse_broken(broken, len(wave), "waveform")
        logger.warning("waveform: %s", _BROKEN.format(at=int(flaws.argmax()) / rate))
    return resample(mono, rate, sample_rate)


def whole_rate(rate: float) -> int:
    """A sampling rate that somebody gave; AudioError unless it is a whole positive number."""
    try:
        if int(rate) == rate and rate > 0:
            return int(rate)
    except (TypeError, ValueError, OverflowError):  # text, None, NaN, infinite
        pass
    raise AudioError(f"sampling rate {rate!r}: expected a positive number of samples a second")


def standardize(wave: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over a whole waveform; silence stays (near) zero.

    This is what HuBERT models trained with ``normalize=True`` expect: a layer norm over time.
    """
    centred = wave - wave.mean(dtype=np.float64)
    scale = np.sqrt(np.mean(np.square(centred)) + _LAYER_NORM_EPSILON)
    return (centred / scale).astype(np.float32)


def is_silent(wave: np.ndarray) -> bool:
    """Whether nothing is to be heard in ``wave``, a constant offset aside."""
    return len(wave) == 0 or float(np.abs(wave - wave.mean()).max()) < SILENCE_PEAK


def _refuse_broken(broken: int, samples: int, where: str) -> None:
    """NotFiniteError if more samples are broken than not."""
    if 2 * broken > samples:
        raise NotFiniteError(
            f"{where}: {broken} of {samples} samples are NaN, infinite or far beyond all others; "
            f"convert the file again, or drop the segment"
        )


def _say_broken(path: str, flaws: np.ndarray, start: int, rate: int) -> int:
    """The number of broken samples in a chunk; once for each file it is said that there are some.

    ``start``: samples before the chunk.
    """
    broken = int(np.count_nonzero(flaws))
    if broken:
        at = (start + int(flaws.argmax())) / rate
        warn_once(file_key(path), f"{path}: {_BROKEN.format(at=at)}", "broken samples")
    return broken


def _shown(path: str, spec: AudioSpec) -> str:
    return str(AudioSpec(path, spec.offset, spec.frames))


_Chunks = Iterator[tuple[np.ndarray, np.ndarray]]
"""(channels mixed, whether any channel of a sample was broken), one behind the other."""


def _segment(path: str, spec: AudioSpec) -> tuple[int, _Chunks]:
    """Rate and samples of a segment."""
    if _is_npy(path):
        wave = _open_npy(path)
        _refuse_past_end(path, spec, len(wave), SAMPLE_RATE)
        stop = len(wave) if spec.frames == -1 else spec.offset + spec.frames
        return SAMPLE_RATE, _npy_chunks(path, wave, spec.offset, stop)
    recording = open_recording(path, remark=spec.frames == -1)
    _refuse_past_end(path, spec, recording.frames, recording.rate, recording.remark)
    if spec.frames == -1:
        return recording.rate, _chunks_to_the_end(recording, spec.offset)
    return recording.rate, _chunks(recording, spec)


def _chunks(recording: Recording, spec: AudioSpec) -> _Chunks:
    """A segment, all of it or an error."""
    stop = spec.offset + spec.frames
    for section in recording.sections:
        start = max(0, spec.offset - section.offset)
        end = min(section.frames, stop - section.offset)
        if start >= end:
            continue
        try:
            yield from decode_mono(recording, section, start, end)
        except UndecodableError as error:
            raise AudioError(
                f"{_shown(recording.path, spec)}: is truncated or damaged ({error}); fetch or "
                f"convert it again"
            ) from None


def _chunks_to_the_end(recording: Recording, position: int) -> _Chunks:
    """All from ``position`` on that can be decoded."""
    while position < recording.frames:
        section = next(s for s in recording.sections if position < s.offset + s.frames)
        start = position - section.offset
        try:
            for mono, flaws in decode_mono(recording, section, start, section.frames):
                yield mono, flaws
                position += len(mono)
        except UndecodableError as error:
            recording = shorten(recording, section, error)
    say_gaps(recording)


def _npy_chunks(path: str, wave: np.ndarray, start: int, stop: int) -> _Chunks:
    scale = npy_scale(path)

    def look(begin: int, end: int) -> np.ndarray:
        return mend(to_float(wave[begin:end], scale))[0]

    noise = noise_in_file(path, len(wave), wave.shape[1], SAMPLE_RATE, look)
    for begin, end in mixing_blocks(len(wave), SAMPLE_RATE, start, stop):
        block, flaws = mend(to_float(wave[begin:end], scale))
        inside = slice(max(0, start - begin), stop - begin)
        yield mix_block(block, noise)[inside], flaws[inside]


def _refuse_past_end(path: str, spec: AudioSpec, frames: int, rate: int, remark: str = "") -> None:
    end = spec.offset + max(spec.frames, 1)
    if end > frames:
        why = remark.removeprefix(f"{path}: ") and f" (it {remark.removeprefix(f'{path}: ')})"
        raise AudioError(
            f"{_shown(path, spec)}: the segment ends at sample {end}, the file at {frames} "
            f"({frames / rate:.2f} s at {rate} Hz){why}; offset and length are in samples at the "
            f"file's own rate"
        )


def _is_npy(path: str) -> bool:
    return Path(path).suffix.lower() == _NPY_SUFFIX


def _open_npy(path: str) -> np.ndarray:
    """A waveform file as (samples, channels), of whatever number type it has."""
    refuse_unless_file(path)
    wave, announced = load_npy(path)
    if remark := length_remark(len(wave) / SAMPLE_RATE, announced / SAMPLE_RATE):
        warn_once(file_key(path), f"{path}: {remark}")
    return wave


def resample(wave: np.ndarray, rate: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """float32 samples at ``target`` Hz, :func:`resampled_length` of them."""
    if rate == target:
        return np.ascontiguousarray(wave)
    length = resampled_length(len(wave), rate, target)
    result = soxr.resample(wave, rate, target).astype(np.float32, copy=False)
    if len(result) < length:
        # soxr rounds halves to even, we round them up: the manifest's n_frames must hold.
        result = np.pad(result, (0, length - len(result)))
    return np.ascontiguousarray(result[:length])
