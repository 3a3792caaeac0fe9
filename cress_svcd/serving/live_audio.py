"""Speech that is still being said, cut as it comes."""

from collections import deque

import numpy as np

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.segmentation import Segmentation, cut, make_segmenter
from cress_svcd.translation.segmentation.base import Segmenter

CONTEXT = 10 * SAMPLE_RATE  # samples before what is open: a segmenter compares with them
SHORTEST = SAMPLE_RATE // 2  # samples of an open segment that are worth a translation
FULL_SCALE = 32768.0


class LiveAudio:
    """The last seconds of a live recording.

    A segment is final when a pause follows it or when it is as long as segments may be; the one
    that is still being said is open.

    Attributes:
        received: samples so far.
    """

    def __init__(self, segmenter: Segmenter | None):
        self.segmenter = segmenter or make_segmenter(Segmentation(segmenter="energy"))
        self.wave = np.zeros(0, np.float32)
        self.first = 0  # number of the sample that ``wave`` begins with
        self.done = 0  # samples that are translated or hold nothing
        self.received = 0
        self._new: deque[np.ndarray] = deque()  # filled in one thread, emptied in another
        self._half = b""  # of a sample whose other byte is still to come

    def append(self, pcm: bytes) -> None:
        """Add samples: 16 bits, little endian, one channel, 16 kHz, cut between any two bytes."""
        pcm = self._half + pcm
        whole = len(pcm) // 2
        self._half = pcm[2 * whole :]
        samples = np.frombuffer(pcm, "<i2", whole).astype(np.float32) / FULL_SCALE
        self.received += len(samples)
        self._new.append(samples)

    def segments(self, ended: bool = False) -> tuple[list[Segment], Segment | None]:
        """The segments that have become final, and the open one.

        Args:
            ended: nothing comes any more: all are final.
        """
        new = [self._new.popleft() for _ in range(len(self._new))]
        self.wave = np.concatenate([self.wave, *new])
        stop = self.first + len(self.wave)
        pause = round(self.segmenter.limits.pause_seconds * SAMPLE_RATE)
        final: list[Segment] = []
        open_one: Segment | None = None
        spans = cut([self.wave], SAMPLE_RATE, self.segmenter) if len(self.wave) else []
        for number, span in enumerate(spans):
            begin = max(self.first + span.offset, self.done)
            end = self.first + span.offset + span.frames
            short = end - begin < SHORTEST // 2
            # What is left of a span that was final before is its end, heard a little later now.
            if short and (not ended or begin > self.first + span.offset or end <= begin):
                continue
            if ended or number < len(spans) - 1 or end + pause <= stop:
                final.append(self._segment(begin, end))
                self.done = end
            elif end - begin >= SHORTEST:
                open_one = self._segment(begin, end)
        if not spans or (open_one is None and not final):
            # Silence; speech may have begun within the last second.
            self.done = max(self.done, stop - SAMPLE_RATE)
        self._forget()
        return final, open_one

    def _segment(self, begin: int, end: int) -> Segment:
        wave = self.wave[begin - self.first : end - self.first].copy()
        return Segment(wave, begin / SAMPLE_RATE, end / SAMPLE_RATE)

    def _forget(self) -> None:
        start = max(self.first, self.done - CONTEXT)
        self.wave = self.wave[start - self.first :]
        self.first = start
