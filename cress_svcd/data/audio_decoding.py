"""What can be decoded of a file, by libsndfile: its length, and the samples of any part of it."""

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from cress_svcd.data.audio_containers import streams_of
from cress_svcd.data.audio_mixing import (
    Look,
    find_noise,
    mix_block,
    mixing_blocks,
    noise_remark,
)
from cress_svcd.data.audio_samples import mend
from cress_svcd.data.audio_streams import Stream
from cress_svcd.data.audio_views import Sound
from cress_svcd.errors import AudioError

logger = logging.getLogger(__name__)

# Ogg codecs carry state from packet to packet: after a seek, Opus needs up to two seconds until its
# output is bit for bit that of a decoder which has heard everything (measured, libsndfile 1.2.2).
_OGG_PREROLL_SECONDS = 2
# MP3 packets borrow bits from those before them: without these the first 0.1 s is distorted.
_MP3_PREROLL_SECONDS = 1
_CHUNK_SAMPLES = 1 << 18
# Headers can announce anything: larger lengths are counted before they are believed.
_MOST_FRAMES = 1 << 40
_HEADLESS_SUFFIXES = (".au", ".snd")
# The last packet of a codec that counts none may give so many samples too many.
_FILLED_SAMPLES = 64
_LEAST_RATE = 1_000
# How far apart two lengths must be to count as two.
_SAME_SECONDS = 0.01
_REMEMBERED = 1 << 14
_DAMAGED_PACKETS = "has damaged packets; some hundredths of a second are lost at each"


class UndecodableError(Exception):
    """The decoder gave up.  ``position``: samples that it gave before, at least."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason.strip().rstrip(".") or "decoding failed")
        self.position = position


@dataclass(frozen=True)
class Section:
    """The sound of one stream: ``frames`` samples of each channel, from ``offset`` on."""

    stream: Stream
    offset: int
    frames: int
    channels: int


@dataclass(frozen=True)
class Recording:
    """A file as far as it can be decoded.

    Attributes:
        rate: samples a second.
        channels: of its beginning.
        announced: seconds that its header announces; None: it does not know.
        losses: what cannot be read, in words.
        floats: whether its samples are stored as floats, which may be anything.
    """

    path: str
    rate: int
    channels: int
    sections: tuple[Section, ...]
    announced: float | None
    losses: tuple[str, ...]
    floats: bool

    @property
    def frames(self) -> int:
        return sum(section.frames for section in self.sections)

    @property
    def remark(self) -> str:
        """What is to be said of its length, on one line; nothing, where the header is right."""
        there = self.frames / self.rate
        length = length_remark(there, there if self.announced is None else self.announced)
        if not length and not self.losses:
            return ""
        return "; ".join([f"{self.path}: {length or f'has {there:.1f} s'}", *self.losses])


def length_remark(there: float, announced: float) -> str:
    """Two lengths in seconds that differ, in words; nothing, if they do not."""
    if abs(there - announced) <= _SAME_SECONDS:
        return ""
    digits = 1 if min(abs(there - announced), there) >= 0.1 else 3
    if there < announced:
        return f"has {there:.{digits}f} s of the {announced:.{digits}f} s that its header announces"
    return (
        f"has {there:.{digits}f} s, which are read, though its header announces "
        f"{announced:.{digits}f} s"
    )


FileKey = tuple[str, int, int, int]
_recordings: dict[FileKey, Recording] = {}
_noise: dict[FileKey, tuple[int, ...]] = {}
# Hashes: a corpus may have a file for each of its 300,000 utterances, and each worker its own set.
_done: set[int] = set()
_lock = threading.Lock()


def file_key(path: str) -> FileKey:
    """What changes with a file."""
    status = os.stat(path)
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns


def open_recording(path: str, remark: bool = True) -> Recording:
    """What is in a file; examined once, as long as it does not change.

    ``remark``: warn, once a file, if its header is wrong about its length.  Raises AudioError if
    nothing of it can be decoded.
    """
    refuse_unless_file(path)
    key = file_key(path)
    recording = _recordings.get(key)
    if recording is None:
        recording = _examine(path)
        _remember(_recordings, key, recording)
    if remark:
        _say(key, recording)
    return recording


def _remember(known: dict[FileKey, Any], key: FileKey, value: Any) -> None:
    with _lock:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[key] = value


def keep(recording: Recording) -> None:
    """Take this for what is in the file from now on, and say what is to be said of it."""
    key = file_key(recording.path)
    _remember(_recordings, key, recording)
    _say(key, recording)


def _say(key: FileKey, recording: Recording) -> None:
    if recording.remark:
        warn_once(key, recording.remark)


def warn_once(file: object, remark: str, kind: str = "") -> None:
    """Log a remark on a file, unless this process has done so, or one of its kind."""
    if is_first(file, kind or remark):
        logger.warning("%s", remark)


def is_first(file: object, what: str) -> bool:
    """Whether this process asks so for the first time."""
    asked = hash((file, what))
    with _lock:
        first = asked not in _done
        _done.add(asked)
    return first


def _mode(path: str) -> int:
    """What kind of file it is; 0 if it is not there."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def refuse_unless_file(path: str) -> None:
    if not os.path.isfile(path):
        problem = "is no regular file" if os.path.exists(path) else "does not exist"
        if stat.S_ISFIFO(_mode(path)):
            raise AudioError(
                f"{path}: is a pipe; expected a file: write the sound to one, or give it to a "
                f"command's standard input"
            )
        raise AudioError(
            f"{path}: {problem}; expected an audio file (check the path, and in prepared data "
            "the key audio_root)"
        )
    if os.path.getsize(path) == 0:
        raise AudioError(f"{path}: is empty (0 bytes); fetch or convert it again")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path}: is not readable (permissions {os.stat(path).st_mode & 0o777:o})")


def _examine(path: str) -> Recording:
    sections: list[Section] = []
    losses: list[str] = []
    announced: float | None = None
    rate, frames_before, floats = 0, 0, False
    for stream in streams_of(path):
        if stream.loss and stream.loss not in losses:
            losses.append(stream.loss)
        try:
            with Sound(path, stream.parts) as sound:
                found_rate, channels, frames = sound.samplerate, sound.channels, sound.frames
                floats |= sound.subtype in ("FLOAT", "DOUBLE")
                if sound.format == "RAW" and path.lower().endswith(_HEADLESS_SUFFIXES):
                    # libsndfile takes whatever has no header for µ-law.
                    raise TypeError("it has no header")
        except (soundfile.LibsndfileError, TypeError) as error:
            # soundfile raises TypeError for .raw files, which have no header.
            reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
            if not sections:
                raise AudioError(
                    f"{path}: is not audio that libsndfile can read ({reason}); "
                    f"expected wav, flac, ogg or a waveform in .npy: convert it"
                ) from None
            losses.append(f"what follows cannot be read ({reason})")
            break
        if found_rate < _LEAST_RATE:
            raise AudioError(
                f"{path}: its header says {found_rate} samples a second; expected {_LEAST_RATE} or "
                f"more, for speech: fetch or convert it again"
            )
        by_decoder = frames
        frames = by_decoder - stream.skip if stream.frames is None else stream.frames
        if stream.uncounted or frames > _MOST_FRAMES:
            frames = count_samples(path, Section(stream, 0, frames, channels))
            if stream.announced_frames and 0 <= frames - stream.announced_frames <= _FILLED_SAMPLES:
                frames = stream.announced_frames
        if frames <= 0:
            continue
        if not sections:
            rate = found_rate
            if stream.announced is not None:
                announced = stream.announced * frames / rate
            if stream.announced_frames is not None:
                announced = stream.announced_frames / rate if stream.announced_frames else None
            elif stream.uncounted and stream.announced == 1:
                announced = by_decoder / rate
        if found_rate != rate:
            losses.append(
                f"the {frames / found_rate:.1f} s behind it are not read, for their rate is "
                f"{found_rate} Hz, not {rate} Hz: split the file there"
            )
            break
        sections.append(Section(stream, frames_before, frames, channels))
        frames_before += frames
    if not sections:
        raise AudioError(f"{path}: holds no samples that decode; fetch or convert it again")
    return Recording(
        path, rate, sections[0].channels, tuple(sections), announced, tuple(losses), floats
    )


def _chunks(frames: int, channels: int) -> Iterator[int]:
    size = max(1, _CHUNK_SAMPLES // channels)
    while frames > 0:
        yield min(size, frames)
        frames -= size


def _decode(
    path: str, section: Section, start: int, sizes: Iterable[int], seek: bool = True
) -> Iterator[np.ndarray]:
    """Samples (frames, channels) of a section from ``start`` on, so many at a time.

    Raises UndecodableError, after what came before, where there are no more.
    """
    skip = section.stream.skip
    target = start + skip
    with Sound(path, section.stream.parts) as sound:
        at = _place_before(sound, section.stream, target) if seek else 0
        try:
            if at or section.stream.late:
                sound.seek(at)
            for size in _chunks(target - at, section.channels):
                _read(sound, size, start)
        except (soundfile.LibsndfileError, UndecodableError) as error:
            if not at or section.stream.late:
                raise UndecodableError(0, str(error)) from None
            # Damage elsewhere may keep the decoder from finding its place.
            at = -1
        if at != -1:
            # The first frame may need another that never was in the file.
            before = sound.complaints + (start == 0)
            for size in sizes:
                wave = _read(sound, size, start)
                if sound.complaints > before:
                    warn_once(file_key(path), f"{path}: {_DAMAGED_PACKETS}", "damaged packets")
                start += len(wave)
                yield wave
            return
    yield from _decode(path, section, start, sizes, seek=False)


def _read(sound: Sound, size: int, position: int) -> np.ndarray:
    try:
        wave = sound.read(size, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UndecodableError(position, error.error_string) from None
    if len(wave) < size:
        raise UndecodableError(position, f"only {position + len(wave)} samples could be decoded")
    return wave


def _place_before(sound: Sound, stream: Stream, target: int) -> int:
    """The last sample from which on decoding gives exactly what it gives from the beginning."""
    start = target
    if stream.inexact_tail:
        # libsndfile lands up to thousands of samples off when it seeks into the last page of
        # Vorbis, whose granule position is cut to the stream's true length.
        start = min(start, sound.frames - stream.inexact_tail)
    if sound.format == "OGG":
        start -= _OGG_PREROLL_SECONDS * sound.samplerate
    elif sound.format == "MP3":
        start -= _MP3_PREROLL_SECONDS * sound.samplerate
    return max(0, start)


def count_samples(path: str, section: Section) -> int:
    """Samples of a section that can be decoded from its beginning on.

    What a decoder gave before an error is lost with the error, so its last steps are small.
    """
    done = 0
    for size in (1 << 16, 1 << 10, 1 << 5, 1):
        with Sound(path, section.stream.parts) as sound:
            try:
                skip = section.stream.skip
                if section.stream.late:
                    sound.seek(skip)
                for chunk in _chunks(done + (0 if section.stream.late else skip), section.channels):
                    _read(sound, chunk, 0)
                while done < section.frames:
                    count = min(size, section.frames - done)
                    wave = sound.read(count, dtype="float32", always_2d=True)
                    done += len(wave)
                    if len(wave) < count:
                        return done
                return done
            except (soundfile.LibsndfileError, UndecodableError):
                continue
    return done


def decode_mono(
    recording: Recording, section: Section, start: int, stop: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(channels mixed, which samples were broken) of a section, chunk by chunk.

    Raises UndecodableError.
    """
    path, channels = recording.path, section.channels
    if channels == 1 and not recording.floats:
        for wave in _decode(path, section, start, _chunks(stop - start, 1)):
            sound, flaws = mend(wave, by_others=False)
            yield sound[:, 0], flaws
        return
    noise = _noise_in(recording, channels)
    blocks = list(mixing_blocks(section.frames, recording.rate, start, stop))
    if not blocks:
        return
    sizes = (end - begin for begin, end in blocks)
    for (begin, _), wave in zip(blocks, _decode(path, section, blocks[0][0], sizes)):
        inside = slice(max(0, start - begin), stop - begin)
        sound, flaws = mend(wave)
        yield mix_block(sound, noise)[inside], flaws[inside]


def _noise_in(recording: Recording, channels: int) -> tuple[int, ...]:
    """The channels of steady noise, where a section has those of the beginning."""
    if channels != recording.channels:
        return ()

    def look(start: int, stop: int) -> np.ndarray:
        waves = [np.zeros((0, channels), np.float32)]
        for section in recording.sections:
            first = max(0, start - section.offset)
            size = min(stop - section.offset, section.frames) - first
            if size > 0 and section.channels == channels:
                with contextlib.suppress(UndecodableError):
                    (wave,) = _decode(recording.path, section, first, [size])
                    waves.append(mend(wave)[0])
        return np.concatenate(waves)

    return noise_in_file(recording.path, recording.frames, channels, recording.rate, look)


def noise_in_file(path: str, frames: int, channels: int, rate: int, look: Look) -> tuple[int, ...]:
    """The channels of steady noise, which are found, and said to be left out, once."""
    if channels == 1:
        return ()
    key = file_key(path)
    noise = _noise.get(key)
    if noise is None:
        noise = find_noise(frames, channels, rate, look)
        _remember(_noise, key, noise)
    if noise:
        warn_once(key, f"{path}: {noise_remark(noise, channels)}", "noise")
    return noise
