#!/usr/bin/env python3
"""Time training on several GPUs of one machine, and how long they stand idle.

    python scripts/bench/data_parallel.py -o runs/bench --gpus 1 2
    python scripts/bench/data_parallel.py -o runs/bench --gpus 1 2 --batches 2 --updates 160
    python scripts/bench/data_parallel.py -o runs/bench --gpus 1 2 --ddp-backend pytorch_ddp

The base-size model (HuBERT-Base's dimensions trained along, 6 + 6 layers of 512, a vocabulary of
10,000, random weights) is trained by fairseq-train as the recipes' stage st does it: audio read by
seeking in recordings of ten minutes, segments as long as MuST-C's (6.4 s on average, from 1 to 20),
--mt-finetune, every batch up to --max-tokens samples and --batch-size segments.  An update is of
--batches batches, whatever the number of GPUs: 8 as in the recipes, so that the training is the
same; as many as there are GPUs is the most communication there can be.  The batches of an update
are of similar length (--grouped-shuffling): else the GPUs wait for the one with the longest.  One
GPU runs without torchrun.

Throughput is seconds of speech a second from the first log to the last; ``scaling`` is that of one
GPU times, ``idle_percent`` the share of time without any kernel, by nvidia-smi.  Writes
data_parallel.json.

Further options of the training stand behind --, as in

    python scripts/bench/data_parallel.py -o runs/bench --gpus 1 -- --batch-shapes 16

--device cpu rehearses with processes of one thread, on small batches:

    python scripts/bench/data_parallel.py -o runs/rehearsal --device cpu --gpus 1 2 \\
        --updates 6 --batches 2 --max-tokens 60000 --batch-size 2
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
from random_model import VOCABULARY, make_models
from training_options import training_options

from cress_svcd.atomic_files import write_json, write_text
from cress_svcd.models.checkpoints import model_options
from cress_svcd.recipes.runner import child_environment, visible_gpus

RATE = 16_000
TALKS, TALK_SECONDS = 6, 600
SEGMENTS = 24_000
TOKENS_A_SECOND = 3
LOGS = 8  # of which the first is left out


def make_data(folder: Path) -> float:
    """Recordings of noise with a manifest of segments, next to the model's dictionary and config.

    Returns:
        the seconds of all segments.
    """
    random = np.random.default_rng(0)
    for talk in range(TALKS):
        audio = folder / f"talk{talk}.wav"
        if not audio.exists():
            samples = 0.1 * random.standard_normal(TALK_SECONDS * RATE, dtype=np.float32)
            soundfile.write(audio, samples, RATE)
    seconds = np.clip(random.lognormal(np.log(5.2), 0.65, SEGMENTS), 1, 20)
    rows = ["id\taudio\tn_frames\tspeaker\tsrc_text\ttgt_text"]
    for number, length in enumerate(seconds):
        frames = round(length * RATE)
        offset = random.integers(TALK_SECONDS * RATE - frames)
        audio = f"{folder.resolve() / f'talk{number % TALKS}.wav'}:{offset}:{frames}"
        tokens = random.integers(VOCABULARY - 4, size=(2, max(1, round(length * TOKENS_A_SECOND))))
        texts = (" ".join(f"piece{token}" for token in side) for side in tokens)
        rows.append("\t".join([str(number), audio, str(frames), f"talk{number % TALKS}", *texts]))
    write_text(folder / "train.tsv", "\n".join(rows) + "\n")
    return float(seconds.sum())


def command(folder: Path, processes: int, args: argparse.Namespace) -> list[str]:
    description = model_options(folder / "model.pt")["hubert_description"]
    train = [
        *training_options(folder, args.precision, args.device),
        "--user-dir",
        "cress_svcd",
        "--arch",
        "hubert_transformer",
        "--hubert-description",
        description,
        "--max-tokens",
        str(args.max_tokens),
        "--batch-size",
        str(args.batch_size),
        "--grouped-shuffling",
        "--update-freq",
        str(args.batches // processes),
        "--max-update",
        str(args.updates),
        "--num-workers",
        str(args.num_workers),
        "--ddp-backend",
        args.ddp_backend,
        "--no-save",
        "--disable-validation",
        "--log-format",
        "json",
        "--log-interval",
        str(max(1, args.updates // LOGS)),
        *args.options,
    ]
    if processes == 1:
        return ["fairseq-train", *train]
    launch = ["torchrun", "--standalone", f"--nproc-per-node={processes}"]
    return [*launch, "-m", "fairseq_cli.train", *train]


def measure(folder: Path, processes: int, args: argparse.Namespace) -> dict:
    """What watch.py says of a training in so many processes."""
    result = args.output / f"data_parallel.{processes}.json"
    watch = [sys.executable, str(Path(__file__).with_name("watch.py")), str(result), "--"]
    changes = {}
    if args.device == "cuda":
        cards = visible_gpus(os.environ)
        if len(cards) < processes:
            raise SystemExit(f"data_parallel: {processes} GPUs wanted, {len(cards)} visible")
        changes = {"CUDA_VISIBLE_DEVICES": ",".join(cards[:processes]), "OMP_NUM_THREADS": "2"}
    else:
        changes = {"OMP_NUM_THREADS": "1"}
    log = args.output / f"data_parallel.{processes}.log"
    with log.open("w", encoding="utf-8") as sink:
        code = subprocess.run(
            [*watch, *command(folder, processes, args)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=child_environment(changes),
            check=False,
        ).returncode
    if code:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise SystemExit(f"data_parallel: training in {processes} processes failed:\n{tail}")
    return json.loads(result.read_text(encoding="utf-8"))


def machine(device: str) -> str:
    if device == "cpu":
        return "CPU"
    import torch

    return torch.cuda.get_device_name()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2], help="numbers to compare")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--precision", choices=["fp32", "fp16", "bf16"], help="default: fp16, on a CPU fp32"
    )
    parser.add_argument("--ddp-backend", default="legacy_ddp")
    parser.add_argument("--max-tokens", type=int, default=3_000_000, help="samples, of a GPU")
    parser.add_argument("--batch-size", type=int, default=32, help="segments, of a GPU")
    parser.add_argument("--num-workers", type=int, default=4, help="that read audio, of a GPU")
    parser.add_argument("--batches", type=int, default=8, help="of an update, of all GPUs")
    parser.add_argument("--updates", type=int, default=32)
    parser.add_argument(
        "options", nargs="*", metavar="-- OPTION", help="further options of fairseq-train"
    )
    args = parser.parse_args()
    if any(args.batches % processes for processes in args.gpus):
        parser.error(f"--batches {args.batches} is no multiple of each of --gpus {args.gpus}")
    args.precision = args.precision or ("fp16" if args.device == "cuda" else "fp32")
    folder = args.output / "data_parallel"
    folder.mkdir(parents=True, exist_ok=True)
    make_models(folder, ["fp32"])
    total = make_data(folder)
    runs = {}
    for processes in args.gpus:
        measured = measure(folder, processes, args)
        runs[processes] = {
            "speech_seconds_per_second": round(measured["epochs_per_second"] * total, 1),
            "updates_per_second": measured["updates_per_second"],
            "idle_percent": measured.get("gpu_idle_percent"),
            "memory_mib": measured.get("gpu_memory_mib"),
        }
    base = runs[min(runs)]["speech_seconds_per_second"] / min(runs)
    for run in runs.values():
        run["scaling"] = round(run["speech_seconds_per_second"] / base, 2)
    report = {
        "machine": machine(args.device),
        "precision": args.precision,
        "ddp_backend": args.ddp_backend,
        "batches": args.batches,
        "gpus": runs,
    }
    write_json(args.output / "data_parallel.json", report)
    for processes, run in runs.items():
        sys.stdout.write(
            f"{processes} GPU: {run['speech_seconds_per_second']:.0f} s of speech a second, "
            f"{run['updates_per_second']} updates, x {run['scaling']}, "
            f"idle {run['idle_percent']} %\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
