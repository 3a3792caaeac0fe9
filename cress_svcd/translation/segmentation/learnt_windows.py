"""What the learnt segmenter hears in training: windows of recordings, with sounds that are not in
the corpus."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from cress_svcd.data.audio import SAMPLE_RATE, AudioSpec, audio_info, read_audio, standardize
from cress_svcd.data.cut_variation import coloured_noise

WINDOW_SECONDS, WINDOWS = 10, 6
EDGE_FRAMES, EDGE_WEIGHT = 4, 3.0
# Between segments that touch each other so many frames are none's.
BETWEEN_FRAMES = 3
# Of what a window is given: noise, another loudness, and windows without any speech.
NOISE_SHARE, NOISES_DB = 0.6, (5.0, 45.0)
STEEPEST_NOISE = 1.0  # brown
GAINS_DB = (-30.0, 6.0)
NOTHING_SHARE = 0.08
# What is put between two segments, relative to the speech.
BETWEEN_SHARE, BETWEEN_SECONDS, BETWEEN_DB = 0.5, (0.2, 4.0), (-25.0, 3.0)
SILENCE, NOISE, MUSIC = range(3)
NOTE_SECONDS, NOTES_HERTZ = (0.1, 1.0), (80.0, 1000.0)

Segments = list[tuple[float, float]]
"""Beginning and end in seconds, in their order."""


def labels_of(segments: Segments, start: float, frames: int, seconds: float) -> np.ndarray:
    """Whether each of ``frames`` frames of so many ``seconds``, from ``start`` on, is in a
    segment."""
    middles = start + (np.arange(frames) + 0.5) * seconds
    labels = np.zeros(frames, np.float32)
    for begin, end in segments:
        labels[(middles >= begin) & (middles < end)] = 1
    for (_, end), (begin, _) in itertools.pairwise(segments):
        if begin - end < BETWEEN_FRAMES * seconds:
            middle = (begin + end) / 2
            labels[np.abs(middles - middle) <= BETWEEN_FRAMES / 2 * seconds] = 0
    return labels


def weights_of(labels: np.ndarray) -> np.ndarray:
    """More for frames near an edge."""
    edges = np.flatnonzero(np.diff(labels))
    weights = np.ones(len(labels), np.float32)
    for edge in edges:
        weights[max(0, edge + 1 - EDGE_FRAMES) : edge + 1 + EDGE_FRAMES] = EDGE_WEIGHT
    return weights


def music(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Chords of notes with overtones that fade, or stay, of power 1."""
    sound = np.zeros(samples, np.float32)
    start = 0
    while start < samples:
        length = min(int(generator.uniform(*NOTE_SECONDS) * SAMPLE_RATE), samples - start)
        time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
        fading = np.exp(-generator.uniform(0, 6) * time)
        lowest, highest = np.log(NOTES_HERTZ)
        notes = int(generator.integers(1, 4))
        for hertz in np.exp(generator.uniform(lowest, highest, notes)):
            for overtone in range(1, generator.integers(2, 6)):
                sound[start : start + length] += (
                    np.sin(2 * np.pi * hertz * overtone * time) * fading / overtone
                )
        start += length
    return sound / (sound.std() + np.float32(1e-9))


def put_between(
    wave: np.ndarray, labels: np.ndarray, stride: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Silence, noise or music where the labels have no segment; what follows comes later, and the
    end is lost."""
    places = np.flatnonzero(labels == 0)
    if len(places) == 0:
        return wave, labels
    place = int(places[generator.integers(len(places))])
    count = min(
        round(generator.uniform(*BETWEEN_SECONDS) * SAMPLE_RATE / stride), len(labels) - place
    )
    power = float(np.square(wave).mean()) + 1e-8
    level = (power * 10 ** (generator.uniform(*BETWEEN_DB) / 10)) ** 0.5
    kind = generator.integers(3)
    sound = np.zeros(count * stride, np.float32)
    if kind != SILENCE:
        sound = np.float32(level) * (
            music(len(sound), generator)
            if kind == MUSIC
            else coloured_noise(len(sound), generator, STEEPEST_NOISE)
        )
    at = place * stride
    wave = np.concatenate([wave[:at], sound, wave[at:]])[: len(wave)]
    labels = np.insert(labels, place, np.zeros(count, np.float32))[: len(labels)]
    return wave, labels


def vary(wave: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Another loudness, and noise; now and then nothing but noise, music or zeros, and then the
    labels are cleared."""
    power = float(np.square(wave).mean()) + 1e-8
    if generator.random() < NOTHING_SHARE:
        labels[:] = 0
        kind = generator.integers(3)
        if kind == SILENCE:
            return np.zeros_like(wave)
        wave = np.zeros_like(wave)
        if kind == MUSIC:
            wave += np.float32(power**0.5) * music(len(wave), generator)
    if generator.random() < NOISE_SHARE or not wave.any():
        level = (power / 10 ** (generator.uniform(*NOISES_DB) / 10)) ** 0.5
        wave = wave + np.float32(level) * coloured_noise(len(wave), generator, STEEPEST_NOISE)
    return wave * np.float32(10 ** (generator.uniform(*GAINS_DB) / 20))


def windows(
    recordings: Mapping[str, Segments], stride: int, normalize: bool, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches without end: waveforms (batch, samples), labels and weights (batch, frames)."""
    generator = np.random.default_rng(seed)
    paths = sorted(recordings)
    seconds = stride / SAMPLE_RATE
    frames = round(WINDOW_SECONDS / seconds)
    while True:
        waves, labels, weights = [], [], []
        for _ in range(WINDOWS):
            path = paths[generator.integers(len(paths))]
            info = audio_info(path)
            latest = max(0.0, info.frames / info.sample_rate - WINDOW_SECONDS)
            offset = round(generator.uniform(0, latest) * info.sample_rate)
            length = min(WINDOW_SECONDS * info.sample_rate, info.frames - offset)
            wave = read_audio(AudioSpec(path, offset, length))[: frames * stride]
            wave = np.pad(wave, (0, frames * stride - len(wave)))
            label = labels_of(recordings[path], offset / info.sample_rate, frames, seconds)
            if generator.random() < BETWEEN_SHARE:
                wave, label = put_between(wave, label, stride, generator)
            wave = vary(wave, label, generator)
            waves.append(standardize(wave) if normalize else wave)
            labels.append(label)
            weights.append(weights_of(label))
        yield tuple(torch.from_numpy(np.stack(part)) for part in (waves, labels, weights))  # type: ignore[misc]
