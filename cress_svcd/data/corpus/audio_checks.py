"""Checking the audio of a split: headers, samples of some recordings, or every segment."""

import collections
import concurrent.futures
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from cress_svcd.data.audio import (
    AudioInfo,
    AudioSpec,
    NotFiniteError,
    audio_info,
    is_silent,
    parse_audio_spec,
    read_audio,
)
from cress_svcd.data.corpus.manifest import Segment
from cress_svcd.data.corpus.split_report import NOT_FINITE, SILENT, UNREADABLE, WARNINGS_SHOWN
from cress_svcd.errors import AudioError, ReleaseError

logger = logging.getLogger(__name__)

_ITEMS_PER_JOB = 64
_RECORDINGS_LOOKED_INTO = 3_000

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_headers(
    audio_root: Path, paths: Iterable[str], workers: int
) -> dict[str, AudioInfo | AudioError]:
    """Rate and length of every file, each opened once; an AudioError where that failed."""

    def read(path: str) -> AudioInfo | AudioError:
        try:
            return audio_info(audio_root / path)
        except AudioError as error:
            return error

    files = list(dict.fromkeys(paths))
    return dict(zip(files, _in_threads(read, files, workers, "audio headers")))


def look_into_recordings(audio_root: Path, segments: list[Segment], workers: int) -> None:
    """Decode some segments of each recording, their first second or all; of very many recordings,
    of some.

    Raises ReleaseError where samples are not finite, a recording is silent wherever it was looked
    into, or it cannot be decoded.
    """
    recordings: dict[str, list[AudioSpec]] = {}
    for segment in segments:
        spec = parse_audio_spec(segment.audio)
        recordings.setdefault(spec.path, []).append(spec)
    every = len(recordings) // _RECORDINGS_LOOKED_INTO + 1
    chosen = list(recordings.items())[::every]

    def problem(recording: tuple[str, list[AudioSpec]]) -> str | None:
        path, specs = recording
        places = specs[len(specs) // 2], specs[0], specs[-1]
        try:
            second = audio_info(audio_root / path).sample_rate
            starts = (dataclasses.replace(at, frames=min(at.frames, second)) for at in places)
            if all(is_silent(read_audio(str(at), audio_root)) for at in (*starts, *places)):
                return f"{audio_root / path}: is silent"
        except AudioError as error:
            return str(error)
        return None

    found = _in_threads(problem, chosen, workers, "looking into recordings")
    if problems := [message for message in found if message]:
        raise ReleaseError(
            f"{problems[0]} ({len(problems)} of {len(chosen)} recordings that were looked into are "
            f"silent or broken; fetch them again, or let --check-audio drop such segments)"
        )


def drop_unusable(
    audio_root: Path, segments: list[Segment], dropped: collections.Counter[str], workers: int
) -> list[Segment]:
    """Decode every segment; return those with sound, count the others."""

    def problem(segment: Segment) -> tuple[str, str] | None:
        try:
            wave = read_audio(segment.audio, audio_root)
        except NotFiniteError as error:
            return NOT_FINITE, str(error)
        except AudioError as error:
            return UNREADABLE, str(error)
        return (SILENT, f"{segment.audio}: is silent") if is_silent(wave) else None

    kept, shown = [], 0
    for segment, found in zip(segments, _in_threads(problem, segments, workers, "checking audio")):
        if found is None:
            kept.append(segment)
            continue
        reason, message = found
        dropped[reason] += 1
        shown += 1
        if shown <= WARNINGS_SHOWN:
            logger.warning("dropped %s: %s", segment.id, message)
    return kept


def _in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, label: str
) -> list[Result]:
    """Map over items with a progress bar; libsndfile and soxr let other threads run meanwhile."""

    def run(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + _ITEMS_PER_JOB]]

    results: list[Result] = []
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(items), desc=label, disable=None) as bar,
    ):
        for part in pool.map(run, range(0, len(items), _ITEMS_PER_JOB)):
            results += part
            bar.update(len(part))
    return results
