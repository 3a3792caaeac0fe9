"""Releases in MuST-C layout out of parallel text, with synthetic speech.

The talks of a split are spoken in worker processes, one audio file at a time; each finished file
is remembered, so that an interrupted run goes on where it stopped.  The texts and the yaml are
written when all talks are there.
"""

import concurrent.futures
import contextlib
import errno
import io
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cress_svcd.atomic_files import replacing, write_json, write_text
from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.corpus.parallel_text import Line, ParallelText
from cress_svcd.data.synthesis.espeak import Catalogue, SpeechError, read_catalogue
from cress_svcd.data.synthesis.speech import (
    ENCODINGS,
    TRAINING_SPLIT,
    SpeechOptions,
    SpokenSegment,
    SpokenTalk,
    Talk,
    encode_audio,
    plan_talks,
    speak_talk,
)
from cress_svcd.data.synthesis.synthesisers import versions
from cress_svcd.recipes.children import serve_parent
from cress_svcd.recipes.resumable import Record, Records, Step

# Part of a split's settings; to be raised when the same settings give other bytes.
_LAYOUT_VERSION = 1


@dataclass
class SplitSummary:
    """What a split came to.  ``new_samples`` counts what this run spoke."""

    split: str
    segments: int = 0
    samples: int = 0
    speakers: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    new_samples: int = 0

    @property
    def hours(self) -> float:
        return self.samples / SAMPLE_RATE / 3600


@dataclass
class ReleaseSummary:
    """What a run of ``make_release`` came to; ``seconds`` is its wall-clock time."""

    folder: Path
    splits: list[SplitSummary]
    seconds: float = 0.0

    @property
    def times_real_time(self) -> float:
        """Seconds of new speech a second of work."""
        return sum(split.new_samples for split in self.splits) / SAMPLE_RATE / self.seconds


class SplitFolder(Records):
    """Where a split lies, and how far it has come: the record of a single step.

    While work is in progress, a hidden folder holds the settings and a record of each finished
    talk; the yaml and, last of all, the done-file ``SPLIT.speak.json`` say that the split is whole.
    """

    def __init__(self, release: Path, text: ParallelText, options: SpeechOptions) -> None:
        self.split = text.split
        self.options = options
        self.audio = release / "data" / self.split / "wav"
        self.txt = release / "data" / self.split / "txt"
        self._progress = release / "data" / self.split / ".speak"

    def text_file(self, suffix: str) -> Path:
        return self.txt / f"{self.split}.{suffix}"

    @property
    def done_file(self) -> Path:
        return self.text_file("speak.json")

    @property
    def _settings_file(self) -> Path:
        return self._progress / "settings.json"

    def audio_file(self, talk: Talk) -> Path:
        return self.audio / talk.file_name(self.options.audio_format)

    def record_file(self, talk: Talk) -> Path:
        return self._progress / f"talk_{talk.number:05d}.json"

    def read(self, name: str) -> Record | None:
        if self.done_file.exists():
            done = _read_json(self.done_file)
            return Record(done["settings"], result=done["summary"])
        if self._settings_file.exists():
            return Record(_read_json(self._settings_file), finished=False)
        return None

    def write(self, name: str, record: Record) -> None:
        """Nothing to be written: ``finish`` has written the done-file, before it removed what the
        work went on from."""

    def begin(self, step: Step) -> None:
        write_json(self._settings_file, step.inputs)

    def require_same(self, settings: dict[str, Any]) -> None:
        """Raise SpeechError if something else lies there than what ``settings`` make."""
        record = self.read(self.split)
        if record is not None:
            self._check_same(record.inputs, settings)
        elif self.text_file("yaml").exists():
            raise SpeechError(
                f"{self.text_file('yaml')} was not made by this command; choose another "
                "--output, or replace the split with --force"
            )

    def _check_same(self, there: dict[str, Any], asked: dict[str, Any]) -> None:
        keys = [key for key in asked if there.get(key) != asked[key]]
        if keys:
            changes = ", ".join(_change(key, there.get(key), asked[key]) for key in keys)
            raise SpeechError(
                f"{self.txt.parent} was made from something else ({changes}); choose another "
                "--output, or make the split again with --force"
            )

    def clear(self) -> None:
        """Remove what this command writes, the signs of completeness first."""
        suffixes = [self.options.source_lang, self.options.target_lang, "phones"]
        for suffix in ["speak.json", "yaml", *suffixes]:
            self.text_file(suffix).unlink(missing_ok=True)
        shutil.rmtree(self._progress, ignore_errors=True)
        pattern = re.compile(rf"{re.escape(self.split)}_\d{{5,}}\.({'|'.join(ENCODINGS)})")
        for path in self.audio.glob(f"{self.split}_*"):
            if pattern.fullmatch(path.name):
                path.unlink()

    def has_spoken(self, talk: Talk) -> bool:
        """Whether a talk is finished; audio that was cut or removed since is not."""
        try:
            n_bytes = _read_json(self.record_file(talk))["bytes"]
            return self.audio_file(talk).stat().st_size == n_bytes
        except FileNotFoundError:
            return False

    def save(self, talk: Talk, samples: np.ndarray, spoken: SpokenTalk) -> None:
        """Write a talk's audio, then its record, each all or nothing."""
        data = encode_audio(samples, self.options.audio_format)
        with replacing(self.audio_file(talk)) as temporary:
            temporary.write_bytes(data)
        record = {**asdict(spoken), "bytes": len(data)}
        write_text(self.record_file(talk), json.dumps(record, ensure_ascii=False))

    def finish(self, talks: Sequence[Talk], n_empty: int, settings: dict[str, Any]) -> SplitSummary:
        """Write the texts and the yaml from the talks' records, then the done-file."""
        summary = SplitSummary(self.split, skipped={"empty line": n_empty})
        speakers: dict[str, dict[str, Any]] = {}
        suffixes = ["yaml", self.options.source_lang, self.options.target_lang]
        suffixes += ["phones"] if self.options.phones else []
        with contextlib.ExitStack() as stack:
            # The first entered is the last to be renamed into place: the yaml.
            files = {
                suffix: stack.enter_context(_replacing_text(self.text_file(suffix)))
                for suffix in suffixes
            }
            for talk in talks:
                self._describe(talk, files, summary, speakers)
            if not summary.segments:
                raise SpeechError(f"split {self.split}: none of its lines could be spoken")
        summary.speakers = len(speakers)
        write_json(
            self.done_file,
            {"settings": settings, "summary": _as_json(summary), "speakers": speakers},
        )
        shutil.rmtree(self._progress)
        for folder in (self.audio, self.txt):
            for leftover in folder.glob(f".{self.split}*.part"):
                leftover.unlink()  # of a run that was killed while writing
        return summary

    def _describe(
        self,
        talk: Talk,
        files: dict[str, io.TextIOBase],
        summary: SplitSummary,
        speakers: dict[str, dict[str, Any]],
    ) -> None:
        """Write the lines of one talk, and count them."""
        record = _read_json(self.record_file(talk))
        segments = [SpokenSegment(**segment) for segment in record["segments"]]
        lines = {line.number: line for line in talk.lines}
        for segment in segments:
            line = lines[segment.line]
            files["yaml"].write(_yaml_row(segment, line, self.audio_file(talk).name))
            files[self.options.source_lang].write(line.source + "\n")
            files[self.options.target_lang].write(line.target + "\n")
            if self.options.phones:
                files["phones"].write(segment.phones + "\n")
            summary.segments += 1
            summary.samples += segment.frames
        for reason, numbers in record["skipped"].items():
            summary.skipped[reason] = summary.skipped.get(reason, 0) + len(numbers)
        spoken = {segment.speaker for segment in segments}
        for speaker in talk.speakers:
            if speaker.name in spoken:
                speakers[speaker.name] = asdict(speaker)


def make_release(
    output: str | os.PathLike,
    texts: Sequence[ParallelText],
    options: SpeechOptions,
    catalogue: Catalogue,
    pool: concurrent.futures.Executor,
    force: bool = False,
) -> ReleaseSummary:
    """Speak the splits into ``output/SRC-TGT/data/SPLIT/{wav,txt}``.

    What is whole already is kept; with ``force`` everything is made again.
    Raises SpeechError if the place holds something else, or on a full disk.
    """
    options.check()
    started = time.perf_counter()
    folder = Path(output).absolute() / f"{options.source_lang}-{options.target_lang}"
    splits = [(text, SplitFolder(folder, text, options)) for text in texts]
    settings = {text.split: _settings(text, options, catalogue) for text in texts}
    summary = ReleaseSummary(folder, [])
    with _disk_errors(folder):
        if not force:
            # All splits before any work: a mistake shall not show after the first hour.
            for text, split_folder in splits:
                split_folder.require_same(settings[text.split])
        for text, split_folder in splits:
            summary.splits.append(
                _make_split(text, split_folder, settings[text.split], pool, force)
            )
    summary.seconds = time.perf_counter() - started
    return summary


def _make_split(
    text: ParallelText,
    folder: SplitFolder,
    settings: dict[str, Any],
    pool: concurrent.futures.Executor,
    force: bool,
) -> SplitSummary:
    if force:
        folder.clear()
    new_samples = 0

    def work() -> dict[str, Any]:
        nonlocal new_samples
        talks = plan_talks(text, folder.options)
        pending = [talk for talk in talks if not folder.has_spoken(talk)]
        new_samples = _speak_talks(text, folder, pending, pool)
        return _as_json(folder.finish(talks, text.n_empty, settings))

    summary = SplitSummary(**folder.run(Step(text.split, settings), work))
    summary.new_samples = new_samples
    return summary


def _speak_talks(
    text: ParallelText,
    folder: SplitFolder,
    pending: Sequence[Talk],
    pool: concurrent.futures.Executor,
) -> int:
    """Speak the talks in the pool's processes; returns samples of speech."""
    n_pending = sum(len(talk.lines) for talk in pending)
    futures = {pool.submit(_speak_and_save, talk, folder): talk for talk in pending}
    samples = 0
    with tqdm(
        total=len(text.lines),
        initial=len(text.lines) - n_pending,
        desc=f"speaking {text.split}",
        unit="segment",
        mininterval=1.0,
        disable=None,
    ) as progress:
        for future in concurrent.futures.as_completed(futures):
            samples += future.result()
            progress.update(len(futures[future].lines))
    return samples


def _speak_and_save(talk: Talk, folder: SplitFolder) -> int:
    """What a worker does with a talk; returns samples of speech."""
    samples, spoken = speak_talk(talk, folder.options)
    with _disk_errors(folder.audio_file(talk)):
        folder.save(talk, samples, spoken)
    return spoken.n_speech_samples


@contextlib.contextmanager
def speaking_pool(workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Worker processes with a silent, restartable synthesiser.

    They are forked from a small server process, not from this one, which may hold threads and a
    GPU; an error or an interrupt drops the work that has not begun.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise SpeechError(
            "a worker process was killed, perhaps for want of memory; finished files are kept, "
            "and the same command with fewer --workers goes on from there"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def installed_catalogue(pool: concurrent.futures.Executor) -> Catalogue:
    """The synthesiser's voices, read in one of the pool's processes."""
    return pool.submit(read_catalogue).result()


def _start_worker() -> None:
    serve_parent()
    # The library reports to the C library's streams; our own errors travel as exceptions.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _settings(text: ParallelText, options: SpeechOptions, catalogue: Catalogue) -> dict[str, Any]:
    """Everything that the bytes of a split depend on, as JSON data."""
    voices = options.voices if text.split == TRAINING_SPLIT else options.test_voices
    settings = {**asdict(options), "voices": voices}
    del settings["test_voices"]
    settings |= {
        "text": text.digest(),
        "espeak-ng": catalogue.version,
        "layout": _LAYOUT_VERSION,
    }
    if others := versions(voices):
        settings["synthesisers"] = others
    return json.loads(json.dumps(settings))


def _change(key: str, there: Any, asked: Any) -> str:
    return "other text" if key == "text" else f"{key} {there!r} there, {asked!r} now"


def _as_json(summary: SplitSummary) -> dict[str, Any]:
    data = asdict(summary)
    del data["new_samples"]
    return data


def _yaml_row(segment: SpokenSegment, line: Line, audio_name: str) -> str:
    duration, offset = segment.frames / SAMPLE_RATE, segment.offset / SAMPLE_RATE
    return (
        f"- {{duration: {duration:.6f}, offset: {offset:.6f}, rW: {len(line.source.split())}, "
        f"uW: 0, speaker_id: {segment.speaker}, wav: {audio_name}}}\n"
    )


@contextlib.contextmanager
def _replacing_text(path: Path) -> Iterator[io.TextIOBase]:
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into an error for the user."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room" if full else "mend that"
        raise SpeechError(
            f"{error.filename or place}: {error.strerror}; what was being written is removed, "
            f"finished files are kept; {remedy} and run the same command again"
        ) from error
