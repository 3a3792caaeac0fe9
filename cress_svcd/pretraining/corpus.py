"""The files that fairseq's HuBERT pretraining reads, made from manifests.

For each split, line by line: ``SPLIT.tsv`` (a first line with the root folder, then audio and its
length in samples), ``SPLIT.km`` (a label for each frame), ``SPLIT.ltr`` (the letters of the
transcript, for CTC); and a dictionary ``dict.LABEL.txt`` for each kind of label.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas
from tqdm import tqdm

from cress_svcd.atomic_files import replacing, write_text
from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.errors import ManifestError
from cress_svcd.pretraining.letters import ctc_frames, spell
from cress_svcd.pretraining.speech_units import FRAME_SHIFT, Clusters, count_frames
from cress_svcd.recipes.children import serve_parent

logger = logging.getLogger(__name__)

UNITS = "km"
LETTERS = "ltr"

NO_TRANSCRIPT = "empty transcript"
TOO_MANY_LETTERS = "more letters than CTC can place"
TOO_SHORT = "too short"
TOO_LONG = "too long"

Features = Callable[[np.ndarray], np.ndarray]
"""Waveform (samples,) at 16 kHz → features (frames, dimension)."""

_SEGMENTS_PER_JOB = 32


class Utterance(NamedTuple):
    """A segment to train on: ``audio`` relative to the root, ``samples`` at 16 kHz."""

    id: str
    audio: str
    samples: int
    text: str


@dataclass
class SplitReport:
    """What is in a split's files, and how many segments were left out for which reason."""

    segments: int = 0
    hours: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, kept: Sequence[Utterance], problems: Iterable[str | None]) -> "SplitReport":
        """Report on a split; ``problems`` has the reason for each segment that was left out."""
        hours = sum(utterance.samples for utterance in kept) / SAMPLE_RATE / 3600
        dropped = collections.Counter(problem for problem in problems if problem is not None)
        return cls(len(kept), round(hours, 4), dict(dropped))

    def reasons(self) -> str:
        """What was left out, in words."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())


@dataclass(frozen=True)
class Limits:
    """Fewest and most samples of a segment, both included; ``longest=None``: no limit."""

    shortest: int
    longest: int | None = None

    def problem(self, samples: int) -> str | None:
        """Why a segment of that length cannot be used, or None."""
        if samples < self.shortest:
            return TOO_SHORT
        return TOO_LONG if self.longest is not None and samples > self.longest else None


def select_utterances(
    manifest: pandas.DataFrame, limits: Limits, where: str
) -> tuple[list[Utterance], SplitReport]:
    """The segments of a manifest whose length lies within the limits.

    Raises ManifestError if none does.
    """
    columns = (manifest[name] for name in ("id", "audio", "n_frames", "src_text"))
    utterances = list(map(Utterance._make, zip(*columns)))
    problems = [limits.problem(each.samples) for each in utterances]
    kept = [each for each, problem in zip(utterances, problems) if problem is None]
    report = SplitReport.of(kept, problems)
    if not kept:
        raise ManifestError(
            f"{where}: none of {len(manifest)} segments can be used ({report.reasons()}); change "
            "task.min_sample_size and task.max_sample_size of the config"
        )
    return kept, report


def select_transcribed(
    utterances: Sequence[Utterance],
    limits: Limits,
    known: set[str] | None,
    where: str,
    shift: int = FRAME_SHIFT,
) -> tuple[list[Utterance], list[list[str]], SplitReport]:
    """The utterances that CTC can learn from, and their letters.

    Args:
        utterances: of one split.
        limits: of their lengths.
        known: letters of the dictionary, others are left out; None keeps all.
        where: the file they are from, for messages.
        shift: samples that a frame advances.
    Raises:
        ManifestError: no utterance is left.
    """
    kept, spelled, problems = [], [], []
    for utterance in utterances:
        letters = [c for c in spell(utterance.text) if known is None or c in known]
        problem = limits.problem(utterance.samples)
        if problem is None and not letters:
            problem = NO_TRANSCRIPT
        if problem is None and ctc_frames(letters) > count_frames(utterance.samples, shift):
            problem = TOO_MANY_LETTERS
        problems.append(problem)
        if problem is None:
            kept.append(utterance)
            spelled.append(letters)
    report = SplitReport.of(kept, problems)
    if not kept:
        raise ManifestError(
            f"{where}: no segment has a transcript for CTC ({report.reasons()}); fill the column "
            "src_text, or remove the section ctc from the config"
        )
    return kept, spelled, report


def write_fairseq_manifest(path: Path, root: str, utterances: Iterable[Utterance]) -> None:
    """Write a manifest as fairseq's audio pretraining reads it."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{root}\n")
        file.writelines(f"{each.audio}\t{each.samples}\n" for each in utterances)


def write_labels(path: Path, labels: Iterable[Iterable]) -> None:
    """Write a line for each utterance: its labels, separated by spaces."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(" ".join(map(str, each)) + "\n" for each in labels)


def write_label_dictionary(folder: Path, label: str, symbols: Iterable) -> None:
    """Write ``dict.LABEL.txt`` with the symbols in this order."""
    write_text(folder / f"dict.{label}.txt", "".join(f"{symbol} 1\n" for symbol in symbols))


def frequent_letters(spelled: Iterable[Iterable[str]], least: int) -> list[str]:
    """The letters that occur at least ``least`` times, the most frequent first."""
    counts = collections.Counter(itertools.chain.from_iterable(spelled))
    return [c for c, count in sorted(counts.items(), key=lambda i: (-i[1], i[0])) if count >= least]


def sample_features(
    utterances: Sequence[Utterance],
    root: str,
    features: Features,
    frames: int,
    seed: int,
    workers: int,
) -> np.ndarray:
    """Features of randomly drawn utterances that have about ``frames`` frames together."""
    order = np.random.default_rng(seed).permutation(len(utterances))
    lengths = np.cumsum([count_frames(utterances[index].samples) for index in order])
    drawn = order[: int(np.searchsorted(lengths, frames)) + 1]
    job = _SegmentJob(root, features)
    chosen = [utterances[index] for index in sorted(drawn)]
    return np.concatenate(list(_map_audio(job, chosen, workers, "features to cluster")))


def cluster_labels(
    utterances: Sequence[Utterance],
    root: str,
    features: Features,
    clusters: Clusters,
    workers: int,
    split: str,
) -> Iterator[np.ndarray]:
    """The labels of each utterance, in order."""
    job = _SegmentJob(root, features, clusters)
    return _map_audio(job, utterances, workers, f"units of {split}")


@dataclass(frozen=True)
class _SegmentJob:
    """What is done with each segment; travels to the worker processes."""

    root: str
    features: Features
    clusters: Clusters | None = None

    def __call__(self, audio: Sequence[str]) -> list[np.ndarray]:
        return [self._one(each) for each in audio]

    def _one(self, audio: str) -> np.ndarray:
        features = self.features(read_audio(audio, self.root))
        return features if self.clusters is None else self.clusters.assign(features)


def _map_audio(
    job: _SegmentJob, utterances: Sequence[Utterance], workers: int, title: str
) -> Iterator[np.ndarray]:
    """Do ``job`` for each utterance, in order, with a progress bar.

    Features that hold a model say so by ``in_process``: they run here, on their own threads.
    """
    audio = [utterance.audio for utterance in utterances]
    batches = [
        audio[start : start + _SEGMENTS_PER_JOB]
        for start in range(0, len(audio), _SEGMENTS_PER_JOB)
    ]
    here = workers == 1 or getattr(job.features, "in_process", False)
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(audio), desc=title, unit="segment", disable=None))
        results = map(job, batches) if here else _parallel(job, batches, workers, stack)
        for batch in results:
            bar.update(len(batch))
            yield from batch


def _parallel(
    job: _SegmentJob, batches: Iterable, workers: int, stack: contextlib.ExitStack
) -> Iterator[list[np.ndarray]]:
    """As ``map``, in processes, with a bounded number of batches under way."""
    # From a server process: forking this one would copy torch's threads half-way.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = stack.enter_context(
        concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=context, initializer=serve_parent
        )
    )
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    for batch in batches:
        waiting.append(pool.submit(job, batch))
        if len(waiting) > 4 * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
