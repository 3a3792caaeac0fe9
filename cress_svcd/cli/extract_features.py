"""Compute the features of a frozen HuBERT once, so that training need not compute them each epoch.

  cress-svcd extract-features data/en-de --hubert-model-path hubert.pt -o data/en-de/features
  fairseq-train data/en-de … --hubert-model-path hubert.pt --freeze-hubert \\
      --feature-cache data/en-de/features

Where the speech encoder is not trained (--freeze-hubert), training with --feature-cache gives the
same as training without, several times faster.  The checkpoint still carries the encoder, and
generation starts from audio as ever.  Takes 50 × dimension × 2 bytes for a second of speech: 140 MB
an hour for 384, 276 MB for HuBERT-Base.
"""

import argparse
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cress_svcd.cli.prepare_text import audio_folder, read_config
from cress_svcd.data.audio import read_audio, standardize
from cress_svcd.data.feature_cache import (
    FeatureCache,
    file_digest,
    segments_digest,
    write_features,
)
from cress_svcd.data.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.models.hubert_encoder import HubertEncoder, read_hubert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="output of prepare-mustc")
    parser.add_argument("--hubert-model-path", type=Path, required=True, help="the checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--splits", nargs="+", default=["train", "dev"], help="default: %(default)s"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes that read audio, and without a GPU encode it (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="also what is up to date")


class Waveforms(Dataset):
    """The waveforms of a manifest, float32."""

    def __init__(self, audio: list[str], root: str, normalize: bool):
        self.audio, self.root, self.normalize = audio, root, normalize

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: int) -> torch.Tensor:
        wave = read_audio(self.audio[index], root=self.root)
        return torch.from_numpy(standardize(wave) if self.normalize else wave)


def run(args: argparse.Namespace) -> None:
    config = read_config(args.data)
    description, state = read_hubert(args.hubert_model_path)
    normalize = bool(config.get("standardize_audio", False))
    if description.normalize != normalize:
        raise ConfigError(
            f"{args.data / 'config.yaml'}: key standardize_audio is {normalize}, but the encoder "
            f"was pretrained with normalize={description.normalize}: set the key to that"
        )
    encoder = HubertEncoder(description, frozen=True)
    encoder.load_pretrained(state, args.hubert_model_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device).eval()
    digest = file_digest(args.hubert_model_path)
    root = audio_folder(args.data, config)
    for split in args.splits:
        frame = read_manifest(args.data / f"{split}.tsv")
        about = {"segments": segments_digest(frame), "hubert": digest}
        if not args.force and is_current(args.output, split, frame, digest):
            print(f"{split}: up to date")
            continue
        waves = Waveforms(frame["audio"].tolist(), root, normalize)
        segments = encode(encoder, device, waves, args.workers)
        progress = tqdm(segments, total=len(frame), desc=f"encoding {split}", unit="segment")
        total = write_features(args.output, split, progress, encoder.output_dim, about)
        print(f"{split}: {len(frame):,} segments, {total:,} frames of {encoder.output_dim}")


def is_current(folder: Path, split: str, frame, digest: str) -> bool:
    """Whether the cache of a split is there, whole, and of this encoder and these segments."""
    if not FeatureCache.exists(folder, split):
        return False
    try:
        return FeatureCache(folder, split, frame).about["hubert"] == digest
    except ConfigError:
        return False


class Features(Dataset):
    """Features of waveforms, frames×dimension, float16 on the CPU.

    One utterance at a time: they stand in the manifest's order, which batches would pad heavily,
    and the result is the same (see :class:`HubertEncoder`).
    """

    def __init__(self, waves: Waveforms, encoder: HubertEncoder, device: torch.device):
        self.waves, self.encoder, self.device = waves, encoder, device

    def __len__(self) -> int:
        return len(self.waves)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.encode(self.waves[index])

    @torch.inference_mode()
    def encode(self, wave: torch.Tensor) -> torch.Tensor:
        wave = wave.to(self.device).unsqueeze(0)
        features, _ = self.encoder(wave, torch.tensor([wave.size(1)], device=self.device))
        return features[0].half().cpu()


def encode(
    encoder: HubertEncoder, device: torch.device, waves: Waveforms, workers: int
) -> Iterator[np.ndarray]:
    """Features of each waveform, frames×dimension; ``workers`` processes share the work.

    A GPU belongs to this process, which then encodes what they read.
    """
    features = Features(waves, encoder, device)
    here = device.type != "cpu"
    loader = DataLoader(waves if here else features, batch_size=None, num_workers=workers)
    for item in loader:
        yield (features.encode(item) if here else item).numpy()
