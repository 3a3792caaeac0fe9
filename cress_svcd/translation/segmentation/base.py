"""What all segmenters share: speech probabilities become spans."""

from collections.abc import Iterable

import numpy as np

from cress_svcd.translation.segmentation.divide import Frames, Limits, find_chunks, widen
from cress_svcd.translation.segmentation.options import Segmentation, Span

# A recording with a longer silence than this before its speech, or than a pause after it, is cut,
# even if it holds one segment alone.
LONGEST_LEAD = 0.25


class Segmenter:
    """Cuts recordings.  A segmenter hears speech (:meth:`listen`) and says how it likes to cut.

    Attributes:
        PAUSE, MIN: seconds, where the options leave them open.
        BEFORE, AFTER: of what surrounds a segment, so many seconds are left to it.
        THRESHOLD: probability above which a frame is speech.
        second: cuts the recordings in which this one hears nothing; None: they have no segments.
    """

    second: "Segmenter | None" = None

    PAUSE, MIN = 0.4, 0.5
    BEFORE, AFTER = 0.1, 0.2
    THRESHOLD = 0.5

    def __init__(self, options: Segmentation):
        self.options = options

    @property
    def limits(self) -> Limits:
        pause, shortest = self.options.pause_seconds, self.options.min_seconds
        longest = self.options.max_seconds
        return Limits(
            longest,
            min(self.MIN, longest / 2) if shortest is None else shortest,
            self.PAUSE if pause is None else pause,
            self.BEFORE,
            self.AFTER,
            self.THRESHOLD,
        )

    def listen(self, blocks: Iterable[np.ndarray], rate: int) -> Frames:
        """How probable speech is in each frame of a recording.

        Args:
            blocks: float32 samples of one channel, block after block, read once.
            rate: samples a second.
        """
        raise NotImplementedError

    def cut(self, blocks: Iterable[np.ndarray], rate: int) -> list[Span]:
        """Where something is said in a recording that comes in blocks.

        Returns:
            spans in their order, none overlapping, each at most ``max_seconds`` long.  A recording
            of at most ``max_seconds`` without a pause, in which speech begins at once, is one span
            from its first sample to its last, just as it would be translated without cutting.
            None where nothing is heard.
        """
        heard, limits = self.listen(blocks, rate), self.limits
        per_second = rate / heard.hop
        count = len(heard.probabilities)
        chunks = find_chunks(heard.probabilities, per_second, limits)
        if len(chunks) == 1 and heard.samples <= limits.max_seconds * rate:
            start, stop = chunks[0]
            if (
                start <= LONGEST_LEAD * per_second
                and count - stop <= limits.pause_seconds * per_second
            ):
                return [Span(0, heard.samples)]
        longest = max(1, int(limits.max_seconds * per_second))
        before, after = (round(margin * per_second) for margin in (limits.before, limits.after))
        return [
            to_span(start, stop, heard)
            for start, stop in widen(chunks, before, after, count, longest)
        ]


def to_span(start: int, stop: int, heard: Frames) -> Span:
    first, last = (min(round(frame * heard.hop), heard.samples) for frame in (start, stop))
    return Span(first, last - first)
