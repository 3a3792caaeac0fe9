#!/usr/bin/env python3
"""Time whole translations on the CPU: a packed model against fp32, bf16 and torch's dynamic int8.

    python scripts/bench/translation.py -o runs/bench --threads 2
    python scripts/bench/translation.py -o runs/bench --seconds 3 6 --rounds 3 --methods fp32 packed

Writes translation.json and translation.png.  The model has HuBERT-Base's dimensions, 6 + 6 layers
of 512 and a vocabulary of 10,000; its weights are random, so the translations mean nothing and
their length is fixed: --tokens-per-second of audio.  Sentences are translated one by one.

Each method has a process of its own; they take turns, sentence by sentence, so that a busy machine
disturbs all alike.  Medians are reported, of the time and of the processors' time, which others at
work disturb less; ratios are taken within a round.  Memory is read from outside (/proc):
``weights_mb`` is what loading the model adds to the process, ``peak_mb`` the most that the process
ever held, Python and torch included (``before_mb``).  A last round measures the parts, in seconds
of all sentences.

Methods:
    fp32, bf16     the plain checkpoint
    dynamic_int8   its linear layers by torch.ao.quantization.quantize_dynamic
    packed         every transformer layer in 1 bit; embeddings, output projection and convolutions
                   stored in int8; computed in fp32 but for 1-bit layers, the output projection and,
                   with AMX, the convolutions (hi/lo split of the input in bf16: 3e-6 from fp32);
                   with AVX-512-VNNI, those in three int8 parts, as precise as fp32
    packed_bf16    the same, convolutions computed in bf16 (pack --bf16-convolutions), or with
                   AVX-512-VNNI with a hi/lo split in int8
    packed_4_bits  as packed, with 4 bits instead of int8 in the file
    packed_3_3_3, packed_2_2_2, packed_2_1_2, packed_2_1_1
                   the same with other bits of HuBERT's convolutions, subsampler and embeddings;
                   where --methods names them
    engine         the engine in C (native/) from Python without torch, on the packed model; needs
                   make, a C compiler and the extra export; it has no parts

--avx2 holds torch, its libraries, our kernels and the engine to AVX2.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from random_model import PACKED, make_models
from tqdm import tqdm
from translation_worker import Worker

from cress_svcd.atomic_files import write_json
from cress_svcd.cli.main import main as command
from cress_svcd.evaluation.plots import figure

METHODS = ("fp32", "bf16", "dynamic_int8", "packed", "packed_bf16", "packed_4_bits", "engine")
CHOICES = tuple(dict.fromkeys((*METHODS, *PACKED)))
NATIVE = Path(__file__).resolve().parents[2] / "native"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "CRESS_SVCD_ISA": "avx2",
}


def make_files(folder: Path, methods: list[str]) -> dict[str, Path]:
    """Name of the method -> its model; the engine's is made of the packed one."""
    by_torch = [name for name in methods if name != "engine"]
    if "engine" not in methods:
        return make_models(folder, by_torch)
    files = make_models(folder, {*by_torch, "packed"})
    files["engine"] = folder / "packed.cress"
    if not files["engine"].exists():
        command(["export", str(files["packed"]), "-o", str(files["engine"])])
    return {name: files[name] for name in methods}


def compiled(folder: Path, avx2: bool) -> Path:
    """The engine's library."""
    made = folder.resolve() / f"engine{'_avx2' * avx2}" / "libcress.so"
    flags = "-O3 -DCRESS_NO_AVX512" if avx2 else "-O3"
    target = [f"BUILD={made.parent}", f"CFLAGS={flags}", made]
    subprocess.run([*map(str, ["make", "-s", "-C", NATIVE, *target])], check=True)
    return made


def measure(files: dict[str, Path], args: argparse.Namespace) -> dict:
    libraries = {"engine": compiled(args.output, args.avx2)} if "engine" in files else {}
    workers = {
        name: Worker(name, path, args.threads, args.beam, libraries.get(name))
        for name, path in files.items()
    }
    results: dict = {name: {"seconds": [], "cpu_seconds": []} for name in files}
    sentences = [
        {
            "do": "translate",
            "seed": number,
            "seconds": seconds,
            "tokens": max(1, round(seconds * args.tokens_per_second)),
        }
        for number, seconds in enumerate(args.seconds)
    ]
    for name, worker in tqdm(workers.items(), desc="loading", unit="model"):
        before = worker.memory("VmRSS")
        start = time.perf_counter()
        worker.ask(do="load")
        results[name] |= {
            "load_seconds": round(time.perf_counter() - start, 2),
            "file_mb": round(files[name].stat().st_size / 1e6, 1),
            "before_mb": before,
            "weights_mb": round(worker.memory("VmRSS") - before, 1),
        }
    rounds = tqdm(range(args.rounds + 1), desc="rounds", unit="round")
    for number in rounds:
        totals = dict.fromkeys(workers, 0.0)
        cpu_totals = dict.fromkeys(workers, 0.0)
        for sentence in sentences:
            for name, worker in workers.items():
                taken, cpu, tokens = worker.ask(**sentence)
                if tokens != sentence["tokens"]:
                    raise SystemExit(f"{name}: {tokens} tokens, {sentence['tokens']} expected")
                totals[name] += taken
                cpu_totals[name] += cpu
        if number:  # the first round warms up
            for name, total in totals.items():
                results[name]["seconds"].append(round(total, 4))
                results[name]["cpu_seconds"].append(round(cpu_totals[name], 4))
    for name, worker in workers.items():
        results[name]["peak_mb"] = worker.memory("VmHWM")
        worker.ask(do="profile")
    for sentence in sentences:
        for worker in workers.values():
            worker.ask(**sentence)
    for name, worker in workers.items():
        results[name]["parts"] = worker.ask(do="parts")
        worker.close()
    summarize(results)
    return {
        "torch": torch.__version__,
        "threads": args.threads,
        "avx2": args.avx2,
        "beam": args.beam,
        "audio_seconds": args.seconds,
        "tokens": [sentence["tokens"] for sentence in sentences],
        "results": results,
    }


def summarize(results: dict) -> None:
    """Add medians and ratios."""
    for result in results.values():
        result["median_seconds"] = round(statistics.median(result["seconds"]), 4)
        result["median_cpu_seconds"] = round(statistics.median(result["cpu_seconds"]), 4)
        result["times_faster_than"] = {
            other: round(
                statistics.median(a / b for a, b in zip(theirs["seconds"], result["seconds"])), 2
            )
            for other, theirs in results.items()
            if theirs is not result
        }
        if "fp32" in results:
            share = result["weights_mb"] / results["fp32"]["weights_mb"]
            result["share_of_fp32_weights"] = round(share, 3)


def table(report: dict) -> str:
    results = report["results"]
    names = list(results)
    lines = [f"{'':24}" + "".join(f"{name:>14}" for name in names)]

    def row(title: str, values: list) -> None:
        lines.append(f"{title:24}" + "".join(f"{value:>14}" for value in values))

    for key in (
        "median_seconds",
        "median_cpu_seconds",
        "file_mb",
        "load_seconds",
        "before_mb",
        "weights_mb",
        "peak_mb",
    ):
        row(key, [results[name][key] for name in names])
    for other in names:
        row(
            f"times faster than {other}"[:24],
            [results[name]["times_faster_than"].get(other, "") for name in names],
        )
    for part in results[names[0]]["parts"]:
        row(f"  {part}", [results[name]["parts"].get(part, "") for name in names])
    return "\n".join(lines)


def draw(report: dict, path: Path) -> None:
    """Stacked bars of the parts, and bars of the memory."""
    results = report["results"]
    names = list(results)
    with figure(path, 2, width=5.5, height=4) as (left, right):
        height = np.zeros(len(names))
        for part in results[names[0]]["parts"]:
            values = np.array([results[name]["parts"].get(part, 0) for name in names])
            left.bar(names, values, bottom=height, label=part)
            height += values
        left.set(
            ylabel="seconds",
            title=f"{sum(report['audio_seconds']):g} s of speech, {report['threads']} threads, "
            f"beam {report['beam']}",
        )
        left.legend(fontsize=7)
        right.bar(names, [results[name]["peak_mb"] for name in names], label="peak of the process")
        right.bar(names, [results[name]["weights_mb"] for name in names], label="model")
        right.set(ylabel="MB", title="memory")
        right.legend(fontsize=7)
        for panel in (left, right):
            panel.tick_params(axis="x", labelsize=8)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=CHOICES)
    parser.add_argument(
        "--seconds", nargs="+", type=float, default=[2.0, 4.0, 6.0, 10.0], help="of the sentences"
    )
    parser.add_argument("--tokens-per-second", type=float, default=5.0)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--avx2", action="store_true", help="no instructions beyond AVX2")
    args = parser.parse_args()
    if args.avx2:
        os.environ.update(AVX2)  # of the workers
    models = args.output / "translation_models"
    models.mkdir(parents=True, exist_ok=True)
    report = measure(make_files(models, args.methods), args)
    write_json(args.output / "translation.json", report)
    sys.stdout.write(table(report) + "\n")
    try:
        draw(report, args.output / "translation.png")
    except ImportError:
        logging.warning("no picture: matplotlib is not installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
