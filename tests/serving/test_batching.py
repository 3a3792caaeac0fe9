"""The queue: turns, what fails alone, who leaves."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("prometheus_client", reason="pip install 'cress_svcd[serve]'")

from cress_svcd.serving.batching import Batcher, Job
from cress_svcd.serving.limits import Limits
from cress_svcd.serving.metrics import Metrics
from cress_svcd.serving.models import Models, ServedModel
from cress_svcd.serving.problems import Problem
from cress_svcd.translation.recording_translator import RecordingTranslator
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.result import Translation

RATE = 16_000


class Echo(RecordingTranslator):
    """A translator that says how loud a segment is, and fails with silence."""

    def __init__(self):
        self.batches: list[list[float]] = []

    def translate_segments(self, segments, wanted=None):
        segments = list(segments)
        self.batches.append([segment.start for segment in segments])
        for segment in segments:
            if not segment.wave.any():
                raise RuntimeError("silence")
            yield segment, Translation(f"{segment.wave[0]:g}", 0.0, ())


def model(name: str, language: str = "de", translator=None) -> ServedModel:
    return ServedModel(name, translator or Echo(), language, "en", 1, 1)


def segment(value: float, start: float = 0.0, seconds: float = 1.0) -> Segment:
    wave = np.full(round(seconds * RATE), value, np.float32)
    return Segment(wave, start, start + seconds)


def working(work, **limits):
    """What ``work(batcher)`` returns while a worker works."""

    async def main():
        batcher = Batcher(Limits(**limits), Metrics())
        async with batcher.running():
            return await work(batcher)

    return asyncio.run(main())


def test_short_recordings_do_not_wait_for_a_long_one():
    served = model("m")

    async def work(batcher):
        long, short = Job(served, False), Job(served, False)
        futures = [batcher.submit(long, segment(1, start=at)) for at in range(10)]
        futures.append(batcher.submit(short, segment(2, start=100)))
        return [one.text for one in await asyncio.gather(*futures)]

    assert working(work, batch_seconds=4.0) == ["1"] * 10 + ["2"]
    assert served.translator.batches[0] == [0, 1, 2, 100]


def test_what_fails_fails_alone():
    served = model("m")

    async def work(batcher):
        futures = [batcher.submit(Job(served, False), segment(value)) for value in (1, 0, 2)]
        first = await asyncio.gather(*futures, return_exceptions=True)
        return first, await batcher.submit(Job(served, False), segment(3))

    (one, failed, two), after = working(work)
    assert (one.text, two.text, after.text) == ("1", "2", "3")
    assert isinstance(failed, RuntimeError)


def test_who_leaves_is_left_out():
    served = model("m")

    async def work(batcher):
        gone, here = Job(served, False), Job(served, False)
        batcher.submit(gone, segment(1))
        batcher.drop(gone)
        batcher.submit(gone, segment(5)).cancel()
        return (await batcher.submit(here, segment(2, start=7))).text, list(batcher.jobs)

    assert working(work) == ("2", [])
    assert served.translator.batches == [[7]]


def test_models_are_not_mixed():
    one, other = model("one"), model("other")

    async def work(batcher):
        jobs = [Job(m, timed) for m in (one, other) for timed in (False, True)]
        await asyncio.gather(*(batcher.submit(job, segment(1)) for job in jobs))

    working(work)
    assert [len(batch) for m in (one, other) for batch in m.translator.batches] == [1, 1, 1, 1]


def test_which_model_is_meant():
    models = Models([model("a"), model("b", "ro"), model("c", "ro")])
    assert models.choose().name == models.choose("whisper-1").name == "a"
    assert models.choose(language="RO").name == "b"
    assert models.choose("c", "ro").name == models.choose("c").name == "c"
    for wish in (("d", ""), ("a", "ro"), ("", "fr")):
        with pytest.raises(Problem):
            models.choose(*wish)
