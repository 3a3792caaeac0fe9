"""Reading speech: one segment of a file at a time, mono, float32, at the model's rate.

A segment is written ``path[:offset:frames]``, offset and frames in samples at the file's own rate.
Everything libsndfile reads will do (wav, flac, ogg with Vorbis or Opus, ...), and ``.npy`` files
that hold a waveform.  Only numpy, soundfile and soxr are needed.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from cress_svcd.data.audio_containers import (
    ends_with_whole_ogg_page,
    last_ogg_page_start,
    missing_riff_bytes,
)
from cress_svcd.errors import AudioError

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
_MAX_CHANNELS = 8
_LAYER_NORM_EPSILON = 1e-5

# Ogg codecs carry state from packet to packet: after a seek, Opus needs up to two seconds until its
# output is bit for bit that of a decoder which has heard everything (measured, libsndfile 1.2.2).
_OGG_PREROLL_SECONDS = 2
# MP3 packets borrow bits from those before them: without these the first 0.1 s is distorted.
_MP3_PREROLL_SECONDS = 1


class NotFiniteError(AudioError):
    """Samples that are NaN or infinite."""


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
    """Rate, length and channels of a file, from its header.

    Raises AudioError for a file that is missing, empty, not audio, or shorter than its header (or
    its last Ogg page) says.  FLAC, whose header does not betray that, is probed at its last sample.
    """
    path = os.fspath(path)
    if _is_npy(path):
        return AudioInfo(SAMPLE_RATE, *_load_npy(path).shape)
    with _open(path) as sound:
        info = AudioInfo(sound.samplerate, sound.frames, sound.channels)
        _refuse_truncated(path, sound)
    return info


def read_audio(
    spec: str | AudioSpec, root: str | os.PathLike = "", sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """Read a segment as float32 of shape (samples,), channels averaged, at ``sample_rate`` Hz.

    ``root`` is put before relative paths.  Only the segment is decoded, never the whole file.  The
    result has exactly :func:`resampled_length` samples.

    Raises AudioError for a file that is missing, empty, truncated or not audio, for a segment that
    does not lie within it, and (NotFiniteError) for samples that are NaN or infinite.
    """
    if isinstance(spec, str):
        spec = parse_audio_spec(spec)
    path = os.path.join(root, spec.path)
    if _is_npy(path):
        rate, wave = SAMPLE_RATE, _read_npy(path, spec)
    else:
        rate, wave = _read_sound(path, spec)
    mono = _mix(wave, _where(path, spec))
    if rate == sample_rate:
        return np.ascontiguousarray(mono)
    return _resample(mono, rate, sample_rate)


def read_blocks(path: str | os.PathLike, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """A whole file from its beginning, ``seconds`` at a time, whatever its length.

    Yields float32 of shape (samples,), channels averaged, at the file's own rate.  Raises
    AudioError as :func:`read_audio` does, for damage and broken samples when they are reached.
    """
    path = os.fspath(path)
    if _is_npy(path):
        frames = len(_load_npy(path))
        block = round(seconds * SAMPLE_RATE)
        for start in range(0, frames, block):
            spec = AudioSpec(path, start, min(block, frames - start))
            yield _mix(_read_npy(path, spec), _where(path, spec))
        return
    with _open(path) as sound:
        _refuse_truncated(path, sound)
        block = max(1, round(seconds * sound.samplerate))
        for start in range(0, sound.frames, block):
            spec = AudioSpec(path, start, min(block, sound.frames - start))
            try:
                wave = sound.read(spec.frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise _damaged(path, spec, error.error_string) from None
            if len(wave) < spec.frames:
                found = f"only {start + len(wave)} of {sound.frames} samples could be decoded"
                raise _damaged(path, AudioSpec(path), found)
            yield _mix(wave, _where(path, spec))


def mono_waveform(
    samples: np.ndarray, rate: int = SAMPLE_RATE, sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """What :func:`read_audio` would give for ``samples`` of ``rate`` Hz that are in memory.

    ``samples``: float (full scale 1) or signed integers, shape (samples,), (samples, channels) or
    (channels, samples).  Raises AudioError for anything else, and for NaN or infinite samples.
    """
    if rate <= 0:
        raise AudioError(f"sampling rate {rate}: expected a positive number of samples a second")
    wave = _samples_by_channels(np.asarray(samples), "waveform")
    mono = _mix(_to_float(wave), "waveform")
    if rate == sample_rate:
        return np.ascontiguousarray(mono)
    return _resample(mono, rate, sample_rate)


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


def _mix(wave: np.ndarray, where: str) -> np.ndarray:
    """The mean of the channels of (samples, channels); NotFiniteError if a sample is broken."""
    broken = np.count_nonzero(~np.isfinite(wave))
    if broken:
        raise NotFiniteError(
            f"{where}: {broken} of {wave.size} samples are NaN or infinite; convert "
            f"the file again, or drop the segment"
        )
    return wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)


def _where(path: str, spec: AudioSpec) -> str:
    return str(AudioSpec(path, spec.offset, spec.frames))


def _refuse_unless_file(path: str) -> None:
    if not os.path.isfile(path):
        problem = "is no regular file" if os.path.exists(path) else "does not exist"
        raise AudioError(
            f"{path}: {problem}; expected an audio file (check audio_root and the path)"
        )
    if os.path.getsize(path) == 0:
        raise AudioError(f"{path}: is empty (0 bytes); fetch or convert it again")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path}: is not readable (permissions {os.stat(path).st_mode & 0o777:o})")


def _open(path: str) -> soundfile.SoundFile:
    """Open with libsndfile, always afresh.

    A second seek in a Vorbis handle may give wrong samples (libsndfile 1.2.2: 3 % of random ones).
    """
    _refuse_unless_file(path)
    try:
        sound = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:
        # soundfile raises TypeError for .raw files, which have no header.
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        raise AudioError(
            f"{path}: is not audio that libsndfile can read ({reason}); "
            f"expected wav, flac, ogg or a waveform in .npy"
        ) from None
    if sound.frames <= 0:
        sound.close()
        raise AudioError(f"{path}: holds no samples; fetch or convert it again")
    return sound


def _read_sound(path: str, spec: AudioSpec) -> tuple[int, np.ndarray]:
    """Rate and samples, shape (frames, channels), of a segment of a file that libsndfile reads."""
    with _open(path) as sound:
        rate = sound.samplerate
        if spec.frames == -1:
            _refuse_truncated(path, sound)
        _refuse_past_end(path, spec, sound)
        frames = sound.frames - spec.offset if spec.frames == -1 else spec.frames
        skip = spec.offset - _seek(sound, path, spec.offset)
        try:
            wave = sound.read(skip + frames, dtype="float32", always_2d=True)[skip:]
        except soundfile.LibsndfileError as error:
            raise _damaged(path, spec, error.error_string) from None
    if len(wave) < frames:
        raise _damaged(path, spec, f"only {len(wave)} of {frames} samples could be decoded")
    return rate, wave


def _seek(sound: soundfile.SoundFile, path: str, offset: int) -> int:
    """Move to ``offset`` or so far before it that decoding from there is exact; return where."""
    start = offset
    if sound.format == "OGG":
        preroll = _OGG_PREROLL_SECONDS * sound.samplerate
        start = offset - preroll
        if sound.subtype == "VORBIS":
            # libsndfile lands up to thousands of samples off when it seeks into the last page,
            # whose granule position is cut to the stream's true length.
            start = min(start, last_ogg_page_start(path) - preroll)
        start = max(0, start)
    elif sound.format == "MP3":
        start = max(0, offset - _MP3_PREROLL_SECONDS * sound.samplerate)
    if start:
        try:
            sound.seek(start)
        except soundfile.LibsndfileError as error:
            raise _damaged(path, AudioSpec(path, offset), error.error_string) from None
    return start


def _damaged(path: str, spec: AudioSpec, reason: str) -> AudioError:
    reason = reason.strip().rstrip(".") or "decoding failed"
    return AudioError(
        f"{_where(path, spec)}: is truncated or damaged ({reason}); fetch or convert it again"
    )


def _refuse_past_end(path: str, spec: AudioSpec, sound: soundfile.SoundFile) -> None:
    end = spec.offset + max(spec.frames, 1)
    if end <= sound.frames:
        return
    _refuse_truncated(path, sound)
    raise AudioError(_past_end_message(path, spec, sound.frames, sound.samplerate))


def _past_end_message(path: str, spec: AudioSpec, frames: int, rate: int) -> str:
    return (
        f"{_where(path, spec)}: the segment ends at sample {spec.offset + max(spec.frames, 1)}, "
        f"the file at {frames} ({frames / rate:.2f} s at {rate} Hz); offset and length are in "
        f"samples at the file's own rate"
    )


def _refuse_truncated(path: str, sound: soundfile.SoundFile) -> None:
    """Raise AudioError if the file stops before its own structure says it should."""
    if sound.format in ("WAV", "WAVEX", "RF64"):
        missing = missing_riff_bytes(path)
        if missing:
            raise AudioError(
                f"{path}: is truncated: {missing} bytes fewer than its header announces; "
                f"fetch or convert it again"
            )
    elif sound.format == "OGG":
        if not ends_with_whole_ogg_page(path):
            raise AudioError(
                f"{path}: is truncated: its last Ogg page is incomplete; fetch or convert it again"
            )
    elif sound.format == "FLAC":
        _refuse_undecodable_end(path)


def _refuse_undecodable_end(path: str) -> None:
    with soundfile.SoundFile(path) as sound:
        last = sound.frames - 1
        try:
            sound.seek(last)
            whole = len(sound.read(1)) == 1
        except soundfile.LibsndfileError:
            whole = False
    if not whole:
        raise AudioError(
            f"{path}: is truncated: its header announces {last + 1} samples, and the last cannot "
            f"be decoded; fetch or convert it again"
        )


def _is_npy(path: str) -> bool:
    return Path(path).suffix.lower() == _NPY_SUFFIX


def _load_npy(path: str) -> np.ndarray:
    """Map a waveform file into memory as (frames, channels), of whatever number type it has."""
    _refuse_unless_file(path)
    try:
        wave = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise AudioError(
            f"{path}: is truncated or no .npy file ({error}); expected a waveform saved by "
            f"numpy.save"
        ) from None
    return _samples_by_channels(wave, path)


def _samples_by_channels(wave: np.ndarray, where: str) -> np.ndarray:
    """A waveform as (samples, channels), of whatever number type it has."""
    if wave.ndim == 1:
        wave = wave[:, None]
    elif wave.ndim == 2 and wave.shape[0] <= _MAX_CHANNELS < wave.shape[1]:
        wave = wave.T
    if wave.ndim != 2 or wave.shape[1] > _MAX_CHANNELS or wave.dtype.kind not in "fi":
        raise AudioError(
            f"{where}: holds {wave.dtype} of shape {wave.shape}; expected a waveform: float or "
            f"signed integer samples, shape (samples,), (samples, channels) or (channels, samples)"
        )
    if wave.size == 0:
        raise AudioError(f"{where}: holds no samples; compute it again")
    return wave


def _to_float(wave: np.ndarray) -> np.ndarray:
    """float32, full scale 1."""
    part = np.array(wave, dtype=np.float32)
    if wave.dtype.kind == "i":
        part /= -float(np.iinfo(wave.dtype).min)
    return part


def _read_npy(path: str, spec: AudioSpec) -> np.ndarray:
    wave = _load_npy(path)
    if spec.offset + max(spec.frames, 1) > len(wave):
        raise AudioError(_past_end_message(path, spec, len(wave), SAMPLE_RATE))
    end = len(wave) if spec.frames == -1 else spec.offset + spec.frames
    return _to_float(wave[spec.offset : end])


def _resample(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    length = resampled_length(len(wave), rate, target)
    result = soxr.resample(wave, rate, target).astype(np.float32, copy=False)
    if len(result) < length:
        # soxr rounds halves to even, we round them up: the manifest's n_frames must hold.
        result = np.pad(result, (0, length - len(result)))
    return np.ascontiguousarray(result[:length])
