"""Training the learnt segmenter: whole recordings, and where the corpus has its segments."""

import bisect
import functools
import itertools
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cress_svcd.atomic_files import write_checkpoint
from cress_svcd.data.audio import audio_info, parse_audio_spec, read_blocks
from cress_svcd.data.audio_shards import is_sharded
from cress_svcd.data.config import DataConfig
from cress_svcd.data.corpus.corpora import CORPORA, DEFAULT_CORPUS
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.inference.packed_checkpoint import read_packed, write_packed
from cress_svcd.models.checkpoint_files import PACKED_HEADER, is_packed, read_mapped
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.models.hubert_checkpoint import frame_stride
from cress_svcd.translation.segmentation.divide import Limits, find_chunks
from cress_svcd.translation.segmentation.learnt import (
    SEGMENTER,
    VERSION,
    Head,
    LearntSegmenter,
    device_of,
    encode,
    encoder_of,
)
from cress_svcd.translation.segmentation.learnt_windows import Segments, windows
from cress_svcd.translation.segmentation.options import Segmentation

logger = logging.getLogger(__name__)

WIDTH = 64
# Features of so many windows are kept, and each update learns from some of them: an encoder takes
# far longer than the head.
KEPT, BATCH = 240, 8
TUNING_RECORDINGS = 20
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
PAUSES = (0.05, 0.1, 0.15, 0.2, 0.3)
TOLERANCE_SECONDS = 0.1


class NothingToLearn(ConfigError):
    """The corpus has no recordings in which segments stand between pauses."""


@dataclass(frozen=True)
class Options:
    """``windows``: of ten seconds each, so many are heard in all."""

    updates: int = 400
    windows: int = 600
    learning_rate: float = 2e-3
    seed: int = 1


def read_segmentation(folder: Path, split: str, tgt_lang: str | None = None) -> dict[str, Segments]:
    """Recording -> its segments, of a split of a prepared folder or of a release.

    Raises:
        NothingToLearn: every segment is a file of its own, or they were packed by shard-audio.
        ConfigError, ReleaseError: there is no such split.
    """
    found: dict[str, Segments] = {}
    if (folder / "config.yaml").is_file():
        config, manifest = DataConfig(folder / "config.yaml"), folder / f"{split}.tsv"
        audio = read_manifest(manifest)["audio"]
        if is_sharded(config.config, audio):
            raise NothingToLearn(
                f"{manifest}: its audio was packed by shard-audio, segment behind segment, without "
                "the pauses that the segmenter learns from; give the folder that it was made of "
                "(of prepare-mustc), or the release with --tgt-lang"
            )
        rate_of = functools.cache(lambda path: audio_info(path).sample_rate)
        for spec in map(parse_audio_spec, audio):
            path = os.path.join(config.absolute_audio_root, spec.path)
            if spec.frames > 0:
                rate = rate_of(path)
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
        raise NothingToLearn(
            f"{folder}: the split {split} has no segments within recordings, which the segmenter "
            "could learn from: every segment is a file of its own"
        )
    # Of several target languages a segment may stand there for each.
    return {path: sorted(set(segments)) for path, segments in found.items()}


class Examples:
    """Batches of features, labels and weights, (batch, frames, dim) and (batch, frames).

    The features of the last KEPT windows are held in half precision; over all updates the encoder
    hears ``options.windows``, the first KEPT of them before the first update.
    """

    def __init__(self, encoder: Any, sound: Iterator[tuple[Tensor, ...]], options: Options):
        self.encoder, self.sound, self.options = encoder, sound, options
        self.kept: deque[tuple[Tensor, ...]] = deque(maxlen=KEPT)
        self.heard, self.device = 0, device_of(encoder)
        self.generator = np.random.default_rng(options.seed)

    def batch(self, update: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the ``update``-th, from 0."""
        more = self.options.windows - KEPT
        while self.heard < min(self.options.windows, KEPT + more * update / self.options.updates):
            self._hear()
        chosen = self.generator.choice(len(self.kept), min(BATCH, len(self.kept)), replace=False)
        features, labels, weights = (
            torch.stack([self.kept[place][part] for place in chosen]).float().to(self.device)
            for part in range(3)
        )
        return features, labels, weights

    def _hear(self) -> None:
        waves, labels, weights = next(self.sound)
        features = encode(self.encoder, waves)
        count = features.size(1)  # the encoder's last frames lack their samples
        self.kept.extend(zip(features.half(), labels[:, :count], weights[:, :count]))
        self.heard += len(waves)


def train_head(
    model: Any, recordings: Mapping[str, Segments], normalize: bool, options: Options
) -> Head:
    """A head on the frozen encoder of ``model``."""
    encoder = encoder_of(model)
    torch.manual_seed(options.seed)
    head = Head(encoder.output_dim, WIDTH).to(device_of(encoder))
    optimizer = torch.optim.AdamW(head.parameters(), options.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, options.updates, pct_start=0.1
    )
    examples = Examples(
        encoder,
        windows(recordings, frame_stride(encoder.convolutions), normalize, options.seed),
        options,
    )
    bar = tqdm(range(options.updates), desc="training the segmenter", unit="update", disable=None)
    for update in bar:
        features, labels, weights = examples.batch(update)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(features), labels, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return head.cpu().eval()


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
            chunks = find_chunks(probabilities, per_second, limits)
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
        rest = sorted(segment[side] for segment in found)
        for segment in wanted:
            near = _nearest(rest, segment[side])
            if near is not None and abs(rest[near] - segment[side]) <= TOLERANCE_SECONDS:
                del rest[near]
                hits += 1
    return hits, 2 * len(found), 2 * len(wanted)


def _nearest(times: list[float], wanted: float) -> int | None:
    """The place of the time nearest to ``wanted`` among rising ones; None if there are none."""
    after = bisect.bisect_left(times, wanted)
    places = range(max(0, after - 1), min(len(times), after + 1))
    return min(places, key=lambda place: abs(times[place] - wanted), default=None)


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
        # In half precision: a small model's file would grow by a fifth.
        "tensors": {name: tensor.detach().half() for name, tensor in head.state_dict().items()},
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


def put_into_checkpoint(source: Path, output: Path, state: dict[str, Any] | None) -> None:
    """Write the checkpoint or packed model ``source`` with the segmenter to ``output``; None: as
    it is."""
    added = {} if state is None else {SEGMENTER: state}
    if is_packed(read_mapped(source)):
        packed = read_packed(source)
        packed.pop(PACKED_HEADER)
        write_packed(output, {**packed, **added})
    else:
        write_checkpoint(output, {**read_checkpoint(source), **added})
