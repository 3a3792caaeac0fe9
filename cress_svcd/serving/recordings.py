"""One recording, from its file to its translations, as they come."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cress_svcd.data.audio import audio_info
from cress_svcd.errors import AudioError, CressError
from cress_svcd.serving.batching import Batcher, Job
from cress_svcd.serving.limits import Limits
from cress_svcd.serving.problems import Problem
from cress_svcd.translation.recordings import Segment, read_segments
from cress_svcd.translation.result import Translation

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


async def translate_recording(
    path: Path, job: Job, batcher: Batcher, readers: ThreadPoolExecutor
) -> AsyncIterator[Translation]:
    """The translations of a recording's segments, in their order.

    It is read as its segments are used: at most ``ahead_seconds`` wait in memory.

    Raises:
        Problem: it is too long, or waited too long.
        AudioError, CressError: it cannot be used.
    """
    limits, loop = batcher.limits, asyncio.get_running_loop()
    segments = read_segments(str(path), None, job.model.translator.segmentation)
    pending: deque[tuple[Segment, asyncio.Future[Translation]]] = deque()
    more, ahead = True, 0.0
    try:
        while more or pending:
            while more and ahead < limits.ahead_seconds and not (pending and pending[0][1].done()):
                segment = await loop.run_in_executor(readers, next, segments, None)
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
        batcher.drop(job)
        for _, future in pending:
            future.cancel()
            if future.done() and not future.cancelled():
                future.exception()  # asked for, so that it is not reported as forgotten


async def begun(job: Job, limits: Limits) -> None:
    """Wait until a worker takes the first segment; raises Problem if it takes too long."""
    try:
        await asyncio.wait_for(job.begun.wait(), limits.wait_seconds)
    except TimeoutError:
        raise Problem(
            503,
            f"the recording waited for {limits.wait_seconds:g} s, and others are still before it; "
            "try again later",
            code="overloaded",
        ) from None


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
