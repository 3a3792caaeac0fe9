"""Cuts of speech as they come out of recordings, for training.

A corpus is cut by hand to the word; a recording is cut by a program, which starts early, ends
late, lets a neighbour in, and joins what belongs apart.  A model that has heard exact cuts alone
mistranslates what begins with a tenth of a second of silence.  So training hears other cuts of the
same segment in every epoch: the edges are moved, what stands around the segment in its recording is
let in (silence where there is nothing), and now and then noise, loudness and the band of a
telephone are changed.

Everything follows from the seed, the epoch and the number of the segment: a resumed training hears
what an uninterrupted one would.
"""

import contextlib
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soxr

from cress_svcd.data.audio import (
    SAMPLE_RATE,
    AudioSpec,
    audio_info,
    parse_audio_spec,
    read_audio,
    resampled_length,
)
from cress_svcd.data.augmentation.noise import coloured_noise
from cress_svcd.data.corpus.manifest import estimated_rates
from cress_svcd.errors import AudioError, ConfigError, ManifestError

if TYPE_CHECKING:
    import pandas  # its import takes a tenth of a second, and translating needs none of it

    from cress_svcd.data.augmentation.transforms import AudioTransforms

# Where an edge goes, in seconds outwards, and how often.
EDGES = ((0.3, -0.03, 0.0), (0.5, 0.0, 0.25), (0.2, 0.25, 1.0))
NEIGHBOUR_SECONDS = 0.15  # of speech that is another segment's
GAINS_DB, GAIN_SHARE = (-30.0, 6.0), 0.2
NOISES_DB, NOISE_SHARE = (10.0, 40.0), 0.25  # above the noise is the speech
TELEPHONE_RATE, TELEPHONE_SHARE = 8_000, 0.05
# Silence that is added is digital, or so far below the speech.
SILENCE_DB, DIGITAL_SHARE = (30.0, 60.0), 0.5
SHORTEST_SECONDS = 0.3
# Joined segments: at most so much stands between them, and so long are they together.
JOINED_GAP_SECONDS, JOINED_SECONDS = 1.5, 20.0
# By how many samples n_frames may miss the audio: programs round the length of resampled speech in
# other ways than ours, some from seconds.
LENGTH_TOLERANCE = 16


class Plan(NamedTuple):
    """What becomes of each segment in an epoch; arrays over the segments.

    Attributes:
        before, after: samples that are added at the edges; negative ones are left out.
        gain: in dB.
        snr: of noise, in dB; NaN: none.
        telephone: whether only the band of a telephone is left.
    """

    before: np.ndarray
    after: np.ndarray
    gain: np.ndarray
    snr: np.ndarray
    telephone: np.ndarray


@dataclass(frozen=True)
class CutVariation:
    """How much is varied.

    Attributes:
        share: of the segments, in each epoch; the others are heard as they are.
        seed: of everything.
    Raises:
        ConfigError: share is no share.
    """

    share: float
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"--vary-cuts is {self.share}, expected 0 (off) to 1")

    def plan(self, epoch: int, n_frames: np.ndarray, longest: int | None = None) -> Plan:
        """What becomes of segments of ``n_frames`` samples in an epoch.

        Args:
            longest: samples that no segment may exceed by what is added.
        """
        random, count = np.random.default_rng([self.seed, epoch]), len(n_frames)
        varied = random.random(count) < self.share
        budget = np.maximum(0, (np.inf if longest is None else longest) - n_frames)
        spare = np.maximum(0, n_frames - round(SHORTEST_SECONDS * SAMPLE_RATE)) // 2

        def edge() -> np.ndarray:
            moved = np.rint(self._edges(random, count) * SAMPLE_RATE)
            return np.where(varied, np.clip(moved, -spare, budget / 2), 0).astype(np.int64)

        before, after = edge(), edge()
        gain = np.where(random.random(count) < GAIN_SHARE, random.uniform(*GAINS_DB, count), 0)
        noisy = random.random(count) < NOISE_SHARE
        snr = np.where(noisy & varied, random.uniform(*NOISES_DB, count), np.nan)
        telephone = (random.random(count) < TELEPHONE_SHARE) & varied
        return Plan(before, after, np.where(varied, gain, 0), snr, telephone)

    @staticmethod
    def _edges(random: np.random.Generator, count: int) -> np.ndarray:
        shares, lows, highs = (np.array(column) for column in zip(*EDGES))
        kind = random.choice(len(EDGES), count, p=shares)
        return lows[kind] + (highs - lows)[kind] * random.random(count)


class Surroundings:
    """What stands around segments in their files, as far as other segments show it.

    Arrays over the segments, in samples of their files: ``gaps`` (2, segments), what is no other's
    before and after a segment; ``neighbours``, how long the next one there is, 0 without one.

    Args:
        audio: ``path[:offset:frames]`` of each segment.
        kept: False where the files hold segments alone, one behind the other (``shard-audio``):
            what stands next to a segment there never was its neighbour, and is not let in.
    """

    def __init__(self, audio: Iterable[str], kept: bool = True):
        specs = [parse_audio_spec(text) for text in audio]
        self.gaps = np.zeros((2, len(specs)), dtype=np.int64)
        self.neighbours = np.zeros_like(self.gaps)
        files: dict[str, list[int]] = {}
        for index, spec in enumerate(specs):
            if kept and spec.frames >= 0:
                files.setdefault(spec.path, []).append(index)
        for indices in files.values():
            self._look_around(np.array(indices), specs)

    def _look_around(self, indices: np.ndarray, specs: list[AudioSpec]) -> None:
        starts = np.array([specs[index].offset for index in indices])
        lengths = np.array([specs[index].frames for index in indices])
        ends = starts + lengths
        by_start, by_end = np.argsort(starts, kind="stable"), np.argsort(ends, kind="stable")
        # The last that ends before a segment begins, and the first that begins after its end.
        left = np.searchsorted(ends[by_end], starts, side="right") - 1
        right = np.searchsorted(starts[by_start], ends, side="left")
        has_left, has_right = left >= 0, right < len(indices)
        left, right = by_end[np.maximum(left, 0)], by_start[np.minimum(right, len(indices) - 1)]
        self.gaps[0, indices] = np.where(has_left, starts - ends[left], starts)
        self.gaps[1, indices] = np.where(has_right, starts[right] - ends, 0)
        self.neighbours[0, indices] = np.where(has_left, lengths[left], 0)
        self.neighbours[1, indices] = np.where(has_right, lengths[right], 0)

    def budget(self, index: int, rate: int) -> np.ndarray:
        """Samples before and after a segment that may be let in, in a file of this rate."""
        most = round(NEIGHBOUR_SECONDS * rate)
        return self.gaps[:, index] + np.minimum(self.neighbours[:, index], most)


class CutSegments:
    """Goes before a dataset of segments, which it reads as they are cut in the present epoch.

    Attributes:
        audio_root: put before relative paths.
        n_frames: samples of each segment at ``sample_rate``, as announced.
        cuts: how segments are cut otherwise; None: they are not.
        plan: of the epoch, if ``cuts`` has made one; ``surroundings`` belong to it.
        transforms: how segments are made to sound otherwise; None: they are not.
        speeds: of the segments in the epoch, if ``transforms`` has drawn them.
    """

    audio_root: str
    n_frames: np.ndarray
    sample_rate: int
    epoch: int = 1
    cuts: CutVariation | None = None
    plan: Plan | None = None
    surroundings: Surroundings | None = None
    transforms: "AudioTransforms | None" = None
    speeds: np.ndarray | None = None

    @property
    def epoch_lengths(self) -> np.ndarray:
        """Samples of each segment as it is cut, and as fast as it is, in this epoch."""
        lengths = self.n_frames
        if self.plan is not None:
            lengths = lengths + self.plan.before + self.plan.after
        return lengths if self.speeds is None else self.transforms.lengths(lengths, self.speeds)

    def draw_speeds(self, epoch: int, longest: int | None) -> None:
        """How fast the segments are in this epoch; after it is known how they are cut."""
        if self.transforms is not None:
            self.epoch, self.speeds = epoch, None
            self.speeds = self.transforms.speeds(epoch, self.epoch_lengths, longest)

    def read_segment(self, audio: str, index: int, where: str) -> np.ndarray:
        """A segment, as long as was announced, at the epoch's speed and as it sounds then.

        Args and exceptions as of ``read_cut``.
        """
        wave = self.read_cut(audio, index, where)
        if self.transforms is None:
            return wave
        return self.transforms.apply(wave, float(self.speeds[index]), self.epoch, index)

    def read_cut(self, audio: str, index: int, where: str) -> np.ndarray:
        """A segment, as long as was announced.

        Args:
            audio: ``path[:offset:frames]``.
            index: of the segment.
            where: it stands, for the beginning of messages.
        Raises:
            AudioError: as ``read_audio``.
            ManifestError: the segment has not the length that ``n_frames`` says.
        """
        n_frames = int(self.n_frames[index])
        try:
            if self.plan is None:
                wave = read_audio(audio, self.audio_root, self.sample_rate)
                check_length(len(wave), n_frames, audio, self.sample_rate)
                return wave
            random = np.random.default_rng([self.cuts.seed, self.epoch, index])
            plan, surroundings = self.plan, self.surroundings
            return read_varied(audio, self.audio_root, n_frames, plan, surroundings, index, random)
        except (AudioError, ManifestError) as error:
            raise type(error)(f"{where}{error}") from None


def read_varied(
    audio: str,
    root: str,
    n_frames: int,
    plan: Plan,
    surroundings: Surroundings,
    index: int,
    random: np.random.Generator,
) -> np.ndarray:
    """A segment as ``plan`` says, float32 at 16 kHz, of exactly so many samples.

    Args:
        audio: ``path[:offset:frames]``; ``root`` is put before relative paths.
        n_frames: samples of the segment at 16 kHz.
        index: of the segment in the plan and the surroundings.
    Raises:
        AudioError: as ``read_audio``.
        ManifestError: the segment has not the length that ``n_frames`` says.
    """
    before, after = int(plan.before[index]), int(plan.after[index])
    spec = parse_audio_spec(audio)
    inside = (max(0, before), max(0, after))
    real = (0, 0)  # samples of the recording itself that are let in
    if spec.frames >= 0 and any(inside):
        rate = _rate(os.path.join(root, spec.path))
        wanted = (round(samples * rate / SAMPLE_RATE) for samples in inside)
        check_length(resampled_length(spec.frames, rate), n_frames, audio)
        real = tuple(map(min, surroundings.budget(index, rate).tolist(), wanted))
        spec = AudioSpec(spec.path, spec.offset - real[0], spec.frames + sum(real))
        real = tuple(round(part * SAMPLE_RATE / rate) for part in real)
    wave = read_audio(spec, root)
    if not any(real):
        check_length(len(wave), n_frames, audio)
    speech = wave[real[0] : len(wave) - real[1]]
    loudness = float(np.sqrt(np.mean(np.square(speech)))) if len(speech) else 0.0
    wave = wave[max(0, -before) : len(wave) - max(0, -after)]
    pad = max(0, before - real[0]), max(0, after - real[1])
    wave = np.concatenate(
        [_silence(pad[0], loudness, random), wave, _silence(pad[1], loudness, random)]
    )
    wave = _of_length(wave, n_frames + before + after)
    return _disturb(wave, loudness, plan, index, random)


@functools.lru_cache(4096)
def _rate(path: str) -> int:
    return audio_info(path).sample_rate


def _silence(samples: int, loudness: float, random: np.random.Generator) -> np.ndarray:
    """Digital silence, or faint noise, as a recording has between sentences."""
    if random.random() < DIGITAL_SHARE:
        return np.zeros(samples, np.float32)
    level = loudness * 10 ** (-random.uniform(*SILENCE_DB) / 20)
    return (level * random.standard_normal(samples)).astype(np.float32)


def _of_length(wave: np.ndarray, samples: int) -> np.ndarray:
    """Resampling rounds: a sample more or less."""
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def _disturb(
    wave: np.ndarray, loudness: float, plan: Plan, index: int, random: np.random.Generator
) -> np.ndarray:
    """Noise, the band of a telephone, and another loudness, as the plan says."""
    snr, gain = float(plan.snr[index]), float(plan.gain[index])
    if not np.isnan(snr):
        wave = wave + loudness * 10 ** (-snr / 20) * coloured_noise(len(wave), random)
    if plan.telephone[index]:
        narrow = soxr.resample(wave, SAMPLE_RATE, TELEPHONE_RATE)
        wave = _of_length(soxr.resample(narrow, TELEPHONE_RATE, SAMPLE_RATE), len(wave))
    if gain:
        wave = np.clip(wave * 10 ** (gain / 20), -1, 1)
    return np.ascontiguousarray(wave, dtype=np.float32)


def check_length(samples: int, n_frames: int, audio: str, sample_rate: int = SAMPLE_RATE) -> None:
    """Raise ManifestError where a segment of ``samples`` is not as long as ``n_frames`` says.

    Both at ``sample_rate``; by ``n_frames`` batches are filled.
    """
    if abs(samples - n_frames) > LENGTH_TOLERANCE:
        raise ManifestError(
            f"column n_frames says {n_frames} samples at {sample_rate} Hz, but {audio} has "
            f"{samples}: batches are filled by n_frames; correct it, or the audio, or prepare the "
            "data again (prepare-mustc)"
        )


def with_joined(frame: "pandas.DataFrame", share: float, root: str = "") -> "pandas.DataFrame":
    """A manifest with rows for neighbours of a recording as one segment, as a cutter may join them.

    Args:
        frame: a manifest.
        share: rows that are added, for each row that there is; fewer where few can be joined.
        root: folder that relative paths of the recordings start from.
    Raises:
        ConfigError: share is no share.
    """
    import pandas

    if not 0 <= share <= 1:
        raise ConfigError(f"--join-segments is {share}, expected 0 (off) to 1")
    if not share:
        return frame
    specs = [parse_audio_spec(text) for text in frame["audio"]]
    rates = estimated_rates(specs, frame["n_frames"])
    languages = frame["tgt_lang"].tolist()
    joined = [
        row
        for row in range(len(specs) - 1)
        if languages[row] == languages[row + 1]
        and _can_join(specs[row], specs[row + 1], rates[specs[row].path])
    ]
    random = np.random.default_rng(len(frame))  # the same rows for features and for training
    count = min(len(joined), round(share * len(frame)))
    chosen = np.sort(random.permutation(joined)[:count]).astype(int)
    pairs = [(specs[row], specs[row + 1]) for row in chosen]
    for path in {first.path for first, _ in pairs}:
        # Cached features are trained on without the recordings, too.
        with contextlib.suppress(AudioError):
            rates[path] = _rate(os.path.join(root, path))
    return pandas.concat([frame, _join(frame, chosen, pairs, rates)], ignore_index=True)


def _can_join(first: AudioSpec, second: AudioSpec, rate: int) -> bool:
    gap = second.offset - first.offset - first.frames
    if first.path != second.path or min(first.frames, second.frames) <= 0 or gap < 0:
        return False
    seconds = (first.frames + gap + second.frames) / rate
    return gap <= JOINED_GAP_SECONDS * rate and seconds <= JOINED_SECONDS


def _join(
    frame: "pandas.DataFrame",
    rows: np.ndarray,
    pairs: list[tuple[AudioSpec, AudioSpec]],
    rates: dict[str, int],
) -> "pandas.DataFrame":
    """A row for each of ``rows`` and the one after it, whose recordings are ``pairs``."""
    joined, second = frame.iloc[rows].copy(), frame.iloc[rows + 1]
    frames = [two.offset + two.frames - one.offset for one, two in pairs]
    joined["id"] = [f"{one}+{two}" for one, two in zip(joined["id"], second["id"])]
    joined["audio"] = [
        str(AudioSpec(one.path, one.offset, length)) for (one, _), length in zip(pairs, frames)
    ]
    joined["n_frames"] = [
        resampled_length(length, rates[one.path]) for (one, _), length in zip(pairs, frames)
    ]
    for column in ("tgt_text", "src_text"):
        texts = zip(joined[column], second[column])
        joined[column] = [" ".join(filter(None, two)) for two in texts]
    return joined
