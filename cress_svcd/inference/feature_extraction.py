"""Features of a frozen speech encoder, in batches, on all GPUs or CPU processes."""

import contextlib
import itertools
import queue
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from fairseq.data import Dictionary
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cress_svcd.data.cut_variation import CutVariation
from cress_svcd.data.dataset import GPU_LENGTH_MULTIPLE, Places, SpeechTranslationDataset, round_up
from cress_svcd.data.feature_cache import (
    DEFAULT_LONGEST,
    FeatureCache,
    complete_cuts,
    cuts_entry,
    remove_features,
    segments_digest,
    variant_name,
    writing_features,
)
from cress_svcd.errors import ConfigError
from cress_svcd.inference.install import install
from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT, HubertEncoder

# So many segments in a row are put into batches of similar lengths, of so many samples: on a GPU to
# keep it busy, on a CPU because each new shape of a convolution costs as much as a short utterance.
BUFFER_SIZE, BATCH_SAMPLES = 512, 1_600_000
CPU_CHUNK_SIZE, CPU_BATCH_SAMPLES = 64, 480_000


class Waveforms(Dataset):
    """The waveforms of a manifest, float32, as the training's dataset reads and checks them."""

    def __init__(
        self,
        manifest: Path,
        frame: pandas.DataFrame,
        root: str,
        normalize: bool,
        cuts: CutVariation | None = None,
        variant: int = 0,
        longest: int = DEFAULT_LONGEST,
        neighbours: bool = True,
    ):
        self.segments = SpeechTranslationDataset(
            frame["audio"],
            frame["n_frames"],
            None,
            None,
            Dictionary(),
            audio_root=root,
            normalize=normalize,
            places=Places([(manifest, frame["id"])]),
            cuts=cuts,
            longest=longest,
            neighbours=neighbours,
        )
        self.segments.set_epoch(variant)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> Tensor:
        return self.segments[index]["audio"]


def frozen_encoder(hubert_model_path: str) -> HubertEncoder:
    """The encoder of a checkpoint, on the CPU, in evaluation mode."""
    description, state = read_hubert(hubert_model_path)
    # A frozen encoder masks nothing, and one trained with a translation model has no mask_emb.
    encoder = HubertEncoder(description, {"mask_prob": 0, "mask_channel_prob": 0}, frozen=True)
    encoder.load_pretrained(state, hubert_model_path)
    install(encoder)
    return encoder.eval()


def is_current(
    folder: Path, split: str, frame, digest: str, layer: str, cuts: dict | None = None
) -> bool:
    """Whether the cache of a split is there, whole, and of this encoder, segments and cuts."""
    if not FeatureCache.exists(folder, split):
        return False
    try:
        about = FeatureCache(folder, split, frame).about
    except ConfigError:
        return False
    wanted = digest, layer, cuts
    return (about.get("hubert"), about.get("layer", OUTPUT), complete_cuts(about)) == wanted


def devices() -> list[torch.device]:
    """All GPUs that are visible, else the CPU."""
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return gpus or [torch.device("cpu")]


@dataclass(frozen=True)
class Cuts:
    """How the cuts of a split are varied.

    Attributes:
        variation: None: they are as the corpus has them.
        variants: how many are encoded; 1 without a variation.
        longest: samples that no segment exceeds by what its varied cut adds.
        neighbours: let in what stands next to a segment in its file.
        join_segments: the share of joined segments that the manifest was given.
    """

    variation: CutVariation | None = None
    variants: int = 1
    longest: int = DEFAULT_LONGEST
    neighbours: bool = True
    join_segments: float = 0.0

    def about(self, variant: int) -> dict:
        """What a cache notes of it, in one variant."""
        noted: dict = {"join_segments": self.join_segments}
        if self.variation is not None:
            noted["cuts"] = cuts_entry(self.variation, self.longest, variant, self.variants)
            if variant == 0:  # which speaks for all
                noted["variants"] = self.variants
        return noted


@dataclass
class Extraction:
    """What all splits have in common: encoders, folders by layer, the digest of the encoder."""

    encoders: list
    folders: dict[str, Path]
    digest: str
    root: str
    normalize: bool
    workers: int
    force: bool

    def extract(self, manifest: Path, frame: pandas.DataFrame, cuts: Cuts) -> Iterator[str]:
        """Write the features of a split, all variants of its cuts, unless they are there.

        Yields:
            what was done, in words, after each variant.
        """
        for layer, folder in self.folders.items():
            if not self._is_current(folder, layer, manifest.stem, frame, cuts, 0):
                # The first variant speaks for all: without it there are no features of the split,
                # so that those of an extraction that breaks off are not taken for whole.
                remove_features(folder, manifest.stem)
        for variant in reversed(range(cuts.variants)):
            yield self._extract(manifest, frame, cuts, variant)

    def _is_current(
        self, folder: Path, layer: str, name: str, frame: pandas.DataFrame, cuts: Cuts, variant: int
    ) -> bool:
        noted = cuts.about(variant).get("cuts")
        return not self.force and is_current(folder, name, frame, self.digest, layer, noted)

    def _extract(self, manifest: Path, frame: pandas.DataFrame, cuts: Cuts, variant: int) -> str:
        name = variant_name(manifest.stem, variant)
        about = {"segments": segments_digest(frame), "hubert": self.digest, **cuts.about(variant)}
        wanted = {
            layer: folder
            for layer, folder in self.folders.items()
            if not self._is_current(folder, layer, name, frame, cuts, variant)
        }
        if not wanted:
            return f"{name}: up to date"
        waves = Waveforms(
            manifest,
            frame,
            self.root,
            self.normalize,
            cuts.variation,
            variant,
            cuts.longest,
            cuts.neighbours,
        )
        segments = encode(waves, self.encoders, list(wanted), self.workers)
        progress = tqdm(
            segments, total=len(frame), desc=f"encoding {name}", unit="segment", disable=None
        )
        dimensions = {
            OUTPUT: self.encoders[0].output_dim,
            CONVOLUTIONS: self.encoders[0].convolutions[-1][0],
        }
        frames = 0
        with contextlib.ExitStack() as stack:
            adders = [
                stack.enter_context(
                    writing_features(folder, name, dimensions[layer], {**about, "layer": layer})
                )
                for layer, folder in wanted.items()
            ]
            for features in progress:
                frames += len(features[0])
                for add, item in zip(adders, features, strict=True):
                    add(item)
        of = " and ".join(f"{dimensions[layer]} ({layer})" for layer in wanted)
        return f"{name}: {len(frame):,} segments, {frames:,} frames of {of}"


def encode(
    waves: Waveforms, encoders: Sequence[HubertEncoder], layers: list[str], workers: int
) -> Iterator[list[np.ndarray]]:
    """Features of each waveform in turn, (frames, dimension) of each of ``layers``, float16.

    On the CPU each of the ``workers`` processes encodes what it reads.
    """
    if encoders[0].layer_norm.weight.is_cuda:
        yield from encode_in_batches(read(waves, workers), encoders, layers)
        return
    chunks = Chunks(waves, encoders[0], layers)
    for chunk in DataLoader(chunks, batch_size=None, num_workers=workers, collate_fn=_as_it_is):
        yield from chunk


def read(waves: Waveforms, workers: int) -> Iterator[Tensor]:
    """The waveforms in turn, read by other processes."""
    for wave in DataLoader(waves, batch_size=None, num_workers=workers):
        # What comes from another process holds a file open: a buffer of them would be too many.
        yield wave.clone()


def _as_it_is(item: Any) -> Any:
    return item


class Chunks(Dataset):
    """Features of so many waveforms in a row, on the CPU: for each a list as ``encode`` gives
    it."""

    def __init__(self, waves: Waveforms, encoder: HubertEncoder, layers: list[str]):
        self.waves, self.encoder, self.layers = waves, encoder, layers

    def __len__(self) -> int:
        return -(-len(self.waves) // CPU_CHUNK_SIZE)

    def __getitem__(self, number: int) -> list[list[np.ndarray]]:
        start = number * CPU_CHUNK_SIZE
        indices = range(start, min(start + CPU_CHUNK_SIZE, len(self.waves)))
        waves = [self.waves[index] for index in indices]
        found: list[list[np.ndarray]] = [[]] * len(waves)
        for batch in similar_lengths([len(wave) for wave in waves], CPU_BATCH_SAMPLES):
            encoded = encode_batch([waves[index] for index in batch], self.encoder, self.layers)
            for index, features in zip(batch, encoded, strict=True):
                found[index] = features
        return found


def encode_in_batches(
    waves: Iterable[Tensor],
    encoders: Sequence[HubertEncoder],
    layers: list[str],
    buffer_size: int = BUFFER_SIZE,
    batch_samples: int = BATCH_SAMPLES,
) -> Iterator[list[np.ndarray]]:
    """As ``encode``, in batches of similar lengths, each by the next encoder that is free.

    One process for all: those side by side take minutes to start (each needs a CUDA context).
    """
    idle: queue.SimpleQueue = queue.SimpleQueue()
    for encoder in encoders:
        idle.put(encoder)

    def work(batch: list[Tensor]) -> list[list[np.ndarray]]:
        own = idle.get()
        try:
            return encode_batch(batch, own, layers, GPU_LENGTH_MULTIPLE)
        finally:
            idle.put(own)

    def begin(some: list[Tensor]) -> list[tuple[list[int], Future]]:
        batches = similar_lengths([len(wave) for wave in some], batch_samples)
        return [(batch, pool.submit(work, [some[index] for index in batch])) for batch in batches]

    def finish(begun: list[tuple[list[int], Future]]) -> Iterator[list[np.ndarray]]:
        done = [
            (index, features)
            for batch, future in begun
            for index, features in zip(batch, future.result(), strict=True)
        ]
        for _, features in sorted(done, key=lambda item: item[0]):
            yield features

    with ThreadPoolExecutor(len(encoders)) as pool:
        begun: list[tuple[list[int], Future]] = []
        waiting = iter(waves)
        # While one buffer is encoded, the next one is read.
        while some := list(itertools.islice(waiting, buffer_size)):
            following = begin(some)
            yield from finish(begun)
            begun = following
        yield from finish(begun)


def similar_lengths(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices of ``lengths`` in batches that padded hold at most so much; longer ones alone."""
    batches: list[list[int]] = []
    # Longest first, so that the first of a batch says how long the padded ones are.
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > most:
            batches.append([])
        batches[-1].append(index)
    return batches


@torch.inference_mode()
def encode_batch(
    waves: list[Tensor], encoder: HubertEncoder, layers: list[str], multiple: int = 1
) -> list[list[np.ndarray]]:
    """Features of ``layers`` of each waveform, (frames, dimension), float16.

    The batch is padded to a multiple of so many samples, which changes nothing in the result.
    """
    device = encoder.layer_norm.weight.device
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = pad_sequence(waves, batch_first=True)
    beyond = round_up(padded.size(1), multiple) - padded.size(1)
    padded = torch.nn.functional.pad(padded, (0, beyond)).to(device)
    convolved, frames = encoder.convolve(padded, lengths.to(device))
    features = {CONVOLUTIONS: convolved}
    if OUTPUT in layers:
        features[OUTPUT], _ = encoder.transform(convolved, frames)
    # One transfer a layer; each utterance's part is copied, or it would keep the whole alive.
    found = [features[layer].half().cpu().numpy() for layer in layers]
    return [
        [layer[row, :count].copy() for layer in found] for row, count in enumerate(frames.tolist())
    ]
