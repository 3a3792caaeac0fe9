"""How speech is changed: noise, bands, codecs, loudness, masks.

Each takes a waveform, float32 of shape (samples,) at 16 kHz, and a random generator; and gives as
many samples.
"""

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr
from scipy import signal

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.augmentation.noise import coloured_noise
from cress_svcd.data.augmentation.rooms import draw_room

Effect = Callable[[np.ndarray, np.random.Generator], np.ndarray]

NOISES_DB = (3.0, 30.0)  # so far above the noise is the speech
STEEPEST_NOISE = 1.0  # brown
LOWEST_HZ, HIGHEST_HZ = (40.0, 400.0), (2500.0, 7500.0)  # edges of bands
GAINS_DB = (-24.0, 3.0)
# Of masks: how many at most, and how much of time and of the spectrum one hides.
TIME_MASKS, TIME_MASK_SECONDS, TIME_MASK_SHARE = 2, 0.2, 0.1
BAND_MASKS, BAND_MASK_HZ = 2, 800.0
# Container, encoding and rate of codecs.
CODECS = (
    ("WAV", "ULAW", 8_000),
    ("WAV", "ALAW", 8_000),
    ("WAV", "GSM610", 8_000),
    ("WAV", "IMA_ADPCM", 16_000),
    ("OGG", "VORBIS", 16_000),
)
# libsndfile's Vorbis encoder crashes the process when it is given a long array at once.
_BLOCK = 1 << 14
_LARGEST_PEAK = 0.99


def add_noise(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Noise of some colour, from white to brown."""
    level = loudness(wave) * 10 ** (-random.uniform(*NOISES_DB) / 20)
    return wave + np.float32(level) * coloured_noise(len(wave), random, STEEPEST_NOISE)


def limit_band(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What a microphone, a line or a loudspeaker leaves of the spectrum."""
    edges = (random.uniform(*LOWEST_HZ), random.uniform(*HIGHEST_HZ))
    order = int(random.integers(1, 5))
    band = signal.butter(order, edges, "bandpass", fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(band, wave).astype(np.float32)


def encode(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What is left after a codec of telephones, old files or the web."""
    container, subtype, rate = CODECS[random.integers(len(CODECS))]
    narrow = soxr.resample(wave, SAMPLE_RATE, rate) if rate != SAMPLE_RATE else wave
    narrow = narrow * min(1.0, _LARGEST_PEAK / max(1e-9, float(np.abs(narrow).max(initial=0))))
    coarse = {"compression_level": float(random.uniform(0.7, 1.0))} if container == "OGG" else {}
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, 1, subtype=subtype, format=container, **coarse
    ) as sound:
        for start in range(0, len(narrow), _BLOCK):
            sound.write(narrow[start : start + _BLOCK])
    file.seek(0)
    decoded = soundfile.read(file, dtype="float32")[0]
    if rate != SAMPLE_RATE:
        decoded = soxr.resample(decoded, rate, SAMPLE_RATE)
    return np.pad(decoded[: len(wave)], (0, max(0, len(wave) - len(decoded))))


def change_level(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Nearer or farther; too loud is clipped, as a recorder does it."""
    return np.clip(wave * np.float32(10 ** (random.uniform(*GAINS_DB) / 20)), -1, 1)


def put_into_room(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Speech as it sounds in a room, as loud as before."""
    if not len(wave):
        return wave
    heard = signal.fftconvolve(wave, draw_room(random))[: len(wave)]
    return (heard * (loudness(wave) / max(1e-9, loudness(heard)))).astype(np.float32)


def mask(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Hide stretches of time and bands of the spectrum, as SpecAugment does."""
    hidden = wave.copy()
    for _ in range(random.integers(1, BAND_MASKS + 1)):
        spectrum = np.fft.rfft(hidden)
        scale = len(wave) / SAMPLE_RATE
        width = random.uniform(0, BAND_MASK_HZ)
        start = random.uniform(0, SAMPLE_RATE / 2 - width)
        spectrum[round(start * scale) : round((start + width) * scale)] = 0
        hidden = np.fft.irfft(spectrum, len(wave))
    for _ in range(random.integers(1, TIME_MASKS + 1)):
        most = min(TIME_MASK_SECONDS * SAMPLE_RATE, TIME_MASK_SHARE * len(wave))
        width = int(random.uniform(0, most))
        start = int(random.integers(0, max(1, len(wave) - width)))
        hidden[start : start + width] = 0
    return hidden.astype(np.float32)


def loudness(wave: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) if len(wave) else 0.0


EFFECTS: dict[str, Effect] = {
    "room": put_into_room,
    "noise": add_noise,
    "band": limit_band,
    "codec": encode,
    "gain": change_level,
    "mask": mask,
}
