"""Compute the features of a frozen HuBERT once, so that training need not compute them each epoch.

  cress-svcd extract-features data/en-de --hubert-model-path hubert.pt -o data/en-de/features
  fairseq-train data/en-de … --hubert-model-path hubert.pt --freeze-hubert \\
      --feature-cache data/en-de/features

Where the speech encoder is not trained (--freeze-hubert), training with --feature-cache gives the
same as training without, several times faster; varied cuts repeat themselves, see below.  The
checkpoint still carries the encoder, and generation starts from audio as ever.  Takes 50 ×
dimension × 2 bytes for a second of speech: 140 MB an hour for 384, 276 MB for HuBERT-Base.

Where the encoder's transformer is trained but its convolutions are not
(--freeze-hubert-convolutions), their output can be had in the same way:

  cress-svcd extract-features … --convolutions data/en-de/convolved
  fairseq-train data/en-de … --hubert-model-path hubert.pt --freeze-hubert-convolutions \\
      --feature-cache data/en-de/convolved

Both folders together are made in one pass.

With --vary-cuts the training split is encoded in several variants of its cuts, which training with
the same --vary-cuts and --join-segments takes in turn, an epoch each.  It is not the same as from
audio: of 3 variants the fourth epoch hears the cuts of the first again, and the --seed of this
command decides them, not that of training.

--hubert-model-path also takes a folder as Hugging Face stores HuBERT (config.json, and
model.safetensors or pytorch_model.bin), and a speech translation checkpoint, whose encoder was
trained on: what is then trained from that checkpoint (quant_transformer, --finetuned-st-model) with
--freeze-hubert can read those features.
"""

import argparse
from pathlib import Path

from cress_svcd.cli.arguments import positive, thread_count_or_none
from cress_svcd.cli.quick_imports import import_models
from cress_svcd.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="output of prepare-mustc")
    parser.add_argument(
        "--hubert-model-path", type=Path, required=True, help="the checkpoint, or a folder"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for the encoder's output (--freeze-hubert)"
    )
    parser.add_argument(
        "--convolutions",
        type=Path,
        metavar="FOLDER",
        help="folder for the output of the encoder's convolutions (--freeze-hubert-convolutions)",
    )
    parser.add_argument("--splits", nargs="+", default=["train", "dev"], help="default: train dev")
    parser.add_argument(
        "--workers",
        type=thread_count_or_none,
        default=2,
        help="processes that read the audio, and encode it where there is no GPU (default: "
        "%(default)s); all visible GPUs encode",
    )
    parser.add_argument(
        "--vary-cuts",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the training segments that are cut otherwise, as training's --vary-cuts "
        "does; in each of the --variants, which the epochs take in turn (default: %(default)s)",
    )
    parser.add_argument(
        "--variants",
        type=int,
        default=3,
        help="of the training split where cuts are varied (default: %(default)s)",
    )
    parser.add_argument(
        "--join-segments",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="as training's --join-segments (default: %(default)s)",
    )
    parser.add_argument(
        "--max-audio-positions",
        type=positive,
        default=480_000,
        metavar="N",
        help="samples that no varied segment grows beyond: the smaller of training's "
        "--max-audio-positions and --max-tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--train-split", default="train", help="the one that is varied (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the cuts (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="also what is up to date")


def run(args: argparse.Namespace) -> None:
    import_models()
    from cress_svcd.data.audio_shards import is_sharded, warn_of_shards
    from cress_svcd.data.corpus.manifest import read_manifest
    from cress_svcd.data.corpus.prepared import audio_folder, read_config
    from cress_svcd.data.cut_variation import CutVariation, with_joined
    from cress_svcd.inference.feature_extraction import Cuts, Extraction, devices, frozen_encoder
    from cress_svcd.models.hubert_checkpoint import hubert_digest, read_hubert
    from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT

    folders = {OUTPUT: args.output, CONVOLUTIONS: args.convolutions}
    folders = {layer: folder for layer, folder in folders.items() if folder}
    if len(set(folders.values())) < max(1, len(folders)):
        raise ConfigError("give --output FOLDER, --convolutions FOLDER, or both, not the same")
    config = read_config(args.data)
    # What is wrong with one of them shall not wait for hours of work.
    frames = {split: read_manifest(args.data / f"{split}.tsv") for split in args.splits}
    description, _ = read_hubert(args.hubert_model_path)
    normalize = bool(config.get("standardize_audio", False))
    if description.normalize != normalize:
        raise ConfigError(
            f"{args.data / 'config.yaml'}: key standardize_audio is {normalize}, but the encoder "
            f"was pretrained with normalize={description.normalize}: set the key to that"
        )
    encoders = [frozen_encoder(args.hubert_model_path).to(device) for device in devices()]
    digest = hubert_digest(args.hubert_model_path)
    if args.variants < 1:
        raise ConfigError(f"--variants is {args.variants}, expected 1 or more")
    variation = CutVariation(args.vary_cuts, args.seed) if args.vary_cuts else None
    root = audio_folder(args.data, config)
    work = Extraction(encoders, folders, digest, root, normalize, args.workers, args.force)
    for split, frame in frames.items():
        cuts = Cuts()
        if split == args.train_split and (variation or args.join_segments):
            sharded = is_sharded(config, frame["audio"])
            if sharded:
                warn_of_shards(args.data)
            joined = 0.0 if sharded else args.join_segments
            variants = args.variants if variation else 1
            cuts = Cuts(variation, variants, args.max_audio_positions, not sharded, joined)
            frame = with_joined(frame, joined, root)
        for done in work.extract(args.data / f"{split}.tsv", frame, cuts):
            print(done)
