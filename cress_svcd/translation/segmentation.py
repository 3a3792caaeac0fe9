"""Cutting recordings at pauses, by energy.

The level of each 10 ms is compared with the recording's noise floor; where it stays below for as
long as a pause, the recording is cut.  That is as much as a translator needs: it must be given
chunks of bearable length that do not begin or end within a word.  The detectors of others (WebRTC's
and neural ones) tell speech from music and babble, which this does not, but bring compiled code for
one rate each, or weights that are fetched over a network; here numpy alone is needed, any rate will
do, and the same recording gives the same cuts everywhere.

Recordings are read in blocks, so that hours of sound need a few MB: 4 bytes for each 10 ms.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cress_svcd.data.audio import audio_info, read_blocks
from cress_svcd.errors import ConfigError

FRAME_SECONDS = 0.01
SILENCE_DB = -80.0
"""Lower levels (full scale is 0 dB) count as this: about 3 steps of 16 bit."""

NOISE_PERCENTILE = 10
# Speech that is shorter is a click; a pause that is shorter, the closure of a plosive.
SHORTEST_SOUND = 0.05
MARGIN_SECONDS = 0.2
# Where there is no pause to cut at, the quietest of such stretches is looked for.
DIP_FRAMES = 10


@dataclass(frozen=True)
class Segmentation:
    """How to cut.  All but ``threshold_db`` in seconds.

    Args:
        max_seconds: no segment is longer.
        min_seconds: speech that is shorter is joined to its nearest neighbour, if there is room.
        pause_seconds: silence that separates segments.
        threshold_db: how far above the noise floor speech begins.
    Raises:
        ConfigError: a value that nothing can be cut with.
    """

    max_seconds: float = 20.0
    min_seconds: float = 1.0
    pause_seconds: float = 0.5
    threshold_db: float = 10.0

    def __post_init__(self) -> None:
        for name, lowest in (("max_seconds", 1.0), ("pause_seconds", 0.05), ("threshold_db", 1.0)):
            value = getattr(self, name)
            if not lowest <= value < float("inf"):
                raise ConfigError(f"segmentation: {name} is {value}, expected {lowest} or more")
        if not 0 <= self.min_seconds <= self.max_seconds / 2:
            raise ConfigError(
                f"segmentation: min_seconds is {self.min_seconds}, expected 0 to half of "
                f"max_seconds ({self.max_seconds / 2})"
            )


@dataclass(frozen=True)
class Span:
    """A part of a recording, in samples at the recording's own rate."""

    offset: int
    frames: int


def find_segments(
    path: str | os.PathLike[str], options: Segmentation = Segmentation()
) -> list[Span]:
    """Where something is said in a file; see :func:`cut`.

    Raises:
        AudioError: the file is missing, damaged, no audio, or holds NaN.
    """
    info = audio_info(path)
    return cut(read_blocks(path), info.sample_rate, options)


def cut(
    blocks: Iterable[np.ndarray], rate: int, options: Segmentation = Segmentation()
) -> list[Span]:
    """Where something is said in a recording that comes in blocks.

    Args:
        blocks: float32 samples of one channel, block after block.
        rate: samples a second.
        options: how to cut.
    Returns:
        spans in their order, none overlapping, each at most ``max_seconds`` long, with a margin of
        up to 0.2 s of the silence around them.  A recording of at most ``max_seconds`` without a
        pause within the speech is one span from its first sample to its last, just as it would be
        translated without cutting.  None where nothing rises above the noise floor.
    """
    hop = max(1, round(FRAME_SECONDS * rate))
    levels, samples = measure_levels(blocks, hop)
    seconds = rate / hop  # of frames
    longest = int(options.max_seconds * seconds)
    sounds = find_sounds(levels, options.threshold_db, _frames(SHORTEST_SOUND, seconds))
    regions = _join(sounds, _frames(options.pause_seconds, seconds))
    if len(regions) == 1 and samples <= options.max_seconds * rate:
        return [Span(0, samples)]
    regions = _absorb_short(regions, _frames(options.min_seconds, seconds), longest)
    shortest = max(1, min(_frames(options.min_seconds, seconds), longest // 2))
    gaps = [(left[1], right[0]) for left, right in zip(sounds, sounds[1:])]
    chunks = [
        chunk
        for region in regions
        for chunk in _split_long(region, gaps, levels, longest, shortest)
    ]
    margin = _frames(MARGIN_SECONDS, seconds)
    chunks = _widen(chunks, margin, len(levels), longest)
    return [Span(start * hop, min(stop * hop, samples) - start * hop) for start, stop in chunks]


def _frames(seconds: float, per_second: float) -> int:
    return max(1, round(seconds * per_second))


def measure_levels(blocks: Iterable[np.ndarray], hop: int) -> tuple[np.ndarray, int]:
    """Level of each ``hop`` samples in dB of full scale, and the number of samples.

    The level is that of the deviation from the frame's mean: neither a constant offset nor hum far
    below speech is sound.
    """
    levels, rest, samples = [], np.zeros(0, np.float32), 0
    for block in blocks:
        samples += len(block)
        block = np.concatenate([rest, block])
        whole = len(block) // hop * hop
        levels.append(_levels(block[:whole].reshape(-1, hop)))
        rest = block[whole:]
    if len(rest):
        levels.append(_levels(rest[None]))
    return np.concatenate(levels) if levels else np.zeros(0, np.float32), samples


def _levels(frames: np.ndarray) -> np.ndarray:
    power = frames.var(axis=1, dtype=np.float64)
    return (10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10)))).astype(np.float32)


def find_sounds(levels: np.ndarray, threshold_db: float, shortest: int) -> list[tuple[int, int]]:
    """[start, stop) of every stretch of at least ``shortest`` frames above the threshold.

    The noise floor is the tenth percentile of the levels.
    """
    if len(levels) == 0:
        return []
    loud = levels > np.percentile(levels, NOISE_PERCENTILE) + threshold_db
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.view(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    long_enough = stops - starts >= shortest
    return list(zip(starts[long_enough].tolist(), stops[long_enough].tolist()))


def _join(sounds: list[tuple[int, int]], pause: int) -> list[tuple[int, int]]:
    """Sounds with less than a pause between them become one."""
    regions: list[tuple[int, int]] = []
    for start, stop in sounds:
        if regions and start - regions[-1][1] < pause:
            regions[-1] = (regions[-1][0], stop)
        else:
            regions.append((start, stop))
    return regions


def _absorb_short(
    regions: list[tuple[int, int]], shortest: int, longest: int
) -> list[tuple[int, int]]:
    """Join each region shorter than ``shortest`` to the nearer neighbour that leaves it room."""
    regions = list(regions)
    index = 0
    while index < len(regions):
        start, stop = regions[index]
        candidates = []
        for left in (index - 1, index):
            if stop - start < shortest and 0 <= left < len(regions) - 1:
                (first, end), (begin, last) = regions[left : left + 2]
                if last - first <= longest:
                    candidates.append((begin - end, left))
        if not candidates:
            index += 1
            continue
        _, left = min(candidates)
        regions[left : left + 2] = [(regions[left][0], regions[left + 1][1])]
        index = left
    return regions


def _split_long(
    region: tuple[int, int],
    gaps: list[tuple[int, int]],
    levels: np.ndarray,
    longest: int,
    shortest: int,
) -> list[tuple[int, int]]:
    """Cut a region until no chunk is longer than ``longest`` frames.

    Each cut is at the longest of ``gaps`` within reach, or, where there is none, at the quietest
    place; chunks of fewer than ``shortest`` frames are avoided.
    """
    chunks = []
    start, stop = region
    while stop - start > longest:
        low, high = start + shortest, min(start + longest, stop - shortest)
        within = gaps[bisect_left(gaps, (low,)) : bisect_right(gaps, (high, len(levels)))]
        if within:
            end, begin = max(within, key=lambda gap: (gap[1] - gap[0], gap[0]))
        else:
            end = begin = _quietest(levels, low, high)
        chunks.append((start, end))
        start = begin
    return [*chunks, (start, stop)]


def _quietest(levels: np.ndarray, low: int, high: int) -> int:
    """Middle of the quietest 0.1 s between ``low`` and ``high``; the last of equals."""
    power = 10 ** (levels[low:high].astype(np.float64) / 10)
    width = min(DIP_FRAMES, len(power))
    sums = np.convolve(power, np.ones(width), "valid")
    last = len(sums) - 1 - int(np.argmin(sums[::-1]))
    return low + last + width // 2


def _widen(
    chunks: list[tuple[int, int]], margin: int, frames: int, longest: int
) -> list[tuple[int, int]]:
    """Give each chunk up to ``margin`` frames of the silence on each side, half of it at most."""
    widened = []
    for index, (start, stop) in enumerate(chunks):
        before = chunks[index - 1][1] if index else 0
        after = chunks[index + 1][0] if index + 1 < len(chunks) else frames
        left = start - before if index == 0 else (start - before) // 2
        right = after - stop if index + 1 == len(chunks) else (after - stop) // 2
        room = longest - (stop - start)
        left = min(left, margin, room // 2)
        right = min(right, margin, room - left)
        widened.append((start - left, stop + right))
    return widened
