"""The queue of what is to be translated, and the workers that take from it.

All of it lives in the event loop, so that nothing is locked; a worker's batch alone runs in a
thread.  A recording's segments are translated in their order, those of different recordings
together where their model is the same.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from cress_svcd.serving.limits import Limits
from cress_svcd.serving.metrics import Metrics
from cress_svcd.serving.models import ServedModel
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.result import Translation, Wanted
from cress_svcd.translation.session import translate_whatever_can_be

logger = logging.getLogger(__name__)

Waiting = tuple[Segment, "asyncio.Future[Translation]"]


class Job:
    """A recording under way: its segments that wait for a worker.

    timed: its words are wanted with their times.
    """

    def __init__(self, model: ServedModel, timed: bool):
        self.model, self.timed = model, timed
        self.waiting: deque[Waiting] = deque()
        self.begun = asyncio.Event()  # a worker has taken a segment


class Failures:
    """What failed in a batch, by job; see ``session.Progress``."""

    def __init__(self) -> None:
        self.by_job: dict[Job, Exception] = {}

    def fail(self, number: Job, error: Exception) -> None:
        self.by_job[number] = error


class Batcher:
    """Translates segments of all requests.

    workers: batches at a time; more than one where several models are asked at the same time.
    """

    def __init__(self, limits: Limits, metrics: Metrics, workers: int = 1):
        self.limits, self.metrics, self.workers = limits, metrics, workers
        self.jobs: deque[Job] = deque()  # those with waiting segments; who waits longest is first
        self.work = asyncio.Event()
        self.pool = ThreadPoolExecutor(workers, "translate")
        metrics.show("waiting_segments", "Segments that wait for a worker.", self.count_waiting)

    def count_waiting(self) -> int:
        return sum(len(job.waiting) for job in self.jobs)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Context in which the workers work."""
        tasks = [asyncio.create_task(self._worker()) for _ in range(self.workers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.pool.shutdown(cancel_futures=True)

    def submit(self, job: Job, segment: Segment) -> "asyncio.Future[Translation]":
        """Queue a segment; cancelled futures are left out."""
        future: asyncio.Future[Translation] = asyncio.get_running_loop().create_future()
        if not job.waiting:
            self.jobs.append(job)
        job.waiting.append((segment, future))
        self.work.set()
        return future

    def drop(self, job: Job) -> None:
        """Forget what waits of a job whose client is gone."""
        job.waiting.clear()
        if job in self.jobs:
            self.jobs.remove(job)

    def take(self) -> list[tuple[Job, list[Waiting]]]:
        """The next batch: one segment of each fitting job in turn, until it is full; one alone
        where the model gains nothing by more."""
        first = self.jobs[0]
        most = self.limits.batch_seconds if first.model.translator.batched else 0.0
        fitting = [j for j in self.jobs if (j.model, j.timed) == (first.model, first.timed)]
        taken: dict[Job, list[Waiting]] = {job: [] for job in fitting}
        seconds = 0.0
        turns = deque(fitting)
        while turns and (not seconds or seconds < most):
            job = turns.popleft()
            segment, future = job.waiting.popleft()
            if not future.cancelled():
                taken[job].append((segment, future))
                seconds += segment.seconds
                job.begun.set()
            if job.waiting:
                turns.append(job)
        # Who was served goes behind those who were not.
        served = [job for job in fitting if taken[job]]
        rest = [job for job in self.jobs if job not in served] + served
        self.jobs = deque(job for job in rest if job.waiting)
        return [(job, parts) for job, parts in taken.items() if parts]

    async def _worker(self) -> None:
        while True:
            await self.work.wait()
            if not self.jobs:
                self.work.clear()
                continue
            batch = self.take()
            if batch:
                await self._translate(batch)

    async def _translate(self, batch: list[tuple[Job, list[Waiting]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            found, failures = await loop.run_in_executor(self.pool, translate, batch)
        except Exception as error:  # of the model: every request hears of it, the server goes on
            logger.exception("a batch could not be translated")
            found, failures = {}, {job: error for job, _ in batch}
        for job, parts in batch:
            for number, (_, future) in enumerate(parts):
                if future.done():
                    continue
                if job in failures:
                    future.set_exception(failures[job])
                else:
                    future.set_result(found[job][number])
        self.metrics.batches.inc()
        self.metrics.speech.inc(sum(s.seconds for _, parts in batch for s, _ in parts))


def translate(
    batch: list[tuple[Job, list[Waiting]]],
) -> tuple[dict[Job, list[Translation]], dict[Job, Exception]]:
    """The translations of a batch's segments by job, and what failed; in a worker's thread."""
    first = batch[0][0]
    segments = (
        dataclasses.replace(segment, recording=job) for job, parts in batch for segment, _ in parts
    )
    found: dict[Job, list[Translation]] = {job: [] for job, _ in batch}
    failures = Failures()
    wanted = Wanted(attention=first.timed)
    for segment, translation in translate_whatever_can_be(
        first.model.translator, segments, failures, wanted
    ):
        found[segment.recording].append(translation)
    short = [j for j, parts in batch if j not in failures.by_job and len(found[j]) < len(parts)]
    if short:
        raise RuntimeError(f"{len(short)} recordings of a batch came back incomplete")
    return found, failures.by_job
