"""Pack the audio of prepared data into a few large files, for network file systems.

  cress-svcd shard-audio data/en-de -o data/en-de-shards

DATA is the output of prepare-mustc.  OUT is a folder of the same kind that needs no release any
more: manifests, vocabulary and config, and in OUT/audio the segments of all manifests, one behind
the other in WAV files of bounded size (16 kHz, one channel), read by seeking.  What no segment
uses is left behind.  Train with OUT instead of DATA; --text-data may name DATA's folder.

Samples are kept in 16 bits: recordings that have no more (MuST-C's) give the very same waveforms.
Of others (resampled, several channels, Vorbis) the rest is rounded away, at most 1/65,536 of full
scale, and they are counted; --exact keeps 32 bits, in twice the space.

Segments lie end to end in OUT, without what stood between them: training with --vary-cuts lets in
silence there but no neighbouring speech, --join-segments joins nothing, and train-segmenter takes
DATA, not OUT.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cress_svcd.cli.arguments import thread_count
from cress_svcd.errors import ConfigError

if TYPE_CHECKING:
    import pandas

CONFIG_FILE = "config.yaml"
AUDIO_FOLDER = "audio"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="output of prepare-mustc")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write to"
    )
    parser.add_argument(
        "--megabytes",
        type=int,
        default=500,
        metavar="N",
        help="largest file, at most 4000 (default: %(default)s)",
    )
    parser.add_argument(
        "--exact", action="store_true", help="keep samples in 32 bits rather than in 16"
    )
    parser.add_argument(
        "--workers",
        type=thread_count,
        default=os.cpu_count(),
        metavar="N",
        help="files written at a time (default: all cores)",
    )


def run(args: argparse.Namespace) -> None:
    from cress_svcd.data.audio_shards import MOST_BYTES
    from cress_svcd.data.corpus.manifest import read_manifest
    from cress_svcd.data.corpus.prepared import audio_folder, read_config

    most_bytes = args.megabytes * 1_000_000
    if not 0 < most_bytes <= MOST_BYTES:
        raise ConfigError(f"--megabytes {args.megabytes}: expected 1 to {MOST_BYTES // 1_000_000}")
    if args.workers < 1:
        raise ConfigError(f"--workers {args.workers}: expected 1 or more")
    config = read_config(args.data)
    if args.output.exists() and args.output.samefile(args.data):
        raise ConfigError(f"-o {args.output}: the folder of DATA; name another")
    # Hidden ones are other programs', such as macOS's ._train.tsv.
    manifests = sorted(path for path in args.data.glob("*.tsv") if path.name[0] != ".")
    if not manifests:
        raise ConfigError(f"{args.data}: no manifest (*.tsv); expected the output of prepare-mustc")
    root = audio_folder(args.data, config)
    # What is wrong with one of them shall not wait for hours of work.
    frames = {manifest: read_manifest(manifest) for manifest in manifests}
    named = named_files(args.data, config)
    for manifest, frame in frames.items():
        shard_manifest(manifest, frame, root, args, most_bytes)
    # Last: without it the folder is of no use, so that none passes for whole that is not.
    copy_rest(args.output, config, named)
    print(f"train with  {args.output}")


def shard_manifest(
    manifest: Path, frame: "pandas.DataFrame", root: str, args: argparse.Namespace, most_bytes: int
) -> None:
    """Write the shards of a manifest, then the manifest that names them."""
    from tqdm import tqdm

    from cress_svcd.data.audio_shards import plan_shards, write_shards
    from cress_svcd.data.corpus.manifest import write_manifest

    shards = plan_shards(
        args.output / AUDIO_FOLDER / manifest.stem,
        frame["audio"].tolist(),
        frame["n_frames"].tolist(),
        root,
        most_bytes,
        args.exact,
    )
    specs: list[str] = []
    rounded = 0
    with tqdm(total=len(frame), desc=manifest.stem, unit="segment", disable=None) as bar:
        for shard, changed in write_shards(shards, min(args.workers, len(shards))):
            specs.extend(map(str, shard.specs()))
            rounded += changed
            bar.update(len(shard.audio))
    frame["audio"] = specs
    write_manifest(args.output / manifest.name, frame.to_dict("records"))
    note = f", {rounded:,} of them rounded to 16 bits" if rounded else ""
    print(f"{manifest.stem:<12}{len(frame):>10,} segments in {len(shards)} files{note}")


def named_files(data: Path, config: dict) -> dict[str, Path]:
    """The files of the vocabulary by their names in ``config``, which start at its folder.

    Raises:
        ConfigError: one is missing.
    """
    names = (config["bpe_tokenizer"]["sentencepiece_model"], config["vocab_filename"])
    files = {name: data / name for name in names}
    for file in files.values():
        if not file.is_file():
            raise ConfigError(f"{file}: no such file, which {data / CONFIG_FILE} names")
    return files


def copy_rest(out: Path, config: dict, named: dict[str, Path]) -> None:
    """Copy the files of the vocabulary; write the config, whose names for them hold there.

    They keep their places below the config.  One that lies elsewhere is put next to it, unless its
    path is absolute: that stays as it is.
    """
    import yaml

    from cress_svcd.atomic_files import replacing, write_text
    from cress_svcd.data.audio_shards import SHARDED

    places: dict[str, str] = {}
    for name, file in named.items():
        places[name] = name if os.path.isabs(name) else os.path.normpath(name)
        if places[name].split(os.sep)[0] == os.pardir:
            place = os.path.basename(name)
            while place in (CONFIG_FILE, *places.values()):
                place = f"_{place}"
            places[name] = place
        if (out / places[name]).resolve() != file.resolve():
            with replacing(out / places[name]) as temporary:
                shutil.copyfile(file, temporary)
    tokenizer = config["bpe_tokenizer"]
    model = places[tokenizer["sentencepiece_model"]]
    changes = {
        "bpe_tokenizer": {**tokenizer, "sentencepiece_model": model},
        "vocab_filename": places[config["vocab_filename"]],
        "audio_root": AUDIO_FOLDER,
        SHARDED: True,
    }
    write_text(out / CONFIG_FILE, yaml.safe_dump({**config, **changes}, sort_keys=False))
