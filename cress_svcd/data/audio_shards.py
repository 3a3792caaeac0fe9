"""Segments of a manifest, one behind the other in a few large WAV files.

A network file system serves few large files, read by seeking, far better than thousands of talks
of which half is never read.  A shard is addressed as any recording is: ``file:offset:frames``.

Yet a shard is no recording: what stands next to a segment there was never next to it, and there are
no pauses.  The config of such a folder says so under :data:`SHARDED`.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from cress_svcd.atomic_files import replacing
from cress_svcd.data.audio import SAMPLE_RATE, AudioSpec, parse_audio_spec, read_audio
from cress_svcd.errors import AudioError
from cress_svcd.recipes.children import serve_parent

logger = logging.getLogger(__name__)

SHARDED = "sharded"
"""Key of ``config.yaml``: true in a folder that was written here."""

_FULL_SCALE = 32_768
# Sizes in a WAV file have 32 bits.
MOST_BYTES = 4_000_000_000
_SHARD = re.compile(r"(?s)([^/\\]+)-([0-9]{5,})\.wav")


@dataclass(frozen=True)
class Shard:
    """A file to be written, and what goes into it.

    Attributes:
        path: WAV file.
        audio: ``path[:offset:frames]`` of each segment.
        frames: length of each in samples at 16 kHz.
        root: folder that relative paths of ``audio`` start from.
        exact: float32 samples rather than 16 bits.
    """

    path: Path
    audio: Sequence[str]
    frames: Sequence[int]
    root: str
    exact: bool

    def specs(self) -> Iterator[AudioSpec]:
        """Where each segment lies in the shard, by its name alone."""
        start = 0
        for frames in self.frames:
            yield AudioSpec(self.path.name, start, frames)
            start += frames


def plan_shards(
    stem: Path, audio: Sequence[str], frames: Sequence[int], root: str, most_bytes: int, exact: bool
) -> list[Shard]:
    """Shards ``stem-00000.wav`` … of at most ``most_bytes`` (or one segment), in order."""
    most_samples = most_bytes // (4 if exact else 2)
    starts, samples = [0], 0
    for index, count in enumerate(frames):
        if samples and samples + count > most_samples:
            starts.append(index)
            samples = 0
        samples += count
    return [
        Shard(
            stem.with_name(f"{stem.name}-{number:05d}.wav"),
            list(audio[start:end]),
            [int(count) for count in frames[start:end]],
            root,
            exact,
        )
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(audio)]))
    ]


def is_sharded(config: Mapping, audio: Iterable[str]) -> bool:
    """Whether the segments of a prepared folder lie in shards.

    Args:
        config: of the folder; those of some time ago do not say it.
        audio: ``path[:offset:frames]`` of each segment of a manifest.
    """
    return config.get(SHARDED) is True or _lies_in_shards(audio)


def _lies_in_shards(audio: Iterable[str]) -> bool:
    """Whether all segments are named as in shards, and fill these without a gap."""
    files: dict[tuple[str, int], list[AudioSpec]] = {}
    for spec in map(parse_audio_spec, audio):
        match = _SHARD.fullmatch(spec.path)
        if match is None or spec.frames < 0:
            return False
        files.setdefault((match[1], int(match[2])), []).append(spec)
    for specs in files.values():
        end = 0
        for spec in sorted(specs, key=lambda spec: spec.offset):
            if spec.offset != end:
                return False
            end += spec.frames
    numbers: dict[str, set[int]] = {}
    for stem, number in files:
        numbers.setdefault(stem, set()).add(number)
    whole = all(found == set(range(len(found))) for found in numbers.values())
    # Of files with one segment each, it may be how a corpus names its own.
    return whole and any(len(specs) > 1 for specs in files.values())


def warn_of_shards(folder: str | os.PathLike, joins: bool = True) -> None:
    """Say in one line what varied cuts lack where segments lie in shards."""
    logger.warning(
        "%s: its audio was packed by shard-audio, segment behind segment: varied cuts let in no "
        "neighbouring speech%s; the folder that it was made of has both",
        os.fspath(folder),
        ", and no segments are joined" if joins else "",
    )


def write_shard(shard: Shard) -> int:
    """Write a shard, all or nothing.

    Returns:
        how many of its segments changed: those whose samples have more than 16 bits, by rounding.
    Raises:
        AudioError: a segment cannot be read, or has another length than announced.
    """
    rounded = 0
    subtype = "FLOAT" if shard.exact else "PCM_16"
    with (
        replacing(shard.path) as temporary,
        soundfile.SoundFile(
            os.fsencode(temporary), "w", SAMPLE_RATE, channels=1, format="WAV", subtype=subtype
        ) as file,
    ):
        for spec, frames in zip(shard.audio, shard.frames):
            wave = read_audio(spec, shard.root)
            if len(wave) != frames:
                raise AudioError(
                    f"{spec}: {len(wave)} samples at {SAMPLE_RATE} Hz, but the manifest says "
                    f"{frames}; prepare the data again"
                )
            if not shard.exact:
                # Not left to libsndfile, which multiplies by 32767 and divides by 32768.
                scaled = wave * _FULL_SCALE
                wave = np.clip(np.rint(scaled), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
                rounded += not np.array_equal(wave, scaled)
            file.write(wave)
    return rounded


def write_shards(shards: Sequence[Shard], workers: int) -> Iterator[tuple[Shard, int]]:
    """Write shards in parallel; each as it is done, in order, with its rounded segments."""
    if workers == 1:
        yield from ((shard, write_shard(shard)) for shard in shards)
        return
    with ProcessPoolExecutor(workers, initializer=serve_parent) as pool:
        yield from zip(shards, pool.map(write_shard, shards))
