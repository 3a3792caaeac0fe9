#!/usr/bin/env python3
"""Time training steps of the base-size model: full precision against 1-bit transformer layers.

    python scripts/bench/training_step.py -o runs/bench --device cuda --precision fp16 \\
        --sentences 96
    OMP_NUM_THREADS=2 python scripts/bench/training_step.py -o runs/bench --sentences 2 --rounds 3

HuBERT-Base's dimensions trained along, 6 + 6 layers of 512, a vocabulary of 10,000, random weights;
a batch of noise with transcripts and translations, as the recipes' stage st sees it
(--mt-finetune), through fairseq's Trainer: forward, backward, clipping, Adam.  The systems take
turns on the same batch, so that a busy machine disturbs all alike; ratios are taken within a round,
medians reported.  Further options of all trainings stand behind --:

    python scripts/bench/training_step.py -o runs/bench --device cuda --precision fp16 \\
        --sentences 96 --systems full svcd svcd_teacher -- --graph-training

On a GPU a small batch measures how fast Python launches kernels (on an H200, up
to some 300 seconds of audio), a large one the work itself.  Writes training_step.json.

Systems:
    full           full precision
    svcd           decoder, text encoder and HuBERT's transformer in 1 bit
    svcd_unfused   the same without the fused kernels (CUDA)
    svcd_teacher   svcd learning from a full-precision teacher in half precision
"""

import argparse
import gc
import logging
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from random_model import VOCABULARY, make_models
from tqdm import tqdm
from training_options import training_options

from cress_svcd.atomic_files import write_json, write_text
from cress_svcd.kernels.triton import training
from cress_svcd.models.checkpoints import read_checkpoint

SYSTEMS = ("full", "svcd", "svcd_unfused", "svcd_teacher")
RATE = 16_000
TOKENS_A_SECOND = 4


def make_data(folder: Path, sentences: int, seconds: float) -> None:
    """Recordings of noise and their manifest, next to the model's dictionary and config."""
    random = np.random.default_rng(0)
    frames = round(seconds * RATE)
    rows = ["id\taudio\tn_frames\tspeaker\tsrc_text\ttgt_text"]
    for number in range(sentences):
        audio = folder / f"noise{number}.wav"
        if not audio.exists():
            soundfile.write(audio, 0.1 * random.standard_normal(frames), RATE)
        texts = [
            " ".join(f"piece{token}" for token in random.integers(VOCABULARY - 4, size=length))
            for length in [round(seconds * TOKENS_A_SECOND)] * 2
        ]
        rows.append("\t".join([str(number), f"{audio}:0:{frames}", str(frames), "noise", *texts]))
    write_text(folder / "train.tsv", "\n".join(rows) + "\n")


def make_trainer(system: str, folder: Path, args: argparse.Namespace) -> Trainer:
    command = [
        *training_options(folder, args.precision, args.device),
        "--batch-size",
        str(args.sentences),
        "--max-tokens",
        str(10**9),
        "--max-update",
        "100000",
        "--num-workers",
        "0",
        *args.options,
    ]
    start = str(folder / "model.pt")
    if system == "full":
        description = read_checkpoint(start)["cfg"]["model"]["hubert_description"]
        command += ["--arch", "hubert_transformer", "--hubert-description", description]
    else:
        command += ["--arch", "quant_transformer", "--quant-policy", "transformer"]
        command += ["--finetuned-st-model", start]
    if system == "svcd_teacher":
        command += ["--teacher-model", start, "--distill-hidden-weight", "1"]
        command += ["--teacher-fp16"] if args.precision == "fp16" else []
    cfg = convert_namespace_to_omegaconf(
        options.parse_args_and_arch(options.get_training_parser(), command)
    )
    torch.manual_seed(1)
    task = tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    trainer = Trainer(cfg, task, model, criterion)
    task.load_dataset("train")
    batches = trainer.get_train_iterator(epoch=1, load_dataset=False)
    trainer.begin_epoch(1)
    trainer.bench_batch = next(batches.next_epoch_itr(shuffle=False))
    return trainer


def seconds_a_step(system: str, trainer: Trainer, steps: int) -> float:
    fused = training.is_for
    if system == "svcd_unfused":
        training.is_for = lambda x, weight: False
    try:
        started = time.perf_counter()
        for _ in range(steps):
            trainer.train_step([trainer.bench_batch])
        if trainer.cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / steps
    finally:
        training.is_for = fused


def step_memory(system: str, trainer: Trainer) -> int | None:
    """MiB of GPU memory that a step takes beyond what lies there between steps."""
    if not trainer.cuda:
        return None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    seconds_a_step(system, trainer, 1)
    return round((torch.cuda.memory_reserved() - before) / 2**20)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "fp16", "bf16"])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--sentences", type=int, default=32, help="in a batch")
    parser.add_argument("--seconds", type=float, default=5.9, help="of audio in an utterance")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=None, help="timed together (1; on CUDA 4)")
    parser.add_argument("options", nargs="*", help="further options of fairseq-train, behind --")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    steps = args.steps or (4 if args.device == "cuda" else 1)
    systems = [name for name in args.systems if args.device == "cuda" or name != "svcd_unfused"]
    folder = args.output.resolve() / "training_step"
    folder.mkdir(parents=True, exist_ok=True)
    make_models(folder, ["fp32"])
    make_data(folder, args.sentences, args.seconds)
    trainers = {name: make_trainer(name, folder, args) for name in systems}
    for name, trainer in trainers.items():
        seconds_a_step(name, trainer, 2)
    gc.collect()
    rounds = [
        {name: seconds_a_step(name, trainer, steps) for name, trainer in trainers.items()}
        for _ in tqdm(range(args.rounds), desc="rounds")
    ]
    report = {
        "machine": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "precision": args.precision,
        "seconds_of_audio": args.sentences * args.seconds,
        "systems": {
            name: {
                "ms": round(1000 * statistics.median(times[name] for times in rounds), 1),
                "ratio": round(
                    statistics.median(times[name] / times[systems[0]] for times in rounds), 3
                ),
                "step_memory_mib": step_memory(name, trainer),
            }
            for name, trainer in trainers.items()
        },
    }
    write_json(args.output / "training_step.json", report)
    for name, figures in report["systems"].items():
        sys.stdout.write(f"{name:14} {figures['ms']:10.1f} ms  {figures['ratio']:.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
