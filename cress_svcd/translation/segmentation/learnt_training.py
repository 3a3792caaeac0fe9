"""Training the learnt segmenter: whole recordings, and where the corpus has its segments."""

import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cress_svcd.atomic_files import write_checkpoint
from cress_svcd.data.audio import (
    SAMPLE_RATE,
    AudioSpec,
    audio_info,
    parse_audio_spec,
    read_audio,
    read_blocks,
    standardize,
)
from cress_svcd.data.audio_shards import is_sharded
from cress_svcd.data.config import DataConfig
from cress_svcd.data.corpus.corpora import CORPORA, DEFAULT_CORPUS
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.cut_variation import coloured_noise
from cress_svcd.errors import ConfigError
from cress_svcd.inference.packed_checkpoint import read_packed, write_packed
from cress_svcd.models.checkpoint_files import PACKED_HEADER, is_packed, read_mapped
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.translation.segmentation.divide import Limits, find_pieces
from cress_svcd.translation.segmentation.learnt import (
    SEGMENTER,
    VERSION,
    Head,
    LearntSegmenter,
    encode,
    encoder_of,
    frame_stride,
)
from cress_svcd.translation.segmentation.options import Segmentation

logger = logging.getLogger(__name__)

WIDTH = 64
WINDOW_SECONDS, WINDOWS = 10, 6
EDGE_FRAMES, EDGE_WEIGHT = 4, 3.0
# Between segments that touch each other so many frames are none's.
BETWEEN_FRAMES = 3
# Of what a window is given: noise, another loudness, and windows without any speech.
NOISE_SHARE, NOISES_DB = 0.6, (5.0, 45.0)
STEEPEST_NOISE = 1.0  # brown
GAINS_DB = (-30.0, 6.0)
NOTHING_SHARE = 0.08
TUNING_RECORDINGS = 20
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
PAUSES = (0.05, 0.1, 0.15, 0.2, 0.3)
TOLERANCE_SECONDS = 0.1

Segments = list[tuple[float, float]]
"""Beginning and end in seconds, in their order."""


@dataclass(frozen=True)
class Options:
    updates: int = 400
    learning_rate: float = 2e-3
    seed: int = 1


def read_segmentation(folder: Path, split: str, tgt_lang: str | None = None) -> dict[str, Segments]:
    """Recording -> its segments, of a split of a prepared folder or of a release.

    Raises:
        ConfigError, ReleaseError: it has none, every segment is a file of its own, or the segments
            were packed by shard-audio.
    """
    found: dict[str, Segments] = {}
    if (folder / "config.yaml").is_file():
        config, manifest = DataConfig(folder / "config.yaml"), folder / f"{split}.tsv"
        audio = read_manifest(manifest)["audio"]
        if is_sharded(config.config, audio):
            raise ConfigError(
                f"{manifest}: its audio was packed by shard-audio, segment behind segment, without "
                "the pauses that the segmenter learns from; give the folder that it was made of "
                "(of prepare-mustc), or the release with --tgt-lang"
            )
        for spec in map(parse_audio_spec, audio):
            path = os.path.join(config.absolute_audio_root, spec.path)
            if spec.frames > 0:
                rate = audio_info(path).sample_rate
                segment = (spec.offset / rate, (spec.offset + spec.frames) / rate)
                found.setdefault(path, []).append(segment)
    else:
        if not tgt_lang:
            raise ConfigError(f"{folder}: holds no config.yaml; a release needs --tgt-lang")
        corpus = CORPORA[DEFAULT_CORPUS].find(folder, tgt_lang)
        for one in corpus.read(split):
            if not one.precut:
                path = str(Path(corpus.audio_root) / one.audio)
                found.setdefault(path, []).append((one.offset, one.offset + one.duration))
    if not found:
        raise ConfigError(
            f"{folder}: the split {split} has no segments within recordings, which the segmenter "
            "could learn from: every segment is a file of its own"
        )
    return {path: sorted(segments) for path, segments in found.items()}


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


def vary(wave: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Another loudness, and noise; now and then nothing but noise, tones or zeros, and then the
    labels are cleared."""
    power = float(np.square(wave).mean()) + 1e-8
    if generator.random() < NOTHING_SHARE:
        labels[:] = 0
        kind = generator.integers(3)
        if kind == 0:
            return np.zeros_like(wave)
        if kind == 1:
            time = np.arange(len(wave)) / SAMPLE_RATE
            tones = generator.uniform(80, 2000, 3)
            waves = [np.sin(2 * np.pi * tone * time) for tone in tones]
            return (np.sum(waves, axis=0) * power**0.5).astype(np.float32)
        wave = np.zeros_like(wave)
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
            wave = vary(wave, label, generator)
            waves.append(standardize(wave) if normalize else wave)
            labels.append(label)
            weights.append(weights_of(label))
        yield tuple(torch.from_numpy(np.stack(part)) for part in (waves, labels, weights))  # type: ignore[misc]


def train_head(
    model: Any, recordings: Mapping[str, Segments], normalize: bool, options: Options
) -> Head:
    """A head on the frozen encoder of ``model``."""
    encoder = encoder_of(model)
    torch.manual_seed(options.seed)
    head = Head(encoder.output_dim, WIDTH)
    optimizer = torch.optim.AdamW(head.parameters(), options.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, options.updates, pct_start=0.1
    )
    batches = windows(recordings, frame_stride(encoder), normalize, options.seed)
    bar = tqdm(range(options.updates), desc="training the segmenter", unit="update", disable=None)
    for _ in bar:
        waves, labels, weights = next(batches)
        logits = head(encode(encoder, waves))
        count = logits.size(1)  # the encoder's last frames lack their samples
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels[:, :count], weights[:, :count]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return head.eval()


def tune(
    model: Any, state: dict[str, Any], recordings: Mapping[str, Segments]
) -> tuple[dict[str, float], float]:
    """Threshold and pause with which the segments of ``recordings`` are found best, and how well:
    F1 of their beginnings and ends."""
    segmenter = LearntSegmenter(Segmentation(max_seconds=30), state, model)
    heard = []
    for path, segments in sorted(recordings.items())[:TUNING_RECORDINGS]:
        rate = audio_info(path).sample_rate
        frames = segmenter.listen(read_blocks(path), rate)
        heard.append((frames.probabilities, rate / frames.hop, segments))
    best: tuple[float, dict[str, float]] = (-1.0, {})
    shortest = state["numbers"]["min_seconds"]
    for threshold, pause in itertools.product(THRESHOLDS, PAUSES):
        limits = Limits(30.0, shortest, pause, 0.0, 0.0, threshold)
        counts = np.zeros(3)
        for probabilities, per_second, segments in heard:
            chunks = find_pieces(probabilities, per_second, limits)
            found = [(start / per_second, stop / per_second) for start, stop in chunks]
            counts += matches(found, segments)
        score = 2 * counts[0] / max(1, counts[1] + counts[2])
        if score > best[0] + 1e-3:
            best = score, {"threshold": threshold, "pause_seconds": pause}
    return best[1], best[0]


def matches(found: Segments, wanted: Segments) -> tuple[int, int, int]:
    """Edges that were found within the tolerance, all that were found, and all there are."""
    hits = 0
    for side in (0, 1):
        rest = [segment[side] for segment in found]
        for segment in wanted:
            near = min(rest, key=lambda time: abs(time - segment[side]), default=None)
            if near is not None and abs(near - segment[side]) <= TOLERANCE_SECONDS:
                rest.remove(near)
                hits += 1
    return hits, 2 * len(found), 2 * len(wanted)


def train_segmenter(
    model: Any,
    normalize: bool,
    train: Mapping[str, Segments],
    dev: Mapping[str, Segments] | None,
    options: Options = Options(),
) -> tuple[dict[str, Any], float]:
    """What a checkpoint carries under SEGMENTER, and the F1 of edges on ``dev``.

    Args:
        model: the translation model, in evaluation mode; its encoder is not trained.
        normalize: whether waveforms are standardised.
        train, dev: recordings and their segments; without ``dev`` some of ``train`` are held out.
    """
    if dev is None:
        names = sorted(train)
        held = max(1, min(TUNING_RECORDINGS, len(names) // 10)) if len(names) > 1 else 0
        dev = {name: train[name] for name in (names[-held:] if held else names)}
        train = {name: train[name] for name in (names[:-held] if held else names)}
    head = train_head(model, train, normalize, options)
    seconds = [end - start for segments in train.values() for start, end in segments]
    state: dict[str, Any] = {
        "version": VERSION,
        "tensors": {name: tensor.detach() for name, tensor in head.state_dict().items()},
        "numbers": {
            "dim": encoder_of(model).output_dim,
            "width": WIDTH,
            "threshold": 0.5,
            "pause_seconds": 0.1,
            # Half of what is short in the corpus.
            "min_seconds": round(float(np.percentile(seconds, 1)) / 2, 3),
            "normalize": int(normalize),
        },
    }
    numbers, score = tune(model, state, dev)
    state["numbers"].update(numbers)
    return state, score


def put_into_checkpoint(source: Path, output: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint or packed model ``source`` with the segmenter to ``output``."""
    if is_packed(read_mapped(source)):
        packed = read_packed(source)
        packed.pop(PACKED_HEADER)
        write_packed(output, {**packed, SEGMENTER: state})
    else:
        write_checkpoint(output, {**read_checkpoint(source), SEGMENTER: state})
