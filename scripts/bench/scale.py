"""Time and memory of the stages that run on CPUs, as the corpus grows; writes JSON.

usage: python scripts/bench/scale.py -o scale.json [--segments 1000 10000 100000 300000]
         [--stages prepare text load shard] [--folder DIR] [--workers N] [--megabytes N]

For each size a release with the proportions of MuST-C is generated (see prepare_scale.py: texts by
Zipf's law, silent audio that takes no room on disk) and goes through

  prepare   cress-svcd prepare-mustc
  text      cress-svcd prepare-text --with-speech-text
  load      what each training process does before its first update: the task, its data sets, and
            the batches of an epoch
  shard     cress-svcd shard-audio, which reads all audio and writes it (about 190 KB a segment);
            only where asked for by --stages

each in a process of its own, whose wall seconds and largest memory (resident set of the process or
of any of its children) are reported.  Silence is read and written at the speed of the disk and of
the page cache: figures of "shard" are about this machine alone.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from prepare_scale import EVALUATION_SEGMENTS, make_split, measure

from cress_svcd.atomic_files import write_json
from cress_svcd.recipes.runner import resolve

STAGES = ("prepare", "text", "load", "shard")
LOAD = """
import sys
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
parser = options.get_training_parser()
arguments = options.parse_args_and_arch(parser, sys.argv[1:])
cfg = convert_namespace_to_omegaconf(arguments)
task = tasks.setup_task(cfg.task)
task.load_dataset("train", epoch=1)
batches = task.get_batch_iterator(
    task.dataset("train"), max_tokens=3_000_000, seed=1, num_workers=0
).next_epoch_itr(shuffle=True)
print(f"{len(batches)} batches")
"""


def commands(folder: Path, segments: int, workers: int, megabytes: int) -> dict[str, list[str]]:
    """The command of each stage."""
    data = folder / "prepared"
    load = [
        data,
        "--user-dir",
        "cress_svcd",
        "--task",
        "speech_and_text_translation",
        "--arch",
        "hubert_transformer",
        "--criterion",
        "speech_and_text_translation",
        "--train-subset",
        "train",
        "--st-training",
        "--mt-finetune",
        "--max-tokens",
        "3000000",
        "--cpu",
    ]
    lines = {
        "prepare": [
            "cress-svcd",
            "prepare-mustc",
            folder / "release",
            "-o",
            data,
            "--tgt-lang",
            "de",
            "--vocab-size",
            min(10_000, 4 * segments),
            "--workers",
            workers,
            "--no-audio-samples",
        ],
        "text": [
            "cress-svcd",
            "prepare-text",
            data,
            "-o",
            folder / "text",
            "--with-speech-text",
            "--workers",
            workers,
        ],
        "load": [sys.executable, "-c", LOAD, *load],
        "shard": [
            "cress-svcd",
            "shard-audio",
            data,
            "-o",
            folder / "shards",
            "--workers",
            workers,
            "--megabytes",
            megabytes,
        ],
    }
    return {name: resolve([str(item) for item in line]) for name, line in lines.items()}


def measure_size(segments: int, folder: Path, args: argparse.Namespace) -> dict:
    """Seconds and memory of each stage over a training split of ``segments``."""
    data = folder / "release" / "en-de" / "data"
    make_split(data, "train", segments, seed=1)
    make_split(data, "dev", EVALUATION_SEGMENTS, seed=2)
    result: dict = {"segments": segments}
    stages = commands(folder, segments, args.workers, args.megabytes)
    for name, command in stages.items():
        if name in args.stages:
            seconds, gigabytes = measure(command)
            result[name] = {"seconds": round(seconds, 1), "peak_gb": round(gigabytes, 2)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--segments", type=int, nargs="+", default=[1_000, 10_000, 100_000, 300_000]
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES[:3])
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--megabytes", type=int, default=500, help="largest shard")
    args = parser.parse_args()
    report: dict = {"workers": args.workers, "cores": os.cpu_count(), "sizes": []}
    for segments in args.segments:
        folder = Path(tempfile.mkdtemp(prefix="scale.", dir=args.folder))
        try:
            report["sizes"].append(measure_size(segments, folder, args))
        finally:
            shutil.rmtree(folder)
        # After each size: the last may take an hour.
        write_json(args.output, report)
        print(json.dumps(report["sizes"][-1]), flush=True)


if __name__ == "__main__":
    main()
