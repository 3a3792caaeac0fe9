"""Waveforms as float32 of one channel: number types, and channels that may cancel each other.

Channels are averaged, but for those that would cancel what is in the others: of a microphone whose
poles were swapped, or of a balanced line taken for stereo, the mean is silence.  This is decided
for each second of a recording, counted from its first sample, so that a segment is mixed as it is
in the whole, and only what is next to it needs to be decoded.
"""

from collections.abc import Iterator

import numpy as np

from cress_svcd.errors import AudioError

MAX_CHANNELS = 8
# A channel is left out where the sum with those before it has less than this share of their power.
# Sums of the same sound have 2, of different sounds 1, of opposite ones of equal level 0.
_CANCELLED = 0.25
# Integers and large floats are of 16, 24 or 32 bits: of the fewest that hold their peak, or half.
_FULL_SCALES = (float(1 << 15), float(1 << 23), float(1 << 31))
_HEADROOM = 2
# Floats up to here have a full scale of 1, or were scaled to unit variance.
_LARGEST_FLOAT = 256
_SCAN_SAMPLES = 1 << 20


def mixing_blocks(frames: int, rate: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of the blocks of a recording that hold the samples from ``start`` to ``stop``.

    Each is a second long; the last holds the rest of the recording, too.
    """
    last = max(1, frames // rate) - 1
    for block in range(min(start // rate, last), last + 1):
        begin = block * rate
        if begin >= stop:
            return
        yield begin, frames if block == last else begin + rate


def mix_block(wave: np.ndarray) -> np.ndarray:
    """Mix (samples, channels) of one block, float32."""
    if wave.shape[1] == 1:
        return wave[:, 0]
    kept = _channels_that_add_up(wave)
    return wave.mean(axis=1) if kept is None else wave[:, kept].mean(axis=1)


def mix(wave: np.ndarray, rate: int) -> np.ndarray:
    """Mix a whole recording (samples, channels), float32."""
    if wave.shape[1] == 1:
        return wave[:, 0]
    blocks = mixing_blocks(len(wave), rate, 0, len(wave))
    return np.concatenate([mix_block(wave[start:stop]) for start, stop in blocks])


def _channels_that_add_up(wave: np.ndarray) -> list[int] | None:
    """The channels that do not cancel each other, the loudest among them; None: all."""
    known = np.nan_to_num(wave, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float64)
    known -= known.mean(axis=0)
    covariance = known.T @ known
    power = covariance.diagonal()
    # The first of those that are about as loud as the loudest: not one block this, the next that.
    kept = [int(np.argmax(power >= power.max() / 2))]
    for channel in range(wave.shape[1]):
        if channel == kept[0]:
            continue
        sum_before = covariance[np.ix_(kept, kept)].sum()
        together = [*kept, channel]
        apart = sum_before + power[channel]
        if covariance[np.ix_(together, together)].sum() >= _CANCELLED * apart:
            kept.append(channel)
    return None if len(kept) == wave.shape[1] else sorted(kept)


def samples_by_channels(wave: np.ndarray, where: str) -> np.ndarray:
    """A waveform as (samples, channels), of whatever number type it has."""
    if wave.ndim == 1:
        wave = wave[:, None]
    elif wave.ndim == 2 and wave.shape[0] <= MAX_CHANNELS < wave.shape[1]:
        wave = wave.T
    number = wave.dtype.kind in "fi" or wave.dtype == np.uint8
    if wave.ndim != 2 or wave.shape[1] > MAX_CHANNELS or not number:
        raise AudioError(
            f"{where}: holds {wave.dtype} of shape {wave.shape}{_range(wave)}; expected a "
            f"waveform: float, signed integer or uint8 samples, shape (samples,), "
            f"(samples, channels) or (channels, samples)"
        )
    if wave.size == 0:
        raise AudioError(f"{where}: holds no samples; compute it again")
    return wave


def _range(wave: np.ndarray) -> str:
    if wave.dtype.kind != "u" or wave.size == 0:
        return ""
    return f" from {wave.min()} to {wave.max()}"


def full_scale(wave: np.ndarray, where: str) -> float:
    """The value that stands for 1 in samples (samples, channels), by their type and peak.

    Those of 16 bits are often kept in wider types, where their own full scale would make silence
    of them.
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
    """Largest magnitude of what is finite."""
    peak = 0.0
    step = max(1, _SCAN_SAMPLES // wave.shape[1])
    for start in range(0, len(wave), step):
        part = wave[start : start + step]
        if part.dtype.kind == "f":
            part = part[np.isfinite(part)]
        if part.size:
            peak = max(peak, float(part.max()), -float(part.min()))
    return peak


def to_float(wave: np.ndarray, scale: float) -> np.ndarray:
    """float32 of which 1 is what ``scale`` was."""
    part = np.array(wave, dtype=np.float32)
    if wave.dtype == np.uint8:
        part -= scale
    if scale != 1:
        part /= scale
    return part
