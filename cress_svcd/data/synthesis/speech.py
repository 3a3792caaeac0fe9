"""Synthetic speech for training: text to 16 kHz segments, segments to talk-like recordings.

All randomness is seeded by what it is for (a talk's speaker, a line's pause and noise), never by
when it happens, and every utterance gets a fresh synthesiser (see ``espeak``): the same options
give the same samples, whatever was spoken before.

Needs numpy, soundfile, soxr and the ``espeakng_loader`` wheel; no torch.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile
import soxr

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.corpus.parallel_text import Line, ParallelText
from cress_svcd.data.synthesis.espeak import PAUSE, Catalogue, SpeechError
from cress_svcd.data.synthesis.speech_options import ENCODINGS, SpeechOptions
from cress_svcd.data.synthesis.synthesisers import speak

GRID = 250
"""Offsets and durations are multiples of this many samples: 1/64 s, which six decimals and a
binary fraction both hold exactly.  A reader gets whole samples whether it rounds or truncates."""

DEFAULT_VARIANTS = ("", "+m3", "+f3", "+f2", "+m7", "+m1", "+f5", "+f1")
"""Four male and four female ones that speak clearly; alternate ones hold two of each."""

TRAINING_SPLIT = "train"

# Silence kept before and after the speech of a segment, as a segmenter of real talks leaves it.
_MARGIN = SAMPLE_RATE // 10
_MARGIN_SECONDS = _MARGIN / SAMPLE_RATE
# Quieter than this fraction of the segment's peak counts as silence (-50 dB).
_SILENCE = 0.003
_HIGHEST_PEAK = 0.95
_PAUSE_SECONDS = (0.25, 1.5)
_FINAL_PAUSE = 32 * GRID
# libsndfile's Vorbis encoder crashes the process when it is given a long array at once.
_BLOCK = 1 << 14


@dataclass(frozen=True)
class Speaker:
    """A voice with its own speed, pitch and level."""

    name: str
    voice: str
    rate: int
    pitch: int
    gain_db: float


@dataclass(frozen=True)
class Speech:
    """A spoken text: float32 at 16 kHz, shape (n,), n a multiple of ``GRID``.

    phones: (start in seconds from the first sample, name); begins and ends with ``PAUSE``.
    """

    wave: np.ndarray
    phones: tuple[tuple[float, str], ...]


class Unspeakable(Exception):
    """A text of which the synthesiser makes no use; the message is the reason."""


@dataclass(frozen=True)
class Talk:
    """The work of one process at a time: the lines of one audio file."""

    split: str
    number: int
    lines: tuple[Line, ...]
    speakers: tuple[Speaker, ...]

    def file_name(self, audio_format: str) -> str:
        return f"{self.split}_{self.number:05d}.{audio_format}"


@dataclass(frozen=True)
class SpokenSegment:
    """Where a line lies in its talk: offset and frames in samples, phones as JSON text."""

    line: int
    speaker: str
    offset: int
    frames: int
    phones: str


@dataclass
class SpokenTalk:
    """What became of a talk's lines; ``skipped`` maps a reason to line numbers."""

    segments: list[SpokenSegment] = field(default_factory=list)
    skipped: dict[str, list[int]] = field(default_factory=dict)

    @property
    def n_speech_samples(self) -> int:
        return sum(segment.frames for segment in self.segments)


def default_voices(source_lang: str, catalogue: Catalogue) -> tuple[str, ...]:
    """Eight voices of a language; English ones in two accents.

    Raises SpeechError with near names if the synthesiser does not speak the language.
    """
    bases = ("en-us", "en-gb") if source_lang == "en" else (source_lang,)
    names = (base + variant for base, variant in zip(itertools.cycle(bases), DEFAULT_VARIANTS))
    try:
        return tuple(catalogue.resolve(name) for name in names)
    except SpeechError as error:
        raise SpeechError(
            f"--source-lang {source_lang}: no voice has that name ({error}); choose --voices"
        ) from error


def plan_talks(text: ParallelText, options: SpeechOptions) -> list[Talk]:
    """Cut a split into talks and cast their speakers."""
    size = options.segments_per_file
    talks = []
    for number, start in enumerate(range(0, len(text.lines), size)):
        lines = text.lines[start : start + size]
        if options.speaker_per == "talk":
            speakers = (draw_speaker(options, text.split, number),) * len(lines)
        else:
            speakers = tuple(draw_speaker(options, text.split, line.number) for line in lines)
        talks.append(Talk(text.split, number, lines, speakers))
    return talks


def draw_speaker(options: SpeechOptions, split: str, number: int) -> Speaker:
    """The split's speaker of that number.

    Any ``len(voices)`` speakers in a row have a voice each, so that a small split has them all.
    """
    voices = options.voices if split == TRAINING_SPLIT else options.test_voices
    turn, place = divmod(number, len(voices))
    order = _rng(options.seed, split, "voices", turn).permutation(len(voices))
    rng = _rng(options.seed, split, "speaker", number)
    return Speaker(
        name=f"spk.{split}-{number}",
        voice=voices[order[place]],
        rate=int(rng.integers(options.rate[0], options.rate[1] + 1)),
        pitch=int(rng.integers(options.pitch[0], options.pitch[1] + 1)),
        gain_db=round(float(rng.uniform(*options.gain_db)), 2),
    )


def _rng(*purpose: Any) -> np.random.Generator:
    """A random generator for one purpose, unrelated to that of any other."""
    digest = hashlib.sha256(json.dumps(purpose).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def speak_text(text: str, speaker: Speaker, seed: int) -> Speech:
    """Speak one text; silence around it is trimmed to a margin of a tenth of a second.

    seed: 0 to 2**31 - 1; of the synthesiser's noise.
    Raises Unspeakable if there is nothing to hear or no end to it.
    """
    spoken = speak(text, speaker.voice, speaker.rate, speaker.pitch, seed, _longest_seconds(text))
    if not spoken.complete:
        raise Unspeakable("speech without end")
    if not len(spoken.samples):
        raise Unspeakable("nothing to hear")
    wave = soxr.resample(spoken.samples.astype(np.float32) / 32768, spoken.sample_rate, SAMPLE_RATE)
    peak = float(np.abs(wave).max(initial=0.0))
    if peak == 0.0:
        raise Unspeakable("nothing to hear")
    start, stop = _speech_bounds(wave, peak * _SILENCE)
    # Also after resampling and at the highest gain there must be no clipping.
    gain = min(10 ** (speaker.gain_db / 20), _HIGHEST_PEAK / peak)
    phones = [(sample / spoken.sample_rate, name) for sample, name in spoken.phones]
    return Speech(
        _with_margins(wave[start:stop] * gain),
        _shift_phones(phones, start / SAMPLE_RATE, stop / SAMPLE_RATE),
    )


def _longest_seconds(text: str) -> float:
    # Spelled-out characters of a foreign script take over a second each, words far less.
    return 20.0 + 2.0 * len(text)


def _speech_bounds(wave: np.ndarray, threshold: float) -> tuple[int, int]:
    loud = np.flatnonzero(np.abs(wave) > threshold)
    return int(loud[0]), int(loud[-1]) + 1


def _with_margins(wave: np.ndarray) -> np.ndarray:
    length = len(wave) + 2 * _MARGIN
    return np.pad(wave, (_MARGIN, _MARGIN + -length % GRID)).astype(np.float32)


def _shift_phones(
    phones: Iterable[tuple[float, str]], start: float, stop: float
) -> tuple[tuple[float, str], ...]:
    """Phones of [start, stop) seconds on the segment's clock, pauses joined and put around."""
    last = stop - start + _MARGIN_SECONDS
    shifted = [(0.0, PAUSE)]
    for seconds, name in phones:
        if name == PAUSE == shifted[-1][1]:
            continue
        place = min(max(seconds - start + _MARGIN_SECONDS, 0.0), last)
        shifted.append((round(place, 6), name))
    if shifted[-1][1] != PAUSE:
        shifted.append((round(last, 6), PAUSE))
    return tuple(shifted)


def frame_phones(
    phones: Sequence[tuple[float, str]], n_frames: int, frames_per_second: float = 50.0
) -> list[str]:
    """The phone at the middle of each of ``n_frames`` frames, from a line of ``SPLIT.phones``."""
    starts = [seconds for seconds, _ in phones]
    middles = (np.arange(n_frames) + 0.5) / frames_per_second
    indices = np.maximum(np.searchsorted(starts, middles, side="right") - 1, 0)
    return [phones[index][1] for index in indices]


def speak_talk(talk: Talk, options: SpeechOptions) -> tuple[np.ndarray, SpokenTalk]:
    """Speak the lines of a talk one after the other, a random pause before each.

    Returns int16 samples at 16 kHz, shape (n,), and what lies where.
    """
    chunks: list[np.ndarray] = []
    spoken = SpokenTalk()
    position = 0
    for line, speaker in zip(talk.lines, talk.speakers, strict=True):
        rng = _rng(options.seed, talk.split, "line", line.number)
        pause = GRID * round(rng.uniform(*_PAUSE_SECONDS) * SAMPLE_RATE / GRID)
        try:
            speech = speak_text(line.source, speaker, int(rng.integers(2**31)))
        except Unspeakable as reason:
            spoken.skipped.setdefault(str(reason), []).append(line.number)
            continue
        phones = json.dumps(speech.phones, ensure_ascii=False) if options.phones else ""
        position += pause
        spoken.segments.append(
            SpokenSegment(line.number, speaker.name, position, len(speech.wave), phones)
        )
        position += len(speech.wave)
        chunks += [np.zeros(pause, dtype=np.float32), speech.wave]
    wave = np.concatenate([*chunks, np.zeros(_FINAL_PAUSE, dtype=np.float32)])
    if options.noise_snr_db is not None and spoken.segments:
        rng = _rng(options.seed, talk.split, "noise", talk.number)
        wave = _add_noise(wave, spoken.n_speech_samples, options.noise_snr_db, rng)
    return np.round(wave * 32767).astype(np.int16), spoken


def _add_noise(
    wave: np.ndarray, n_speech_samples: int, snr_db: float, rng: np.random.Generator
) -> np.ndarray:
    """White noise ``snr_db`` below the speech, whose energy is that of all but the pauses."""
    speech_rms = np.sqrt(np.sum(np.square(wave, dtype=np.float64)) / n_speech_samples)
    level = np.float32(speech_rms * 10 ** (-snr_db / 20))
    noisy = wave + level * rng.standard_normal(len(wave), dtype=np.float32)
    return noisy * min(1.0, _HIGHEST_PEAK / float(np.abs(noisy).max()))


def encode_audio(samples: np.ndarray, audio_format: str) -> bytes:
    """An audio file's bytes; in memory, so that a full disk is met by plain file writing."""
    container, subtype = ENCODINGS[audio_format]
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", SAMPLE_RATE, channels=1, format=container, subtype=subtype
    ) as sound:
        for start in range(0, len(samples), _BLOCK):
            sound.write(samples[start : start + _BLOCK])
    return buffer.getvalue()
