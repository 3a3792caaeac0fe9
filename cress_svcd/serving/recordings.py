"""One recording, from its file to its translations, as they come."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cress_svcd.data.audio import audio_info
from cress_svcd.errors import AudioError, CressError
from cress_svcd.serving.batching import Batcher, Job
from cress_svcd.serving.limits import Limits
from cress_svcd.serving.problems import Problem
from cress_svcd.translation.recordings import Segment, read_segments
from cress_svcd.translation.result import Translation
from cress_svcd.translation.segmentation import Span
from cress_svcd.translation.segmentation.base import Segmenter

logger = logging.getLogger(__name__)


# Samples, of all channels, from which on reading is left to threads of its own: hours of silence
# are nothing to translate, and much to decode.
MUCH_TO_READ = 120 * 48_000


def length_of(path: Path, limits: Limits) -> tuple[float, bool]:
    """Seconds of a recording, and whether there is much to read.

    Raises:
        Problem: it is longer than the limit.
        AudioError: it cannot be used.
    """
    info = audio_info(path)
    seconds = info.frames / info.sample_rate
    refuse_long(seconds, limits)
    return seconds, info.frames * info.channels > MUCH_TO_READ


def refuse_long(seconds: float, limits: Limits) -> None:
    if seconds > limits.recording_seconds:
        raise Problem(
            413,
            f"the recording has {seconds:.0f} s; expected at most {limits.recording_seconds:g}: "
            "send it in parts",
            "file",
            "recording_too_long",
        )


class NobodyWaits(Exception):
    """The client has left while its recording is read."""


class Interruptible(Segmenter):
    """Another segmenter, which stops within a block of the recording when nobody waits for it.

    A small file may decode to hours: its client can be gone, or the server be stopped, long before
    the first segment is found.
    """

    def __init__(self, segmenter: Segmenter, left: threading.Event):
        super().__init__(segmenter.options)
        self._segmenter, self._left = segmenter, left
        if segmenter.second is not None:
            self.second = Interruptible(segmenter.second, left)

    def cut(self, blocks: Iterable[np.ndarray], rate: int) -> list[Span]:
        """Raises NobodyWaits."""
        return self._segmenter.cut(self._wanted(blocks), rate)

    def _wanted(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            if self._left.is_set():
                raise NobodyWaits
            yield block


async def translate_recording(
    path: Path, job: Job, batcher: Batcher, readers: ThreadPoolExecutor
) -> AsyncIterator[Translation]:
    """The translations of a recording's segments, in their order.

    It is read as its segments are used: at most ``ahead_seconds`` wait in memory.

    Raises:
        Problem: it is too long, or waited too long.
        AudioError, CressError: it cannot be used.
    """
    limits, left = batcher.limits, threading.Event()
    segmenter = job.model.translator.segmentation
    if segmenter is not None:
        segmenter = Interruptible(segmenter, left)
    segments = read_segments(str(path), None, segmenter)
    pending: deque[tuple[Segment, asyncio.Future[Translation]]] = deque()
    more, ahead = True, 0.0
    try:
        while more or pending:
            while more and ahead < limits.ahead_seconds and not (pending and pending[0][1].done()):
                segment = await next_of(segments, readers, limits)
                if segment is None:
                    more = False
                    break
                refuse_long(segment.start, limits)  # a header may say less than there is
                pending.append((segment, batcher.submit(job, segment)))
                ahead += segment.seconds
            if pending:
                await begun(job, limits)
                segment, future = pending.popleft()
                ahead -= segment.seconds
                yield await future
    finally:
        left.set()
        batcher.drop(job)
        for _, future in pending:
            future.cancel()
            if future.done() and not future.cancelled():
                future.exception()  # asked for, so that it is not reported as forgotten


async def next_of(
    segments: Iterator[Segment], readers: ThreadPoolExecutor, limits: Limits
) -> Segment | None:
    """The next segment, None at the end; raises Problem if no reader is free for too long."""
    future = readers.submit(next, segments, None)
    waiting = asyncio.wrap_future(future)
    try:
        done, _ = await asyncio.wait((waiting,), timeout=limits.wait_seconds)
        if not done and future.cancel():
            raise waited_too_long(limits)
        return await waiting
    finally:
        waiting.cancel()


async def begun(job: Job, limits: Limits) -> None:
    """Wait until a worker takes the first segment; raises Problem if it takes too long."""
    try:
        await asyncio.wait_for(job.begun.wait(), limits.wait_seconds)
    except TimeoutError:
        raise waited_too_long(limits) from None


def waited_too_long(limits: Limits) -> Problem:
    return Problem(
        503,
        f"the recording waited for {limits.wait_seconds:g} s, and others are still before it; "
        "try again later",
        code="overloaded",
    )


def problem_of(error: Exception, path: Path) -> Problem:
    """What to tell the client of an error; what only concerns the server goes to its log."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, CressError):
        told = str(error).replace(str(path), "the recording")
        status = 400 if isinstance(error, AudioError) else 422
        return Problem(status, told, "file", "unusable_recording")
    logger.error("a request failed", exc_info=error)
    return Problem(500, "the server failed with this recording; its log has the details")
