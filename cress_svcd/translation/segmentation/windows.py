"""Sound of any rate in overlapping windows at the models' rate, memory bounded."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from cress_svcd.data.audio import SAMPLE_RATE

# Models' frames are some 20 or 30 ms apart; between two the probability is taken to be linear.
FINER = 4


class Counted:
    """Blocks, and how many samples they had when all were read."""

    def __init__(self, blocks: Iterable[np.ndarray]):
        self.blocks, self.samples = blocks, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            self.samples += len(block)
            yield np.asarray(block, np.float32)


def at_model_rate(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Blocks of ``rate`` samples a second, resampled to 16 kHz as one stream."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def overlapping(
    blocks: Iterable[np.ndarray], size: int, overlap: int
) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Windows of ``size`` samples that share ``overlap`` with the one before.

    Yields:
        samples (fewer in the last), how many of them were in the window before, and whether it is
        the last.
    """
    held, before = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > size:
            yield held[:size], before, False
            held, before = held[size - overlap :], overlap
    if len(held) > before:
        yield held, before, True


def finer(probabilities: np.ndarray) -> np.ndarray:
    """FINER times as many; frame i stands for what lies between i and i + 1."""
    if len(probabilities) == 0:
        return probabilities
    places = (np.arange(len(probabilities) * FINER) + 0.5) / FINER - 0.5
    return np.interp(places, np.arange(len(probabilities)), probabilities).astype(np.float32)
