"""Compute the features of a frozen HuBERT once, so that training need not compute them each epoch.

  cress-svcd extract-features data/en-de --hubert-model-path hubert.pt -o data/en-de/features
  fairseq-train data/en-de … --hubert-model-path hubert.pt --freeze-hubert \\
      --feature-cache data/en-de/features

Where the speech encoder is not trained (--freeze-hubert), training with --feature-cache gives the
same as training without, several times faster.  The checkpoint still carries the encoder, and
generation starts from audio as ever.  Takes 50 × dimension × 2 bytes for a second of speech: 140 MB
an hour for 384, 276 MB for HuBERT-Base.

Where the encoder's transformer is trained but its convolutions are not
(--freeze-hubert-convolutions), their output can be had in the same way:

  cress-svcd extract-features … --convolutions data/en-de/convolved
  fairseq-train data/en-de … --hubert-model-path hubert.pt --freeze-hubert-convolutions \\
      --feature-cache data/en-de/convolved

Both folders together are made in one pass.  --hubert-model-path also takes a speech translation
checkpoint, whose encoder was trained on: what is then trained from that checkpoint (quant_transformer,
--finetuned-st-model) with --freeze-hubert can read those features.
"""

import argparse
import contextlib
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cress_svcd.cli.prepare_text import audio_folder, read_config
from cress_svcd.data.audio import read_audio, standardize
from cress_svcd.data.dataset import GPU_LENGTH_MULTIPLE, round_up
from cress_svcd.data.feature_cache import (
    FeatureCache,
    file_digest,
    segments_digest,
    writing_features,
)
from cress_svcd.data.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT, HubertEncoder, read_hubert

SPAWNED_FROM = 3000  # segments; fewer are done on a GPU before further processes have started
GPU_PROCESSES = 8  # more share a GPU no better, and each takes half a gigabyte of it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="output of prepare-mustc")
    parser.add_argument("--hubert-model-path", type=Path, required=True, help="the checkpoint")
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for the encoder's output (--freeze-hubert)"
    )
    parser.add_argument(
        "--convolutions",
        type=Path,
        metavar="FOLDER",
        help="folder for the output of the encoder's convolutions (--freeze-hubert-convolutions)",
    )
    parser.add_argument(
        "--splits", nargs="+", default=["train", "dev"], help="default: %(default)s"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes that read and encode (default: %(default)s); 8 keep a GPU busy, and several "
        "GPUs share them",
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
    folders = {OUTPUT: args.output, CONVOLUTIONS: args.convolutions}
    folders = {layer: folder for layer, folder in folders.items() if folder}
    if len(set(folders.values())) < max(1, len(folders)):
        raise ConfigError("give --output FOLDER, --convolutions FOLDER, or both, not the same")
    config = read_config(args.data)
    description, _ = read_hubert(args.hubert_model_path)
    normalize = bool(config.get("standardize_audio", False))
    if description.normalize != normalize:
        raise ConfigError(
            f"{args.data / 'config.yaml'}: key standardize_audio is {normalize}, but the encoder "
            f"was pretrained with normalize={description.normalize}: set the key to that"
        )
    encoder = frozen_encoder(args.hubert_model_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    digest = file_digest(args.hubert_model_path)
    root = audio_folder(args.data, config)
    for split in args.splits:
        frame = read_manifest(args.data / f"{split}.tsv")
        about = {"segments": segments_digest(frame), "hubert": digest}
        wanted = {
            layer: folder
            for layer, folder in folders.items()
            if args.force or not is_current(folder, split, frame, digest, layer)
        }
        if not wanted:
            print(f"{split}: up to date")
            continue
        waves = Waveforms(frame["audio"].tolist(), root, normalize)
        features = Features(waves, encoder, args.hubert_model_path, device, list(wanted))
        segments = encode(features, args.workers)
        progress = tqdm(segments, total=len(frame), desc=f"encoding {split}", unit="segment")
        dimensions = {OUTPUT: encoder.output_dim, CONVOLUTIONS: encoder.convolutions[-1][0]}
        frames = 0
        with contextlib.ExitStack() as stack:
            adders = [
                stack.enter_context(
                    writing_features(folder, split, dimensions[layer], {**about, "layer": layer})
                )
                for layer, folder in wanted.items()
            ]
            for features in progress:
                frames += len(features[0])
                for add, item in zip(adders, features, strict=True):
                    add(item)
        of = " and ".join(f"{dimensions[layer]} ({layer})" for layer in wanted)
        print(f"{split}: {len(frame):,} segments, {frames:,} frames of {of}")


def frozen_encoder(hubert_model_path: str) -> HubertEncoder:
    """The encoder of a checkpoint, on the CPU, in evaluation mode."""
    description, state = read_hubert(hubert_model_path)
    # A frozen encoder masks nothing, and one trained with a translation model has no mask_emb.
    encoder = HubertEncoder(description, {"mask_prob": 0, "mask_channel_prob": 0}, frozen=True)
    encoder.load_pretrained(state, hubert_model_path)
    return encoder.eval()


def is_current(folder: Path, split: str, frame, digest: str, layer: str) -> bool:
    """Whether the cache of a split is there, whole, and of this encoder and these segments."""
    if not FeatureCache.exists(folder, split):
        return False
    try:
        about = FeatureCache(folder, split, frame).about
    except ConfigError:
        return False
    return about["hubert"] == digest and about.get("layer", OUTPUT) == layer


class Features(Dataset):
    """Features of waveforms, frames×dimension of each of ``layers``, float16 on the CPU.

    One utterance at a time: they stand in the manifest's order, which batches would pad heavily,
    and the result is the same (see :class:`HubertEncoder`).
    """

    def __init__(
        self, waves: Waveforms, encoder: HubertEncoder, hubert_model_path: str,
        device: torch.device, layers: list[str],
    ):  # fmt: skip
        self.waves, self.device, self.layers = waves, device, layers
        self.encoder: HubertEncoder | None = encoder
        self.hubert_model_path = hubert_model_path

    def __getstate__(self) -> dict:
        # A spawned process reads the encoder itself: sent, each tensor would take a file handle.
        return {**self.__dict__, "encoder": None}

    def __len__(self) -> int:
        return len(self.waves)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.encode(self.waves[index])

    @torch.inference_mode()
    def encode(self, wave: torch.Tensor) -> list[torch.Tensor]:
        if self.encoder is None:
            self.encoder = frozen_encoder(self.hubert_model_path)
        device = self._own_device()
        self.encoder.to(device)
        lengths = torch.tensor([len(wave)], device=device)
        if device.type != "cpu":
            wave = F.pad(wave, (0, round_up(len(wave), GPU_LENGTH_MULTIPLE) - len(wave)))
        convolved, lengths = self.encoder.convolve(wave.to(device).unsqueeze(0), lengths)
        features = {CONVOLUTIONS: convolved}
        if OUTPUT in self.layers:
            features[OUTPUT], _ = self.encoder.transform(convolved, lengths)
        frames = int(lengths[0])
        return [features[layer][0, :frames].half().cpu() for layer in self.layers]

    def _own_device(self) -> torch.device:
        """Processes that encode side by side are spread over the GPUs."""
        worker = torch.utils.data.get_worker_info()
        if self.device.type == "cpu" or worker is None:
            return self.device
        return torch.device(self.device.type, worker.id % torch.cuda.device_count())


def encode(features: Features, workers: int) -> Iterator[list[np.ndarray]]:
    """Features of each waveform, frames×dimension of each layer; ``workers`` processes share the
    work.

    Of few segments on a GPU they only read, and this process encodes.  Otherwise each encodes by
    itself: the launches of one process keep no GPU busy.  There they are spawned, since CUDA does
    not survive a fork, which takes each some seconds.
    """
    waves, on_gpu = features.waves, features.device.type != "cpu"
    if on_gpu and (workers < 2 or len(waves) < SPAWNED_FROM):
        for wave in DataLoader(waves, batch_size=None, num_workers=workers):
            yield [layer.numpy() for layer in features.encode(wave)]
        return
    context = None
    if on_gpu:
        context, workers = "spawn", min(workers, GPU_PROCESSES * torch.cuda.device_count())
    for item in DataLoader(
        features, batch_size=None, num_workers=workers, multiprocessing_context=context
    ):
        yield [layer.numpy() for layer in item]
