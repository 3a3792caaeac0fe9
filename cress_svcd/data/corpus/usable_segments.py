"""The segments of a split that can be used, out of its utterances and their audio."""

import collections
import logging
import math
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cress_svcd.data.audio import SAMPLE_RATE, AudioInfo, resampled_length
from cress_svcd.data.corpus.audio_checks import drop_unusable, look_into_recordings, read_headers
from cress_svcd.data.corpus.corpus import Corpus, Utterance
from cress_svcd.data.corpus.manifest import Segment
from cress_svcd.data.corpus.split_report import (
    NO_TEXT,
    PAST_END,
    TOO_LONG,
    TOO_SHORT,
    UNREADABLE,
    WARNINGS_SHOWN,
    Limits,
    SplitReport,
)
from cress_svcd.data.corpus.text import clean_text
from cress_svcd.errors import AudioError, ReleaseError

logger = logging.getLogger(__name__)

# A segment may run so far past its talk's end (rounded offsets, cut silence): it is clipped.
END_TOLERANCE_SECONDS = 0.1
# How far the length of a file with one segment may differ from the segment's.
PRECUT_TOLERANCE_SECONDS = 0.1


def prepare_split(
    corpus: Corpus,
    split: str,
    limits: Limits,
    check_audio: bool = False,
    workers: int = 1,
    sample_audio: bool = True,
) -> tuple[list[Segment], SplitReport]:
    """The segments of a split that can be used, talk by talk in order of time, and a report.

    Audio paths are relative to ``corpus.audio_root``.  With ``check_audio`` each segment is
    decoded, and those that are silent, unreadable, past the end or not finite are dropped; without,
    a file whose header cannot be read and a segment past its file's end are errors, and with
    ``sample_audio`` so is a recording that proves silent or broken where it is looked into.

    Raises ReleaseError for a corpus that contradicts itself, or a split of which nothing is left.
    """
    utterances = corpus.read(split)
    _refuse_unusual(corpus.listing(split), utterances)
    audio_root = corpus.audio_root
    headers = read_headers(audio_root, [utterance.audio for utterance in utterances], workers)
    _refuse_unreadable(split, headers, check_audio)
    report = SplitReport(len(utterances), len(headers))
    dropped: collections.Counter[str] = collections.Counter()
    past_end: list[tuple[int, str]] = []
    segments = []
    for number in _by_recording_and_time(utterances):
        utterance = utterances[number]
        info = headers[utterance.audio]
        source, target = clean_text(utterance.source), clean_text(utterance.target)
        report.texts_normalised += source != utterance.source.strip()
        report.texts_normalised += target != utterance.target.strip()
        span = _usable_span(utterance, info, limits, split) if source and target else NO_TEXT
        if isinstance(span, str):
            dropped[span] += 1
            if span == PAST_END:
                past_end.append((number, _past_end_message(audio_root, utterance, info)))
            continue
        report.longer_than_limit_but_kept += span.n_frames > limits.max_frames
        report.clipped_at_end += span.overhang > 0
        segments.append(
            Segment(
                utterance.id,
                f"{utterance.audio}:{span.offset}:{span.frames}",
                span.n_frames,
                target,
                utterance.speaker,
                source,
                corpus.src_lang,
                corpus.tgt_lang,
            )
        )
    listing = corpus.listing(split)
    _refuse_past_end(listing, utterances, past_end, check_audio)
    if check_audio:
        segments = drop_unusable(audio_root, segments, dropped, workers)
    elif sample_audio:
        look_into_recordings(audio_root, segments, workers)
    report.dropped = dict(dropped)
    return segments, _complete(report, listing, split, segments)


def _refuse_unusual(listing: Path, utterances: Sequence[Utterance]) -> None:
    """Raise ReleaseError for times that are no numbers, and for names and texts that are no text.

    A reader may hand on what stood in its file: a null of JSON, or 0,75 with a comma.
    """
    for number, utterance in enumerate(utterances):
        for key in ("offset", "duration"):
            value = getattr(utterance, key)
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (is_number and math.isfinite(value) and value >= 0):
                raise ReleaseError(
                    f"{listing}:{utterance.line}: row {number + 1}: {key} is {value!r:.80}; "
                    f"expected a number of seconds, 0 or more"
                )
        for key in ("id", "recording", "audio", "source", "target", "speaker"):
            value = getattr(utterance, key)
            if not isinstance(value, str):
                raise ReleaseError(
                    f"{listing}:{utterance.line}: row {number + 1}: {key} is {value!r:.80}; "
                    f"expected text"
                )


def _by_recording_and_time(utterances: Sequence[Utterance]) -> list[int]:
    """Their numbers, recordings in the order in which they first occur, each by offset."""
    first: dict[str, int] = {}
    for utterance in utterances:
        first.setdefault(utterance.recording, len(first))
    keys = [(first[u.recording], u.offset, number) for number, u in enumerate(utterances)]
    return [number for _, _, number in sorted(keys)]


class _Span(NamedTuple):
    """A segment in its file: offset, length and what was cut off it, in samples of the file."""

    offset: int
    frames: int
    n_frames: int
    overhang: int


def _usable_span(
    utterance: Utterance, info: AudioInfo | AudioError, limits: Limits, split: str
) -> _Span | str:
    """Where an utterance's sound lies, or the reason why it cannot be used."""
    if isinstance(info, AudioError):
        return UNREADABLE
    span = _span(utterance, info)
    if span.overhang > END_TOLERANCE_SECONDS * info.sample_rate or span.offset >= info.frames:
        return PAST_END
    if span.frames == 0 or span.n_frames < limits.min_frames:
        return TOO_SHORT
    if span.n_frames > limits.max_frames and split.startswith("train"):
        return TOO_LONG
    return span


def _span(utterance: Utterance, info: AudioInfo) -> _Span:
    """Convert an utterance's seconds to samples, cut at the end of the file."""
    offset = round(utterance.offset * info.sample_rate)
    frames = round(utterance.duration * info.sample_rate)
    overhang = offset + frames - info.frames
    if utterance.precut or _seems_precut(utterance.audio, info, frames, overhang):
        offset, frames, overhang = 0, info.frames, 0
    frames -= max(0, overhang)
    return _Span(offset, frames, resampled_length(frames, info.sample_rate), overhang)


def _seems_precut(audio: str, info: AudioInfo, frames: int, overhang: int) -> bool:
    """Whether an .npy file is the segment itself, though the offset is still the talk's."""
    tolerance = PRECUT_TOLERANCE_SECONDS * info.sample_rate
    is_npy = audio.lower().endswith(".npy")
    return is_npy and overhang > tolerance and abs(info.frames - frames) <= tolerance


def _past_end_message(audio_root: Path, utterance: Utterance, info: AudioInfo) -> str:
    return (
        f"ends at {utterance.offset + utterance.duration:.2f} s, but "
        f"{audio_root / utterance.audio} at {info.frames / info.sample_rate:.2f} s"
    )


def _refuse_past_end(
    listing: Path,
    utterances: Sequence[Utterance],
    past_end: list[tuple[int, str]],
    check_audio: bool,
) -> None:
    """Raise ReleaseError, or log, for those that ``past_end`` has by number, with a message."""
    if not past_end:
        return
    messages = [
        f"{listing}:{utterances[number].line}: row {number + 1}: {message}"
        for number, message in sorted(past_end)[:WARNINGS_SHOWN]
    ]
    if not check_audio:
        raise ReleaseError(
            f"{messages[0]} ({len(past_end)} such rows in all); fetch the audio again, mend the "
            f"{listing.suffix[1:]}, or let --check-audio drop such segments"
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
    for error in errors[:WARNINGS_SHOWN]:
        logger.warning("dropped: all segments of %s", error)


def _complete(
    report: SplitReport, listing: Path, split: str, segments: list[Segment]
) -> SplitReport:
    """Fill in what is known once the segments are chosen; refuse a split of which none is left."""
    if not segments:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in report.dropped.items())
        raise ReleaseError(
            f"{listing}: none of {report.rows} segments can be used ({reasons}); check the "
            f"files, or --min-frames and --max-frames"
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
