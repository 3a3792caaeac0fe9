"""From the probability that each frame is speech to segments.

A recording is cut where there is no speech for as long as a pause.  What is still too long is
divided and conquered, as SHAS does (Tsiamas et al., 2022, "SHAS: Approaching optimal Segmentation
for End-to-End Speech Translation", the algorithm pDAC): it is cut at its least speech-like place,
edges that are no speech are trimmed, and so on with both parts.
"""

from dataclasses import dataclass

import numpy as np

# Speech that is shorter is a click.
SHORTEST_SOUND = 0.05
# Where nothing falls below the threshold, the least speech-like of such stretches is looked for.
DIP_SECONDS = 0.1
# What is longer than so many segments is cut in its middle half: if hours lost a sentence at an end
# with each cut, every one would look through nearly all of them.
MANY = 8

Chunk = tuple[int, int]
"""[start, stop) in frames."""


@dataclass(frozen=True)
class Limits:
    """What the segments must keep, in seconds; ``threshold`` is a probability.

    Attributes:
        before, after: of what surrounds a segment, so much is left to it, half of it at most.
    """

    max_seconds: float
    min_seconds: float
    pause_seconds: float
    before: float
    after: float
    threshold: float = 0.5


@dataclass(frozen=True)
class Frames:
    """What a segmenter heard in a recording.

    Attributes:
        probabilities: of speech, of each frame; float32.
        hop: samples from one frame to the next, at the recording's rate; need not be whole.
        samples: of the recording.
    """

    probabilities: np.ndarray
    hop: float
    samples: int


def find_chunks(probabilities: np.ndarray, per_second: float, limits: Limits) -> list[Chunk]:
    """Segments without their margins, in their order, apart; none longer than the limit.

    Args:
        probabilities: of each frame.
        per_second: frames a second.
    """
    longest = max(1, int(limits.max_seconds * per_second))
    shortest = max(1, min(frames(limits.min_seconds, per_second), longest // 2))
    sounds = find_sounds(probabilities > limits.threshold, frames(SHORTEST_SOUND, per_second))
    regions = _join(sounds, frames(limits.pause_seconds, per_second))
    regions = _absorb_short(regions, shortest, longest)
    dip = frames(DIP_SECONDS, per_second)
    return [
        chunk
        for region in regions
        for chunk in divide(probabilities, region, longest, shortest, limits.threshold, dip)
    ]


def frames(seconds: float, per_second: float) -> int:
    return max(1, round(seconds * per_second))


def find_sounds(speech: np.ndarray, shortest: int = 1) -> list[Chunk]:
    """Every stretch of at least ``shortest`` frames in which the booleans are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speech.view(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    long_enough = stops - starts >= shortest
    return list(zip(starts[long_enough].tolist(), stops[long_enough].tolist()))


def _join(sounds: list[Chunk], pause: int) -> list[Chunk]:
    """Sounds with less than a pause between them become one."""
    regions: list[Chunk] = []
    for start, stop in sounds:
        if regions and start - regions[-1][1] < pause:
            regions[-1] = (regions[-1][0], stop)
        else:
            regions.append((start, stop))
    return regions


def _absorb_short(regions: list[Chunk], shortest: int, longest: int) -> list[Chunk]:
    """Join each region shorter than ``shortest`` to the nearer neighbour, up to ``longest``."""
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


def divide(
    probabilities: np.ndarray,
    region: Chunk,
    longest: int,
    shortest: int,
    threshold: float = 0.5,
    dip: int = 1,
) -> list[Chunk]:
    """Cut a region until nothing is longer than ``longest`` frames.

    Each cut is in the gap below the threshold that is longest and deepest; where there is none, in
    the middle of the ``dip`` frames that are least speech-like.  Parts of fewer than ``shortest``
    frames are avoided, and what is very long is cut in its middle half.
    """
    done: list[Chunk] = []
    waiting = [region]
    while waiting:
        start, stop = waiting.pop()
        if stop - start <= longest:
            done.append((start, stop))
            continue
        edge = (stop - start) // 4 if stop - start > MANY * longest else 0
        end, begin = _deepest_gap(
            probabilities, start, stop, max(edge, shortest), threshold
        ) or _least_speech_like(probabilities, start, stop, longest, dip, edge)
        waiting += [(begin, stop), (start, end)]
    return done


def _deepest_gap(
    probabilities: np.ndarray, start: int, stop: int, shortest: int, threshold: float
) -> Chunk | None:
    low, high = start + shortest, stop - shortest
    if low >= high:
        return None
    below = np.maximum(threshold - probabilities[low:high], 0)
    gaps = find_sounds(below > 0)
    # A gap that reaches over the limit leaves a short part beside it.
    gaps = [gap for gap in gaps if gap[0] > 0 and gap[1] < high - low]
    if not gaps:
        return None
    total = np.concatenate([[0.0], np.cumsum(below, dtype=np.float64)])
    middle = (high - low) / 2
    best = max(
        gaps, key=lambda gap: (total[gap[1]] - total[gap[0]], -abs((gap[0] + gap[1]) / 2 - middle))
    )
    return low + best[0], low + best[1]


def _least_speech_like(
    probabilities: np.ndarray, start: int, stop: int, longest: int, dip: int, edge: int
) -> Chunk:
    """A cut that leaves no more parts than are needed, and more than ``edge`` frames on each
    side."""
    frames = stop - start
    parts = -(-frames // longest)
    width = min(dip, longest)
    means = np.convolve(probabilities[start:stop], np.ones(width) / width, "valid")
    places = np.arange(len(means)) + width // 2  # of a cut, from the start
    allowed = -(-places // longest) - (-(frames - places) // longest) <= parts
    allowed &= (places > edge) & (places < frames - edge)
    best = np.flatnonzero(allowed & (means <= means[allowed].min()))
    place = start + int(places[best[np.argmin(np.abs(places[best] - frames / 2))]])
    return place, place


def widen(chunks: list[Chunk], before: int, after: int, frames: int, longest: int) -> list[Chunk]:
    """Give each chunk up to so many frames of what lies on each side, half of it at most."""
    widened = []
    for index, (start, stop) in enumerate(chunks):
        previous = chunks[index - 1][1] if index else 0
        following = chunks[index + 1][0] if index + 1 < len(chunks) else frames
        left = start - previous if index == 0 else (start - previous) // 2
        right = following - stop if index + 1 == len(chunks) else (following - stop) // 2
        budget = max(0, longest - (stop - start))
        left = min(left, before, budget)
        right = min(right, after, budget - left)
        widened.append((start - left, stop + right))
    return widened
