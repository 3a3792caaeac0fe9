"""What is left of recordings that are damaged within, where their headers say nothing of it."""

from dataclasses import replace

from cress_svcd.data.audio_decoding import (
    Recording,
    Section,
    UndecodableError,
    count_samples,
    file_key,
    is_first,
    keep,
    warn_once,
)
from cress_svcd.data.audio_flac import frames_behind, runs_of
from cress_svcd.data.audio_streams import Stream
from cress_svcd.errors import AudioError


def say_gaps(recording: Recording) -> None:
    """Warn, once a file, of frames that are missing in FLAC, for which libFLAC gives silence."""
    key = file_key(recording.path)
    if not is_first(key, "gaps"):
        return
    for section in recording.sections:
        gaps = [part.loss for part in runs_of(recording.path, section.stream) if part.loss]
        if gaps:
            loss = f"{len(gaps)} gaps, the first of {gaps[0]}" if gaps[1:] else gaps[0]
            warn_once(key, f"{recording.path}: {loss}: silence stands there")


def shorten(recording: Recording, section: Section, error: UndecodableError) -> Recording:
    """The recording without what cannot be decoded of a section, for now and from now on."""
    path, rate = recording.path, recording.rate
    kept, losses = _sound_of(path, section)
    if not losses:
        raise AudioError(f"{path}: is damaged ({error}); fetch or convert it again")
    sections: list[Section] = []
    offset = 0
    for other in recording.sections:
        for stream, length in kept if other == section else [(other.stream, other.frames)]:
            if length:
                sections.append(Section(stream, offset, length, other.channels))
            offset += length
    if not sections:
        raise AudioError(
            f"{path}: is damaged: nothing of it can be decoded ({error}); fetch or convert it again"
        )
    at = (section.offset + losses[0][0]) / rate
    lost = sum(count for _, count in losses) / rate
    where = (
        f"from {at:.1f} s on" if len(losses) == 1 else f"in {len(losses)} places from {at:.1f} s on"
    )
    loss = f"{lost:.1f} s {where} cannot be decoded ({error})"
    shorter = replace(recording, sections=tuple(sections), losses=(*recording.losses, loss))
    keep(shorter)
    return shorter


def _sound_of(
    path: str, section: Section
) -> tuple[list[tuple[Stream, int]], list[tuple[int, int]]]:
    """What of a section decodes, as streams and their samples; and (place, samples) of what not."""
    if len(runs := runs_of(path, section.stream)) > 1:
        return _sound_of_runs(path, section, runs)
    first, end = section.stream.skip, section.stream.skip + section.frames
    stream, done = section.stream, count_samples(path, section)
    kept, losses = [(stream, done)], []
    others = frames_behind(path, replace(stream, frames=section.frames))
    while (position := stream.skip + done) < end:
        stream = next((other for other in others if other.skip > position), None)
        behind = end if stream is None else stream.skip
        losses.append((position - first, behind - position))
        if stream is None:
            break
        done = count_samples(path, Section(stream, 0, end - stream.skip, section.channels))
        kept.append((stream, done))
    return kept, losses


def _sound_of_runs(
    path: str, section: Section, runs: list[Stream]
) -> tuple[list[tuple[Stream, int]], list[tuple[int, int]]]:
    """As :func:`_sound_of`, of a section that consists of runs of frames."""
    kept: list[tuple[Stream, int]] = []
    losses: list[tuple[int, int]] = []
    end = 0
    for run in runs:
        if run.skip > end:
            losses.append((end, run.skip - end))
        run_kept, run_losses = _sound_of(path, Section(run, 0, run.frames or 0, section.channels))
        kept += run_kept
        losses += [(run.skip + place, count) for place, count in run_losses]
        end = run.skip + (run.frames or 0)
    if section.frames > end:
        losses.append((end, section.frames - end))
    return kept, losses
