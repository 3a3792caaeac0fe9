"""What was said, in the language in which it was said, as the encoder's CTC head hears it.

The best label of each frame, repetitions merged and blanks left out (Graves et al., 2006).
"""

from typing import NamedTuple

import numpy as np

# The head tells a label some frames after its sound has begun (measured: half a frame to one).
DELAY_FRAMES = 0.7


class HeardToken(NamedTuple):
    """An entry of the source vocabulary by its index; its frames from ``start`` to ``end``,
    exclusive."""

    label: int
    start: int
    end: int


def merge_labels(labels: np.ndarray, blank: int) -> list[HeardToken]:
    """The tokens in the labels of frames (frames,)."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), len(labels)]
    return [
        HeardToken(int(labels[start]), start, end)
        for start, end in zip(starts, ends)
        if start < end and labels[start] != blank
    ]


def token_edges(tokens: list[HeardToken], frames: int) -> np.ndarray:
    """Where tokens begin and end, in frames: each lasts until the next begins (tokens + 1)."""
    starts = [max(0.0, token.start - DELAY_FRAMES) for token in tokens]
    return np.array([*starts, min(float(frames), tokens[-1].end)]) if tokens else np.zeros(1)
