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
checkpoint, whose encoder was trained on: what is then trained from that checkpoint
(quant_transformer, --finetuned-st-model) with --freeze-hubert can read those features.
"""

import argparse
import contextlib
from pathlib import Path

from tqdm import tqdm

from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.corpus.prepared import audio_folder, read_config
from cress_svcd.data.feature_cache import file_digest, segments_digest, writing_features
from cress_svcd.errors import ConfigError
from cress_svcd.inference.feature_extraction import (
    Waveforms,
    devices,
    encode,
    frozen_encoder,
    is_current,
)
from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT


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
        help="processes that read the audio, and encode it where there is no GPU (default: "
        "%(default)s); all visible GPUs encode",
    )
    parser.add_argument("--force", action="store_true", help="also what is up to date")


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
    encoders = [frozen_encoder(args.hubert_model_path).to(device) for device in devices()]
    digest = file_digest(args.hubert_model_path)
    root = audio_folder(args.data, config)
    for split in args.splits:
        manifest = args.data / f"{split}.tsv"
        frame = read_manifest(manifest)
        about = {"segments": segments_digest(frame), "hubert": digest}
        wanted = {
            layer: folder
            for layer, folder in folders.items()
            if args.force or not is_current(folder, split, frame, digest, layer)
        }
        if not wanted:
            print(f"{split}: up to date")
            continue
        waves = Waveforms(manifest, frame, root, normalize)
        segments = encode(waves, encoders, list(wanted), args.workers)
        progress = tqdm(segments, total=len(frame), desc=f"encoding {split}", unit="segment")
        dimensions = {OUTPUT: encoders[0].output_dim, CONVOLUTIONS: encoders[0].convolutions[-1][0]}
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
