"""Samples as float32 of which 1 is full scale: number types, and single samples that are broken."""

import numpy as np

from cress_svcd.errors import AudioError

MAX_CHANNELS = 8
# Integers and large floats are of 16, 24 or 32 bits: of the fewest that hold their peak, or half.
_FULL_SCALES = (float(1 << 15), float(1 << 23), float(1 << 31))
_HEADROOM = 2
# Floats up to here have a full scale of 1, or were scaled to unit variance.
_LARGEST_FLOAT = 256
# No full scale goes so far.
_IMPOSSIBLE = float(1 << 33)
# A sample is broken that is so many times as far out as all but the furthest hundredth around it.
_FAR_BEYOND = 100.0
_SCAN_SAMPLES = 1 << 20


def samples_by_channels(wave: np.ndarray, where: str) -> np.ndarray:
    """A waveform as (samples, channels), of whatever number type it has."""
    if wave.ndim == 1:
        wave = wave[:, None]
    elif wave.ndim == 2 and wave.shape[0] <= MAX_CHANNELS < wave.shape[1]:
        wave = wave.T
    number = wave.dtype.kind in "fi" or wave.dtype == np.uint8
    if wave.ndim != 2 or wave.shape[1] > MAX_CHANNELS or not number:
        raise no_waveform(where, wave.dtype, wave.shape, _range(wave))
    if wave.size == 0:
        raise AudioError(f"{where}: holds no samples; compute it again")
    return wave


def no_waveform(
    where: str, dtype: np.dtype, shape: tuple[int, ...], extent: str = ""
) -> AudioError:
    """The error of an array that is none."""
    return AudioError(
        f"{where}: holds {dtype} of shape {shape}{extent}; expected a "
        f"waveform: float, signed integer or uint8 samples, shape (samples,), "
        f"(samples, channels) or (channels, samples)"
    )


def _range(wave: np.ndarray) -> str:
    if wave.dtype.kind != "u" or wave.size == 0:
        return ""
    return f" from {wave.min()} to {wave.max()}"


def full_scale(wave: np.ndarray, where: str) -> float:
    """The value that stands for 1 in samples (samples, channels), by their type and peak.

    Those of 16 bits are often kept in wider types, where their own full scale would make silence
    of them.  A broken sample is no peak.
    """
    if wave.dtype.kind != "f" and wave.dtype.itemsize <= 2:
        return float(1 << 8 * wave.dtype.itemsize - 1)
    peak = _peak(wave)
    if wave.dtype.kind == "f" and peak <= _LARGEST_FLOAT:
        return 1.0
    for scale in _FULL_SCALES:
        if peak <= _HEADROOM * scale:
            return scale
    raise AudioError(
        f"{where}: holds {wave.dtype} samples with a peak of {peak:.4g}; expected a full scale of "
        f"1, or of 16, 24 or 32 bits (2,147,483,648 at most)"
    )


def _peak(wave: np.ndarray) -> float:
    """Largest magnitude of what is sound; of what is finite, if nothing is."""
    peak, finite_peak = 0.0, 0.0
    step = max(1, _SCAN_SAMPLES // wave.shape[1])
    for start in range(0, len(wave), step):
        part = wave[start : start + step]
        if part.dtype.kind != "f":
            peak = max(peak, float(part.max()), -float(part.min()))
            continue
        size = np.abs(part[np.isfinite(part)])
        if not size.size:
            continue
        finite_peak = max(finite_peak, float(size.max()))
        if size.max() > _LARGEST_FLOAT:
            size = size[size <= _limit(size)]
        peak = max(peak, float(size.max(initial=0)))
    return peak or finite_peak


def _limit(size: np.ndarray) -> float:
    """What the magnitude of a sample that is no broken one does not exceed."""
    sounding = size[size > 0]
    common = float(np.percentile(sounding, 99)) if sounding.size else 0.0
    return min(max(_HEADROOM, _FAR_BEYOND * common), _IMPOSSIBLE)


def to_float(wave: np.ndarray, scale: float) -> np.ndarray:
    """float32 of which 1 is what ``scale`` was."""
    with np.errstate(over="ignore", invalid="ignore"):
        part = np.array(wave, dtype=np.float32)
        if wave.dtype == np.uint8:
            part -= scale
        if scale != 1:
            part /= scale
    return part


def mend(wave: np.ndarray, by_others: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Silence in the place of samples that are NaN, infinite, or far beyond all others.

    A single one would drown the sound around it, however it is scaled.

    Args:
        wave: (samples, channels), float32.
        by_others: whether they are compared with each other, not only with any full scale.
    Returns:
        The samples, and (samples,) whether any channel of one was broken.
    """
    if wave.size == 0 or np.abs(wave).max() <= _HEADROOM:  # not if one is NaN
        return wave, np.zeros(len(wave), bool)
    size = np.abs(wave)
    finite = np.isfinite(size)
    broken = ~finite | (size > (_limit(size[finite]) if by_others else _IMPOSSIBLE))
    if broken.any():
        wave = np.where(broken, np.float32(0), wave)
    return wave, broken.any(axis=1)
