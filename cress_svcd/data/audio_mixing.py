"""Channels as one: their mean, but for those that would cancel or drown others.

Channels are averaged, but for those that would cancel what is in the others: of a microphone whose
poles were swapped, or of a balanced line taken for stereo, the mean is silence.  This is decided
for each second of a recording, counted from its first sample, so that a segment is mixed as it is
in the whole, and only what is next to it needs to be decoded.

A channel that holds nothing but loud steady noise, of a line that hums or of an open input, is left
out of a whole recording where another one is heard: their mean would drown the speech.  Noise shows
in its level, which hardly changes, while that of speech falls in every gap.  The recording
is looked into at some places for that.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from cress_svcd.data.audio_samples import mend

logger = logging.getLogger(__name__)

# A channel is left out where the sum with those before it has less than this share of their power.
# Sums of the same sound have 2, of different sounds 1, of opposite ones of equal level 0.
_CANCELLED = 0.25
# Where a recording is looked into, and the frames of which the levels are compared.
_LOOKS = 32
_LOOK_SECONDS = 0.5
_FRAMES_PER_SECOND = 20
# Between a channel's quiet frames (10 % are below) and its loud ones (1 % are above), in dB.
# Measured: noise of any colour, and hum, 0 to 1.6; speech 29 to 75, with white noise 3 dB below it
# 1.9 to 4.0, with pink noise 5.5 to 8.6.
_STEADY_DB = 1.8
_LIVELY_DB = 12.0
# Noise so far below the loud frames of a lively channel drowns nothing of it.
_HARMLESS_DB = 30.0
# Levels below are digital silence.
_LEAST_DB = -100.0
_EMPHASIS = 0.97


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


def mix_block(wave: np.ndarray, noise: tuple[int, ...] = ()) -> np.ndarray:
    """Mix (samples, channels) of one block, float32, without the channels of ``noise``."""
    if noise:
        wave = np.delete(wave, noise, axis=1)
    if wave.shape[1] == 1:
        return wave[:, 0]
    kept = _channels_that_add_up(wave)
    return wave.mean(axis=1) if kept is None else wave[:, kept].mean(axis=1)


def mix(wave: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Mix a whole recording (samples, channels), float32; and which of its samples were broken."""

    def look(start: int, stop: int) -> np.ndarray:
        return mend(wave[start:stop])[0]

    noise = find_noise(len(wave), wave.shape[1], rate, look)
    if noise:
        logger.warning("waveform: %s", noise_remark(noise, wave.shape[1]))
    mono, flaws = [], []
    for start, stop in mixing_blocks(len(wave), rate, 0, len(wave)):
        block, broken = mend(wave[start:stop])
        mono.append(mix_block(block, noise))
        flaws.append(broken)
    return np.concatenate(mono), np.concatenate(flaws)


Look = Callable[[int, int], np.ndarray]
"""Samples [start, stop) of a recording, of shape (samples, channels), float32."""


def noise_remark(noise: tuple[int, ...], channels: int) -> str:
    """What is to be said of channels that are left out; nothing, if none is."""
    if not noise:
        return ""
    numbers = ", ".join(str(channel + 1) for channel in noise)
    words = ("channel", "holds", "is") if len(noise) == 1 else ("channels", "hold", "are")
    return (
        f"{words[0]} {numbers} of {channels} {words[1]} nothing but steady noise, in which the "
        f"others would drown, and {words[2]} left out"
    )


def find_noise(frames: int, channels: int, rate: int, look: Look) -> tuple[int, ...]:
    """The channels of a recording that hold steady noise which would drown another."""
    if channels == 1:
        return ()
    length = min(frames, max(1, round(_LOOK_SECONDS * rate)))
    places = np.linspace(0, frames - length, min(_LOOKS, -(-frames // length))).astype(int).tolist()
    levels = np.zeros((0, channels))
    if len(places) < _LOOKS:  # at once: each look decodes some seconds before it as well
        levels = _levels([look(0, frames)], rate)
    if len(levels) < 2:
        levels = _levels((look(at, at + length) for at in places), rate)
    if len(levels) < 2:
        return ()
    quiet, loud = np.percentile(levels, (10, 99), axis=0)
    spread = loud - quiet
    noise = []
    for channel in range(channels):
        drowned = (spread > _LIVELY_DB) & (quiet < quiet[channel])
        drowned &= loud < loud[channel] + _HARMLESS_DB
        if spread[channel] < _STEADY_DB and drowned.any():
            noise.append(channel)
    return tuple(noise)


def _levels(waves: Iterable[np.ndarray], rate: int) -> np.ndarray:
    """Levels (frames, channels) in dB, of high and low frequencies alike.

    Without the emphasis, rumble would not be steady.
    """
    size = max(2, rate // _FRAMES_PER_SECOND)
    powers = []
    for wave in waves:
        high = (wave[1:] - _EMPHASIS * wave[:-1]).astype(np.float64)
        count = len(high) // size
        cut = high[: count * size].reshape(count, size, wave.shape[1])
        powers.append(np.square(cut).mean(axis=1))
    least = 10 ** (_LEAST_DB / 10)
    return 10 * np.log10(np.concatenate(powers) + least)


def _channels_that_add_up(wave: np.ndarray) -> list[int] | None:
    """The channels that do not cancel each other, the loudest among them; None: all."""
    known = wave - wave.mean(axis=0, dtype=np.float64)
    covariance = known.T @ known
    power = covariance.diagonal()
    # The first of those that are about as loud as the loudest: not one block this, the next that.
    kept = [int(np.argmax(power >= power.max() / 2))]
    sum_before = power[kept[0]]
    for channel in range(wave.shape[1]):
        if channel == kept[0]:
            continue
        apart = sum_before + power[channel]
        together = apart + 2 * covariance[channel, kept].sum()
        if together >= _CANCELLED * apart:
            kept.append(channel)
            sum_before = together
    return None if len(kept) == wave.shape[1] else sorted(kept)
