"""Reading a corpus in the layout of MuST-C v1, one split at a time.

``en-XX/data/SPLIT/wav`` holds the talks, ``en-XX/data/SPLIT/txt`` three files of which the n-th
row or line belong together: ``SPLIT.yaml`` (where a segment lies in its talk), ``SPLIT.en`` and
``SPLIT.XX`` (what is said, and its translation)::

    - {duration: 3.500000, offset: 16.080000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}

What contradicts itself is an error that names file and line; segments that merely cannot serve
(too short, no text, ...) are dropped and counted.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from tqdm import tqdm

from cress_svcd.data.audio import (
    SAMPLE_RATE,
    AudioInfo,
    AudioSpec,
    NotFiniteError,
    audio_info,
    is_silent,
    parse_audio_spec,
    read_audio,
    resampled_length,
)
from cress_svcd.data.corpus.manifest import Segment
from cress_svcd.data.corpus.text import clean_text, read_lines
from cress_svcd.errors import AudioError, ReleaseError

logger = logging.getLogger(__name__)

SOURCE_LANGUAGE = "en"
SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".npy")

END_TOLERANCE_SECONDS = 0.1
"""A segment may run so far past its talk's end (rounded offsets, cut silence): it is clipped."""

PRECUT_TOLERANCE_SECONDS = 0.1
"""How far the length of a file with one segment may differ from the segment's."""

# The YAML loader keeps some 6 KB for a row until a document is done: a split at once takes 2 GB.
_YAML_ROWS_AT_ONCE = 5_000
_ITEMS_PER_JOB = 64
_WARNINGS_SHOWN = 5
_RECORDINGS_LOOKED_INTO = 3_000

Item = TypeVar("Item")
Result = TypeVar("Result")


class Row(NamedTuple):
    """One row of ``SPLIT.yaml``; times in seconds."""

    wav: str
    offset: float
    duration: float
    speaker: str


class Place(NamedTuple):
    """The file that holds a row's sound, and whether it holds that segment alone."""

    path: str
    precut: bool


@dataclasses.dataclass(frozen=True)
class Limits:
    """Shortest and longest segment to keep, in samples at 16 kHz, both included.

    ``max_frames`` is for training only: a test set that has lost sentences gives other scores.
    """

    min_frames: int = 1_000
    max_frames: int = 480_000


@dataclasses.dataclass(frozen=True)
class Release:
    """A language pair of a release; ``data`` is its folder ``en-XX/data``."""

    data: Path
    tgt_lang: str
    src_lang: str = SOURCE_LANGUAGE

    def text_file(self, split: str, suffix: str) -> Path:
        return self.data / split / "txt" / f"{split}.{suffix}"

    def audio_folder(self, split: str) -> Path:
        return self.data / split / "wav"


@dataclasses.dataclass
class SplitReport:
    """What became of a split's rows.  ``dropped`` counts segments by reason."""

    rows: int
    audio_files: int
    segments: int = 0
    hours: float = 0.0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    longer_than_limit_but_kept: int = 0
    clipped_at_end: int = 0
    texts_normalised: int = 0
    duplicates: int = 0


# Reasons for dropping a segment, in the order in which they are reported.
NO_TEXT = "empty text"
UNREADABLE = "unreadable audio"
PAST_END = "past the end of the audio"
TOO_SHORT = "too short"
TOO_LONG = "too long"
NOT_FINITE = "NaN or infinite samples"
SILENT = "silent"


def find_release(root: str | os.PathLike, tgt_lang: str) -> Release:
    """Find ``en-XX/data`` in a folder that holds ``en-XX`` or is it.

    Raises ReleaseError that lists the languages found there.
    """
    root = Path(root)
    pair = f"{SOURCE_LANGUAGE}-{tgt_lang}"
    if not root.is_dir():
        raise ReleaseError(
            f"{root}: no such folder; expected the unpacked release, holding {pair}/data"
        )
    if (root / pair).is_dir():
        if not (root / pair / "data").is_dir():
            raise ReleaseError(f"{root / pair}: has no folder data; expected {pair}/data/SPLIT")
        return Release(root / pair / "data", tgt_lang)
    if (root / "data").is_dir():
        there = _languages_of_texts(root / "data")
        if root.resolve().name == pair or tgt_lang in there:
            return Release(root / "data", tgt_lang)
    else:
        there = sorted(
            folder.name.removeprefix(f"{SOURCE_LANGUAGE}-")
            for folder in root.glob(f"{SOURCE_LANGUAGE}-*")
            if folder.is_dir()
        )
    found = f"languages found: {' '.join(there)}" if there else "no language found there"
    raise ReleaseError(
        f"{root}: has no {pair} (--tgt-lang {tgt_lang}); {found}; expected {pair}/data/SPLIT"
    )


def find_splits(release: Release, wanted: Sequence[str] | None = None) -> list[str]:
    """The splits to prepare: ``wanted``, or all of :data:`SPLITS` that exist; layout checked.

    Raises ReleaseError for a split, a text file or an audio folder that is not there.
    """
    there = sorted(folder.name for folder in release.data.iterdir() if folder.is_dir())
    if wanted is None:
        splits = [split for split in SPLITS if split in there]
        ignored = [split for split in there if split not in SPLITS]
        if ignored:
            logger.info("not prepared (name them with --splits): %s", " ".join(ignored))
    else:
        splits = list(dict.fromkeys(wanted))
    missing = [split for split in splits if split not in there]
    if missing or not splits:
        raise ReleaseError(
            f"{release.data}: no split {' '.join(missing or SPLITS)}; "
            f"found {' '.join(there) or 'no folder at all'}"
        )
    for split in splits:
        _check_layout(release, split)
    return splits


def _languages_of_texts(data: Path) -> list[str]:
    found = {file.suffix[1:] for file in data.glob("*/txt/*.*") if file.stem == file.parts[-3]}
    return sorted(found - {"yaml", SOURCE_LANGUAGE})


def _check_layout(release: Release, split: str) -> None:
    for suffix in ("yaml", release.src_lang, release.tgt_lang):
        path = release.text_file(split, suffix)
        if not path.is_file():
            there = sorted(file.name for file in path.parent.glob("*"))
            raise ReleaseError(
                f"{path}: missing; {path.parent} holds {' '.join(there) or 'nothing'}; expected "
                f"{split}.yaml, {split}.{release.src_lang} and {split}.{release.tgt_lang}"
            )
    folder = release.audio_folder(split)
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: missing; expected the folder with the audio of {split}")


def read_split(release: Release, split: str) -> tuple[list[Row], list[str], list[str]]:
    """Rows, source lines and target lines of a split, equally many, as they stand in the files.

    Raises ReleaseError for broken rows and for files of different length.
    """
    yaml_file = release.text_file(split, "yaml")
    rows = read_rows(yaml_file)
    texts = []
    for language in (release.src_lang, release.tgt_lang):
        path = release.text_file(split, language)
        lines = read_lines(path, ReleaseError)
        while len(lines) > len(rows) and not lines[-1].strip():
            lines.pop()
        if len(lines) != len(rows):
            raise ReleaseError(
                f"{path}: {len(lines)} lines, but {yaml_file} has {len(rows)} rows; line n must "
                f"belong to row n: fetch the release again or mend the file"
            )
        texts.append(lines)
    return rows, texts[0], texts[1]


def read_rows(path: Path) -> list[Row]:
    """The rows of a ``SPLIT.yaml``; keys beyond those of :class:`Row` are ignored.

    Raises ReleaseError, ``path:line: ...``, for what is no YAML, or no list of segments.
    """
    lines = read_lines(path, ReleaseError)
    starts = _row_starts(lines)
    cuts = starts[_YAML_ROWS_AT_ONCE::_YAML_ROWS_AT_ONCE]
    rows: list[Row] = []
    try:
        for begin, end in tqdm(
            list(zip([0, *cuts], [*cuts, len(lines)])), desc=path.name, unit="block", disable=None
        ):
            _append_rows(rows, _load_yaml("\n".join(lines[begin:end])), path, starts)
    except yaml.YAMLError:
        if cuts:
            # A block cannot refer to an anchor in another; and now the error's line is the file's.
            rows.clear()
        rows = _read_rows_at_once(path, lines, starts)
    if not rows:
        raise ReleaseError(f"{path}: holds no segments; expected a list of {{duration: ...}} rows")
    return rows


def _row_starts(lines: list[str]) -> list[int]:
    """Of each row the line that it starts in, from 0; of fewer rows in a style without dashes."""
    return [number for number, line in enumerate(lines) if line.startswith("- ")]


def _row_place(path: Path, number: int, starts: list[int]) -> str:
    """``path:line: row N`` of the row of that number, which counts from 0."""
    line = starts[number] + 1 if number < len(starts) else number + 1
    return f"{path}:{line}: row {number + 1}"


def _read_rows_at_once(path: Path, lines: list[str], starts: list[int]) -> list[Row]:
    rows: list[Row] = []
    try:
        _append_rows(rows, _load_yaml("\n".join(lines)), path, starts)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ReleaseError(
            f"{path}{line}: is not valid YAML ({problem}); expected rows like "
            f"'- {{duration: 3.5, offset: 16.08, speaker_id: spk.1, wav: ted_1.wav}}'"
        ) from None
    return rows


@functools.cache
def _yaml_loader() -> type:
    try:
        return yaml.CSafeLoader
    except AttributeError:
        logger.warning("PyYAML lacks its C loader: reading the yaml files takes ten times as long")
        return yaml.SafeLoader


def _load_yaml(text: str) -> Any:
    return yaml.load(text, _yaml_loader())


def _append_rows(rows: list[Row], document: Any, path: Path, starts: list[int]) -> None:
    if document is None:
        return
    if not isinstance(document, list):
        raise ReleaseError(f"{path}: a {type(document).__name__}; expected a list of segments")
    for item in document:
        try:
            rows.append(_parse_row(item))
        except ValueError as error:
            raise ReleaseError(f"{_row_place(path, len(rows), starts)}: {error}") from None


def _parse_row(item: Any) -> Row:
    if not isinstance(item, dict):
        raise ValueError(f"{item!r:.80}; expected a mapping with wav, offset and duration")
    wav = item.get("wav")
    if wav is None or not str(wav).strip():
        raise ValueError(f"no wav in {item!r:.200}; expected the name of an audio file")
    speaker = item.get("speaker_id")
    return Row(
        str(wav),
        _parse_seconds(item, "offset"),
        _parse_seconds(item, "duration"),
        "" if speaker is None else clean_text(str(speaker)),
    )


def _parse_seconds(item: dict, key: str) -> float:
    value = item.get(key)
    try:
        # YAML 1.1 takes 1e-3 for a string; booleans, in contrast, are numbers to Python.
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{key} is {value!r}; expected a number of seconds, 0 or more")
    return seconds


def segment_ids(rows: Sequence[Row]) -> list[str]:
    """An id for each row: the talk's name and the segment's rank in it by time, ``ted_767_12``.

    All rows are counted, kept or not, so that ids do not depend on what is dropped.
    """
    by_talk: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_talk.setdefault(row.wav, []).append(number)
    names = _talk_names(by_talk)
    ids = [""] * len(rows)
    for wav, numbers in by_talk.items():
        numbers.sort(key=lambda number: (rows[number].offset, number))
        for rank, number in enumerate(numbers):
            ids[number] = f"{names[wav]}_{rank}"
    return ids


def _talk_names(wavs: Iterable[str]) -> dict[str, str]:
    """A name for each file: its stem; with folders and suffix where stems would coincide."""
    names, taken = {}, set()
    for wav in wavs:
        parts = Path(wav).with_suffix("").parts
        candidates = [parts[-1], "_".join(parts).strip("/_"), wav]
        candidates += (f"{parts[-1]}.{count}" for count in range(2, len(taken) + 3))
        names[wav] = next(
            name for name in map(clean_text, candidates) if name and name not in taken
        )
        taken.add(names[wav])
    return names


class AudioFolder:
    """Finds the audio that a release's yaml names, even if it was moved or converted."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> str | None:
        """Path relative to the folder of the file called ``name``, or None.

        In this order: that very path; that file name in any sub-folder and case; the same stem
        with another audio suffix.  Raises ReleaseError if several files fit equally well.
        """
        if (self.folder / name).is_file():
            return name
        plain = Path(name).name.lower()
        return self._only(name, self._by_name.get(plain)) or self._only(
            name, self._by_stem.get(Path(plain).stem)
        )

    def find_segment(self, segment_id: str) -> str | None:
        """Path of the file that holds one segment alone, ``ted_767_12.npy``, or None."""
        return self._only(segment_id, self._by_stem.get(segment_id.lower()))

    def _only(self, name: str, paths: list[str] | None) -> str | None:
        if paths and len(paths) > 1:
            raise ReleaseError(
                f"{self.folder}: {name} may be any of {', '.join(sorted(paths)[:3])}; write in the "
                f"yaml the path within this folder"
            )
        return paths[0] if paths else None

    @functools.cached_property
    def _files(self) -> list[str]:
        return [
            os.path.relpath(os.path.join(parent, name), self.folder)
            for parent, _, names in os.walk(self.folder)
            for name in names
            if name.lower().endswith(AUDIO_SUFFIXES)
        ]

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _group(self._files, lambda path: Path(path).name.lower())

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _group(self._files, lambda path: Path(path).stem.lower())


def _group(items: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def locate_audio(
    release: Release, split: str, rows: Sequence[Row], ids: Sequence[str]
) -> list[Place]:
    """The file of each row, its path relative to ``release.data``.

    Raises ReleaseError naming the first row whose file is missing, and how many files are.
    """
    folder = AudioFolder(release.audio_folder(split))
    prefix = f"{split}/wav"
    talks: dict[str, str | None] = {}
    places, missing = [], {}
    for number, row in enumerate(rows):
        if row.wav not in talks:
            talks[row.wav] = folder.find(row.wav)
        path = talks[row.wav]
        precut = path is None
        if path is None:
            path = folder.find_segment(ids[number])
        if path is None:
            missing.setdefault(row.wav, number)
            path = ""
        places.append(Place(path if os.path.isabs(path) else f"{prefix}/{path}", precut))
    if missing:
        wav, number = next(iter(missing.items()))
        raise ReleaseError(
            f"{folder.folder}: no {wav} (row {number + 1} of {split}.yaml), nor {ids[number]}.npy "
            f"with that segment alone; {len(missing)} of {len(talks)} audio files are missing: "
            f"fetch the release again"
        )
    return places


def read_headers(
    release: Release, places: Iterable[Place], workers: int
) -> dict[str, AudioInfo | AudioError]:
    """Rate and length of every file, each opened once; an AudioError where that failed."""

    def read(path: str) -> AudioInfo | AudioError:
        try:
            return audio_info(release.data / path)
        except AudioError as error:
            return error

    paths = list(dict.fromkeys(place.path for place in places))
    return dict(zip(paths, _in_threads(read, paths, workers, "audio headers")))


def prepare_split(
    release: Release,
    split: str,
    limits: Limits,
    check_audio: bool = False,
    workers: int = 1,
    sample_audio: bool = True,
) -> tuple[list[Segment], SplitReport]:
    """The segments of a split that can be used, talk by talk in order of time, and a report.

    Audio paths are relative to ``release.data``.  With ``check_audio`` each segment is decoded,
    and those that are silent, unreadable, past the end or not finite are dropped; without, a file
    whose header cannot be read and a segment past its file's end are errors, and with
    ``sample_audio`` so is a recording that proves silent or broken where it is looked into.

    Raises ReleaseError for a release that contradicts itself, or a split of which nothing is left.
    """
    rows, sources, targets = read_split(release, split)
    ids = segment_ids(rows)
    places = locate_audio(release, split, rows, ids)
    headers = read_headers(release, places, workers)
    _refuse_unreadable(split, headers, check_audio)
    report = SplitReport(len(rows), len(headers))
    dropped: collections.Counter[str] = collections.Counter()
    past_end: list[tuple[int, str]] = []
    segments = []
    for number in _by_talk_and_time(rows):
        row, place, info = rows[number], places[number], headers[places[number].path]
        source, target = clean_text(sources[number]), clean_text(targets[number])
        report.texts_normalised += source != sources[number].strip()
        report.texts_normalised += target != targets[number].strip()
        span = _usable_span(row, place, info, limits, split) if source and target else NO_TEXT
        if isinstance(span, str):
            dropped[span] += 1
            if span == PAST_END:
                past_end.append((number, _past_end_message(release, row, place, info)))
            continue
        report.longer_than_limit_but_kept += span.n_frames > limits.max_frames
        report.clipped_at_end += span.overhang > 0
        segments.append(
            Segment(
                ids[number],
                f"{place.path}:{span.offset}:{span.frames}",
                span.n_frames,
                target,
                row.speaker,
                source,
                release.src_lang,
                release.tgt_lang,
            )
        )
    _refuse_past_end(release.text_file(split, "yaml"), past_end, check_audio)
    if check_audio:
        segments = _drop_unusable(release, segments, dropped, workers)
    elif sample_audio:
        _look_into(release, segments, workers)
    report.dropped = dict(dropped)
    return segments, _complete(report, release, split, segments)


def _by_talk_and_time(rows: Sequence[Row]) -> list[int]:
    """Row numbers, talks in the order in which they first occur, segments by offset as a number."""
    first = {}
    for row in rows:
        first.setdefault(row.wav, len(first))
    return sorted(range(len(rows)), key=lambda n: (first[rows[n].wav], rows[n].offset, n))


class _Span(NamedTuple):
    """A segment in its file: offset, length and what was cut off it, in samples of the file."""

    offset: int
    frames: int
    n_frames: int
    overhang: int


def _usable_span(
    row: Row, place: Place, info: AudioInfo | AudioError, limits: Limits, split: str
) -> _Span | str:
    """Where a row's sound lies, or the reason why it cannot be used."""
    if isinstance(info, AudioError):
        return UNREADABLE
    span = _span(row, place, info)
    if span.overhang > END_TOLERANCE_SECONDS * info.sample_rate or span.offset >= info.frames:
        return PAST_END
    if span.frames == 0 or span.n_frames < limits.min_frames:
        return TOO_SHORT
    if span.n_frames > limits.max_frames and split.startswith("train"):
        return TOO_LONG
    return span


def _span(row: Row, place: Place, info: AudioInfo) -> _Span:
    """Convert a row's seconds to samples, cut at the end of the file."""
    offset = round(row.offset * info.sample_rate)
    frames = round(row.duration * info.sample_rate)
    overhang = offset + frames - info.frames
    if place.precut or _seems_precut(place, info, frames, overhang):
        offset, frames, overhang = 0, info.frames, 0
    frames -= max(0, overhang)
    return _Span(offset, frames, resampled_length(frames, info.sample_rate), overhang)


def _seems_precut(place: Place, info: AudioInfo, frames: int, overhang: int) -> bool:
    """Whether an .npy file is the segment itself, though its row still has the talk's offset."""
    tolerance = PRECUT_TOLERANCE_SECONDS * info.sample_rate
    is_npy = place.path.lower().endswith(".npy")
    return is_npy and overhang > tolerance and abs(info.frames - frames) <= tolerance


def _past_end_message(release: Release, row: Row, place: Place, info: AudioInfo) -> str:
    return (
        f"ends at {row.offset + row.duration:.2f} s, but {release.data / place.path} at "
        f"{info.frames / info.sample_rate:.2f} s"
    )


def _refuse_past_end(path: Path, past_end: list[tuple[int, str]], check_audio: bool) -> None:
    """Raise ReleaseError, or log, for rows (number and message) of the yaml at ``path``."""
    if not past_end:
        return
    starts = _row_starts(read_lines(path, ReleaseError))
    messages = [
        f"{_row_place(path, number, starts)}: {message}"
        for number, message in sorted(past_end)[:_WARNINGS_SHOWN]
    ]
    if not check_audio:
        raise ReleaseError(
            f"{messages[0]} ({len(past_end)} such rows in all); fetch the audio again, mend the "
            f"yaml, or let --check-audio drop such segments"
        )
    for message in messages:
        logger.warning("dropped: %s", message)


def _refuse_unreadable(
    split: str, headers: dict[str, AudioInfo | AudioError], check_audio: bool
) -> None:
    errors = [info for info in headers.values() if isinstance(info, AudioError)]
    if errors and not check_audio:
        raise ReleaseError(
            f"{errors[0]} ({len(errors)} of {len(headers)} audio files of {split} are unusable; "
            f"--check-audio drops their segments)"
        )
    for error in errors[:_WARNINGS_SHOWN]:
        logger.warning("dropped: all segments of %s", error)


def _look_into(release: Release, segments: list[Segment], workers: int) -> None:
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
            second = audio_info(release.data / path).sample_rate
            starts = (dataclasses.replace(at, frames=min(at.frames, second)) for at in places)
            if all(is_silent(read_audio(str(at), release.data)) for at in (*starts, *places)):
                return f"{release.data / path}: is silent"
        except AudioError as error:
            return str(error)
        return None

    found = _in_threads(problem, chosen, workers, "looking into recordings")
    if problems := [message for message in found if message]:
        raise ReleaseError(
            f"{problems[0]} ({len(problems)} of {len(chosen)} recordings that were looked into are "
            f"silent or broken; fetch them again, or let --check-audio drop such segments)"
        )


def _drop_unusable(
    release: Release, segments: list[Segment], dropped: collections.Counter[str], workers: int
) -> list[Segment]:
    """Decode every segment; return those with sound, count the others."""

    def problem(segment: Segment) -> tuple[str, str] | None:
        try:
            wave = read_audio(segment.audio, release.data)
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
        if shown <= _WARNINGS_SHOWN:
            logger.warning("dropped %s: %s", segment.id, message)
    return kept


def _complete(
    report: SplitReport, release: Release, split: str, segments: list[Segment]
) -> SplitReport:
    """Fill in what is known once the segments are chosen; refuse a split of which none is left."""
    if not segments:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in report.dropped.items())
        raise ReleaseError(
            f"{release.text_file(split, 'yaml')}: none of {report.rows} segments can be used "
            f"({reasons}); check the files, or --min-frames and --max-frames"
        )
    report.segments = len(segments)
    report.hours = round(sum(s.n_frames for s in segments) / SAMPLE_RATE / 3600, 4)
    report.duplicates = len(segments) - len({(s.audio, s.src_text, s.tgt_text) for s in segments})
    if report.longer_than_limit_but_kept:
        logger.warning(
            "%s: kept %d segments longer than --max-frames, so that scores remain comparable; "
            "fairseq may need a higher --max-tokens for them",
            split,
            report.longer_than_limit_but_kept,
        )
    return report


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
