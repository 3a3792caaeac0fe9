"""Hearing speech by its level, with numpy alone.

The level of each 10 ms is compared with the noise around it.  Any sound that changes counts, music
and babble too; any rate will do, and the same recording gives the same cuts everywhere.

What the noise is:

- Digital silence is not: it tells that there is none.
- In a block of some seconds the quietest tenth is noise if it is steady, lasts for as long as a
  pause, and if something is louder nearby.  Each part of a recording has its own.
- A sound that stays as it is, with nothing louder, is noise if it is nearer to the quietest noise
  than to the loudest sound of the recording.
- In a recording that is far too quiet throughout, digital silence lies as much lower.
- However loud, what hardly changes for STEADY_SECONDS is no speech: noise that is switched on, hum,
  a held tone.  Syllables change their level by 10 dB and more.  Slow noise (brown) changes too, but
  not in its differences from sample to sample, where it is white; so both are asked.

Speech begins ``threshold_db`` above the noise, or half-way between the noise and the level of the
speech where that is less.  Recordings are read in blocks, so that hours of sound need a few MB.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from cress_svcd.translation.segmentation.base import Segmenter
from cress_svcd.translation.segmentation.divide import Frames, find_sounds
from cress_svcd.translation.segmentation.options import Segmentation

FRAME_SECONDS = 0.01
SILENCE_DB = -80.0
"""Lower levels (full scale is 0 dB) are digital silence: about 3 steps of 16 bit."""

LOWEST_DB = SILENCE_DB - 60.0

# A recording of which nothing is louder is raised to this level: by so much at most, and not what
# may be nothing but the last step of 16 bit.  As loud as that is what lasts for LOUD_FRAMES in all.
QUIET_RECORDING_DB, MOST_RAISE_DB, LAST_STEP_DB, LOUD_FRAMES = -50.0, 40.0, -88.0, 30
SMOOTHED_FRAMES = 5
BLOCK_FRAMES, STEP_FRAMES = 500, 100
FEWEST_FRAMES = 50  # that are not digital silence, for a block to say anything
NEIGHBOURS = 10  # blocks on each side in which something louder is looked for
LOW, QUIET, LOUD = 4, 10, 97  # percentiles
STEADY_DB = 2.5  # between LOW and QUIET
STILL_DB, STILL_FRAMES = 3.0, 20  # so long noise must last without rising further above QUIET
# A louder noise fills so much of a block, and is louder by so much at most.
MODE_SHARE, MODE_RISE_DB = 0.15, 16.0
# Speech rises by so much above noise: in dB, and in multiples of the noise's own fluctuation (QUIET
# above LOW), up to the last.
LEAST_RISE_DB, LEAST_RISE, MOST_RISE_DB = 4.0, 9.0, 9.0
LEAST_THRESHOLD_DB = 2.0
DIGITAL_SHARE = 0.1
# Over so long, levels of noise lie within so many dB, and those of its differences from sample to
# sample.  Measured: white, pink 1.5, 3.9 and 1.7, 1.6; brown 10.4 and 1.6; speech 5 dB above white
# noise at least 10.6 and 3.4, 8 dB 13.4 and 5.0.
STEADY_SECONDS = 1.5
STEADY_RANGE_DB, STEADY_DIFFERENCES_DB = 5.0, 2.3
FEWER_SAMPLES = 160  # of a frame fluctuate more
# Slow sound, whose differences are less loud by so much, such as brown noise.
SLOW_DB, SLOW_RANGE_DB = 9.0, 15.0


def make(options: Segmentation, model: Any = None) -> Segmenter:
    return EnergySegmenter(options)


class EnergySegmenter(Segmenter):
    def listen(self, blocks: Iterable[np.ndarray], rate: int) -> Frames:
        hop = max(1, round(FRAME_SECONDS * rate))
        measured = raise_quiet(measure_levels(blocks, hop))
        probabilities = speech_probabilities(measured.levels, self.options.threshold_db)
        probabilities[find_steady(measured, hop)] = 0
        return Frames(probabilities, hop, measured.samples)


class Measured(NamedTuple):
    """Levels of a recording's frames in dB of full scale, those of the differences from sample to
    sample, and the number of samples."""

    levels: np.ndarray
    differences: np.ndarray
    samples: int


def measure_levels(blocks: Iterable[np.ndarray], hop: int) -> Measured:
    """What is measured of each ``hop`` samples.

    The level is that of the deviation from the frame's mean: neither a constant offset nor hum far
    below speech is sound.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def measure(frames: np.ndarray) -> None:
        found.append((_levels(frames), _levels(np.diff(frames, axis=1, prepend=frames[:, :1]))))

    rest, samples = np.zeros(0, np.float32), 0
    for block in blocks:
        samples += len(block)
        block = np.concatenate([rest, block])
        whole = len(block) // hop * hop
        measure(block[:whole].reshape(-1, hop))
        rest = block[whole:]
    if len(rest):
        measure(rest[None])
    if not found:
        return Measured(np.zeros(0, np.float32), np.zeros(0, np.float32), samples)
    levels, differences = (np.concatenate(part) for part in zip(*found))
    return Measured(levels, differences, samples)


def _levels(frames: np.ndarray) -> np.ndarray:
    power = frames.var(axis=1, dtype=np.float64)
    return (10 * np.log10(np.maximum(power, 10 ** (LOWEST_DB / 10)))).astype(np.float32)


def raise_quiet(measured: Measured) -> Measured:
    """Levels of SILENCE_DB or more: in a recording of quiet speech, after raising them all."""
    count = len(measured.levels)
    raised = 0.0
    if count:
        rank = max(0, count - LOUD_FRAMES)
        loud = float(np.partition(measured.levels, rank)[rank])
        if LAST_STEP_DB < loud < QUIET_RECORDING_DB:
            raised = min(QUIET_RECORDING_DB - loud, MOST_RAISE_DB)
    levels, differences = (
        np.maximum(of_frames + np.float32(raised), np.float32(SILENCE_DB))
        for of_frames in (measured.levels, measured.differences)
    )
    return Measured(levels, differences, measured.samples)


def find_steady(measured: Measured, hop: int) -> np.ndarray:
    """Which frames lie within STEADY_SECONDS of a sound that hardly changes."""
    size = round(STEADY_SECONDS / FRAME_SECONDS)
    steady = np.zeros(len(measured.levels), bool)
    if len(steady) < size:
        return steady
    fluctuation = max(1.0, (FEWER_SAMPLES / hop) ** 0.5)
    levels, differences = smooth(measured.levels), smooth(measured.differences)
    slow = _means(levels - differences, size) > SLOW_DB
    begins = _range(levels, size) < np.where(slow, SLOW_RANGE_DB, STEADY_RANGE_DB * fluctuation)
    begins &= _range(differences, size) < STEADY_DIFFERENCES_DB * fluctuation
    for start, stop in find_sounds(begins):
        steady[start : stop - 1 + size] = True
    return steady


def _means(values: np.ndarray, size: int) -> np.ndarray:
    """Of every ``size`` neighbours."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[size:] - sums[:-size]) / size


def _range(values: np.ndarray, size: int) -> np.ndarray:
    """Of every ``size`` neighbours."""
    return _of_windows(np.maximum, values, size) - _of_windows(np.minimum, values, size)


def _of_windows(better: np.ufunc, values: np.ndarray, size: int) -> np.ndarray:
    """The best of every ``size`` neighbours, by windows that grow to twice their size."""
    width = 1
    while width < size:
        shift = min(width, size - width)
        values = better(values[:-shift], values[shift:])
        width += shift
    return values


def speech_probabilities(levels: np.ndarray, threshold_db: float) -> np.ndarray:
    """0.5 at the threshold, and more the louder a frame is; 0 where nothing is to be heard."""
    if len(levels) == 0:
        return np.zeros(0, np.float32)
    smoothed = smooth(levels)
    thresholds = find_thresholds(levels, smoothed, threshold_db)
    # Noise fluctuates, and smoothed it does less; but smoothed speech begins before it begins.
    heard = np.zeros(len(levels), bool)
    for start, stop in find_sounds(smoothed > thresholds):
        loud = np.flatnonzero(levels[start:stop] > thresholds[start:stop])
        if len(loud):
            heard[start + loud[0] : start + loud[-1] + 1] = True
    over = np.where(heard, np.maximum(smoothed, levels), np.minimum(smoothed, levels)) - thresholds
    over = np.where(heard, np.maximum(over, 1e-3), np.minimum(over, 0))
    return (1 / (1 + 10 ** (-over / 20))).astype(np.float32)


def smooth(levels: np.ndarray) -> np.ndarray:
    """Mean power of some frames, digital silence left out, in dB."""
    sounding = levels > SILENCE_DB
    power = np.where(sounding, 10 ** (levels.astype(np.float64) / 10), 0)
    window = np.ones(SMOOTHED_FRAMES)
    size = len(levels)
    half = SMOOTHED_FRAMES // 2
    sums, counts = (np.convolve(x, window)[half : half + size] for x in (power, sounding * 1.0))
    means = np.maximum(sums, 0) / np.maximum(counts, 1)
    means = np.where(sounding, means, 0)
    return 10 * np.log10(np.maximum(means, 10 ** (SILENCE_DB / 10)))


class Blocks(NamedTuple):
    """Percentiles of the levels in blocks of a recording, NaN where there is hardly a sound, the
    share of digital silence, and whether the quietest sounds are as steady as noise."""

    low: np.ndarray
    quiet: np.ndarray
    loud: np.ndarray
    digital: np.ndarray
    steady: np.ndarray


def find_thresholds(levels: np.ndarray, smoothed: np.ndarray, threshold_db: float) -> np.ndarray:
    """Of each frame, in dB; infinite where nothing is louder than the noise."""
    blocks = measure_blocks(levels, smoothed)
    floors = find_floors(blocks)
    if np.isnan(floors).all():
        return np.full(len(levels), np.inf)
    top = _over_neighbours(blocks.loud, NEIGHBOURS)
    # A frame lies in several blocks: the loudest noise that one of them knows of is its own.
    known = np.flatnonzero(~np.isnan(floors))
    span = -(-BLOCK_FRAMES // STEP_FRAMES)
    steps = np.arange(-(-len(levels) // STEP_FRAMES))
    containing = [np.clip(steps - back, 0, len(floors) - 1) for back in range(span)]
    own = _nanmax([floors[index] for index in containing])
    after = known[np.minimum(np.searchsorted(known, steps), len(known) - 1)]
    before = known[np.maximum(np.searchsorted(known, steps, "right") - 1, 0)]
    nearest = np.where(steps - before < after - steps, before, after)
    own = np.where(np.isnan(own), floors[nearest], own)
    speech = _nanmax([top[index] for index in containing])
    rise = np.where(np.isnan(speech), 0, speech) - own
    height = np.maximum(np.minimum(rise / 2, threshold_db), LEAST_THRESHOLD_DB)
    thresholds = np.where(rise < least_rise(blocks), np.inf, own + height)
    return np.repeat(thresholds, STEP_FRAMES)[: len(levels)]


def measure_blocks(levels: np.ndarray, smoothed: np.ndarray) -> Blocks:
    starts = range(0, max(1, len(levels) - BLOCK_FRAMES + STEP_FRAMES), STEP_FRAMES)
    low, quiet, loud, digital = np.full((4, len(starts)), np.nan)
    steady = np.zeros(len(starts), bool)
    fewest = min(STILL_FRAMES, len(levels) // 2)
    for number, start in enumerate(starts):
        part = smoothed[start : start + BLOCK_FRAMES]
        sounding = levels[start : start + BLOCK_FRAMES] > SILENCE_DB
        digital[number] = 1 - sounding.mean()
        if sounding.sum() < min(FEWEST_FRAMES, len(levels) / 2):
            continue
        least, tenth, most = np.percentile(part[sounding], (LOW, QUIET, LOUD))
        lasting = find_sounds(sounding & (part <= tenth + STILL_DB), fewest)
        steady[number] = tenth - least <= STEADY_DB and bool(lasting)
        louder = louder_noise(part, sounding, tenth, most, fewest)
        if louder is not None:
            (least, tenth), steady[number] = louder, True
        low[number], quiet[number], loud[number] = least, tenth, most
    return Blocks(low, quiet, loud, digital, steady)


def louder_noise(
    smoothed: np.ndarray, sounding: np.ndarray, quiet: float, loud: float, fewest: int
) -> tuple[float, float] | None:
    """LOW and QUIET of the loudest steady level not far above ``quiet``, nor half-way up to
    ``loud``.

    A background that was switched on in the pauses, or off within the sentences, is that.
    """
    highest = min((quiet + loud) / 2, quiet + MODE_RISE_DB)
    counts, edges = np.histogram(smoothed[sounding], np.arange(quiet, highest, 1.0))
    width = round(2 * STILL_DB)
    if len(counts) <= width:
        return None
    mass = np.convolve(counts, np.ones(width), "valid")
    for start in np.flatnonzero(mass >= MODE_SHARE * sounding.sum())[::-1]:
        inside = (smoothed >= edges[start]) & (smoothed < edges[start + width])
        if mass[start] < mass[max(0, start - width) : start + width].max():
            continue  # the flank of another one
        if find_sounds(inside & sounding, fewest):
            low, middle = np.percentile(smoothed[inside & sounding], (LOW, QUIET))
            return (low, middle) if middle - low <= STEADY_DB else None
    return None


def least_rise(blocks: Blocks) -> float:
    """By how many dB speech must rise above the noise of a recording."""
    spread = (blocks.quiet - blocks.low)[blocks.steady]
    fluctuation = float(np.median(spread)) if len(spread) else 0.0
    return min(max(LEAST_RISE * fluctuation, LEAST_RISE_DB), MOST_RISE_DB)


def find_floors(blocks: Blocks) -> np.ndarray:
    """The noise of each block in dB: SILENCE_DB where there is none but digital silence, NaN where
    it is not known.  All NaN: there is nothing but noise."""
    low, quiet, loud, digital, steady = blocks
    if np.isnan(loud).all():
        return np.full(len(loud), np.nan)
    least = least_rise(blocks)
    top = _over_neighbours(loud, NEIGHBOURS)
    # Next to digital silence, what is less loud than others far away may be a quiet speaker.
    contrast = np.where(digital < DIGITAL_SHARE, top, loud) - quiet
    noise = steady & (contrast >= least)
    flat = steady & ~noise
    floors = np.where(noise, quiet, np.nan)
    without_pause = flat & (digital < DIGITAL_SHARE)
    levels = np.concatenate([quiet[noise], quiet[without_pause]])
    highest = np.nanmax(loud)
    if len(levels):
        middle = (levels.min() + highest) / 2
        if highest - levels.min() >= least or not (flat & ~without_pause).any():
            flat_noise = without_pause & (quiet <= middle)
            floors = np.where(flat_noise, quiet, floors)
    silent = (digital >= DIGITAL_SHARE) & np.isnan(floors)
    for number in np.flatnonzero(silent):
        like_noise = flat[number] and len(levels) and np.abs(levels - quiet[number]).min() < 4
        floors[number] = quiet[number] if like_noise else SILENCE_DB
    if np.isnan(floors).all() and highest - np.nanmin(low) >= MOST_RISE_DB:
        floors = np.where(np.isnan(low), np.nan, np.nanmin(low))
    return floors


def _over_neighbours(values: np.ndarray, reach: int) -> np.ndarray:
    padded = np.pad(values, reach, constant_values=np.nan)
    return _nanmax([padded[shift : shift + len(values)] for shift in range(2 * reach + 1)])


def _nanmax(rows: list[np.ndarray]) -> np.ndarray:
    """Of each column; NaN where all are."""
    return np.fmax.reduce(rows)
