#!/usr/bin/env python3
"""Time whole translations on a CUDA GPU: packed models against the plain one in half precision.

    python scripts/bench/gpu_translation.py -o runs/bench
    python scripts/bench/gpu_translation.py -o runs/bench --batches 1 2 4 64 --rounds 15

The random model of random_model.py (HuBERT-Base's dimensions, 6 + 6 layers of 512, a vocabulary of
10,000) translates batches of recordings of --seconds each into --tokens tokens each.  The methods
take turns, batch by batch; medians are reported, ratios to the plain model are taken within a
round.  A time is that of ``Translator.translate_batch``: samples in memory to text.

Memory is that of torch's allocator: ``weights_mb`` is what a loaded model holds, ``peak_mb`` these
weights and the most that a translation of a batch held next to them.  The CUDA context, some 500 MB
for any program, and the library workspaces that all methods share are not in it.  A last round
measures the parts of a translation, waiting for the GPU before and after each: their sum is more
than the whole.  Writes gpu_translation.json.  Exit status 2: there is no GPU, or no Triton.

Models:
    float16       the plain checkpoint
    packed        every transformer layer in 1 bit, the rest in float16 (pack --dtype fp16)
    packed_int8   the same; embeddings, output projection and convolutions stored in int8

A method is a model and the way in which it decodes (--decoders): ``eager``, fairseq's own steps, or
``static``, steps captured as CUDA graphs.  ``ratio`` is to the plain model in the first of these
ways, ``same_decoder`` to it in the method's own.  ``caches_mb`` is what a static decoder keeps from
batch to batch (of all batches so far), within ``peak_mb`` neither it nor what the driver takes for
graphs.

--device cpu rehearses all but the memory and the capture, in float32, where there is no GPU:

    python scripts/bench/gpu_translation.py -o runs/rehearsal --device cpu --batches 1 2 \\
        --rounds 1 --seconds 1 --tokens 5
"""

import argparse
import logging
import math
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from random_model import fix_length, make_models, noise
from tqdm import tqdm
from translation_worker import watched

from cress_svcd import kernels
from cress_svcd.atomic_files import write_json
from cress_svcd.quantization.packing import packed_layers
from cress_svcd.translation.translator import Translator

PACKED = {
    "packed": ["--dtype", "fp16"],
    "packed_int8": ["--dtype", "fp16", "--int8-embeddings", "--int8-convolutions"],
}
DECODERS = ("eager", "static")
WARMING = 2  # translations before the first round: kernels are compiled and chosen


class Device:
    """What of a measurement depends on where it is made."""

    def __init__(self, kind: str):
        self.kind, self.is_gpu = kind, kind == "cuda"
        self.dtype = "float16" if self.is_gpu else "float32"

    def machine(self) -> str:
        return torch.cuda.get_device_name() if self.is_gpu else "CPU"

    def finish(self) -> None:
        """Wait for what has been begun."""
        if self.is_gpu and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()

    def held(self) -> int | None:
        """Bytes in tensors; None where nobody counts them."""
        return torch.cuda.memory_allocated() if self.is_gpu else None

    def forget_peak(self) -> None:
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """The most bytes in tensors since ``forget_peak``."""
        return torch.cuda.max_memory_allocated() if self.is_gpu else None


def megabytes(more: int | None, less: int | None) -> float | None:
    return None if more is None or less is None else round((more - less) / 1e6, 1)


def load(path: Path, device: Device, beam: int, decoder: str) -> tuple[Translator, dict]:
    """The translator of a checkpoint, and what loading it shows."""
    before, start = device.held(), time.perf_counter()
    translator = Translator.load(
        path,
        data=path.parent,
        device=device.kind,
        fp16=device.is_gpu,
        beam=beam,
        segmentation=None,
        decoder=decoder,
    )
    device.finish()
    return translator, {
        "decoder": decoder,
        "load_seconds": round(time.perf_counter() - start, 2),
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "weights_mb": megabytes(device.held(), before),
        "backends": sorted({layer.backend for layer in packed_layers(translator.model).values()}),
    }


def recordings(size: int, args: argparse.Namespace) -> list[np.ndarray]:
    return [noise(seed, args.seconds) for seed in range(size)]


def translate(
    translator: Translator, waves: list[np.ndarray], tokens: int, device: Device
) -> float:
    """Seconds for all of them, in one batch.

    Raises:
        SystemExit: a translation is missing, has another length, or a broken score.
    """
    fix_length(translator, tokens)
    translator.batch_seconds = 1.01 * sum(map(len, waves)) / 16_000
    device.finish()
    start = time.perf_counter()
    found = translator.translate_batch(waves)
    device.finish()
    taken = time.perf_counter() - start
    lengths = {len(translation.tokens) for translation in found}
    broken = sum(not math.isfinite(translation.score) for translation in found)
    if len(found) != len(waves) or lengths != {tokens} or broken:
        raise SystemExit(
            f"{len(waves)} utterances of {tokens} tokens expected: found {len(found)} of {lengths} "
            f"tokens, {broken} with a broken score"
        )
    return taken


def ratio(rounds: list[dict[str, float]], name: str, base: str) -> float:
    return round(statistics.median(times[name] / times[base] for times in rounds), 3)


def measure_batches(
    translators: dict[str, Translator], size: int, device: Device, args: argparse.Namespace
) -> dict[str, dict]:
    """Times and memory of batches of ``size`` utterances, by method."""
    waves, above_weights = recordings(size, args), {}
    for name, translator in translators.items():
        for _ in range(WARMING):
            translate(translator, waves, args.tokens, device)
        before = device.held()
        device.forget_peak()
        translate(translator, waves, args.tokens, device)
        above_weights[name] = megabytes(device.peak(), before)
    rounds = [
        {
            name: translate(translator, waves, args.tokens, device)
            for name, translator in translators.items()
        }
        for _ in tqdm(range(args.rounds), desc=f"batches of {size}", unit="round")
    ]
    base = next(iter(translators))
    plain = base.partition(".")[0]
    same = {name: f"{plain}.{name.partition('.')[2]}" for name in translators}
    return {
        name: {
            "milliseconds": [round(1000 * times[name], 2) for times in rounds],
            "median_ms": round(1000 * statistics.median(times[name] for times in rounds), 2),
            "ratio": ratio(rounds, name, base),
            "same_decoder": ratio(rounds, name, same[name]),
            "caches_mb": megabytes(translators[name].generator.model.cache_bytes, 0),
            "decoded_by": translators[name].generator.model.decoded_by,
            "beside_weights_mb": above_weights[name],
        }
        for name in translators
    }


def measure(device: Device, args: argparse.Namespace) -> dict:
    folder = args.output / "gpu_translation_models"
    folder.mkdir(parents=True, exist_ok=True)
    files = make_models(folder, [device.dtype, *args.models], PACKED)
    translators, results = {}, {}
    methods = [(model, decoder) for model in files for decoder in args.decoders]
    for model, decoder in tqdm(methods, desc="loading", unit="model"):
        name = f"{model}.{decoder}"
        translators[name], results[name] = load(files[model], device, args.beam, decoder)
    whole = next(iter(results.values()))["weights_mb"]
    for result in results.values():
        result["share_of_weights"] = whole and round(result["weights_mb"] / whole, 3)
        result["batches"] = {}
    for size in args.batches:
        for name, figures in measure_batches(translators, size, device, args).items():
            above_weights, result = figures["beside_weights_mb"], results[name]
            figures["peak_mb"] = above_weights and round(result["weights_mb"] + above_weights, 1)
            result["batches"][size] = figures
    for name, translator in translators.items():
        watch = watched(translator, device.finish)
        for size in args.batches:
            watch.seconds.clear()
            translate(translator, recordings(size, args), args.tokens, device)
            parts = {part: round(1000 * seconds, 2) for part, seconds in watch.parts().items()}
            results[name]["batches"][size]["parts_ms"] = parts
    return {
        "machine": device.machine(),
        "torch": torch.__version__,
        "computed_in": device.dtype,
        "beam": args.beam,
        "audio_seconds": args.seconds,
        "tokens": args.tokens,
        "results": results,
    }


def table(report: dict) -> str:
    results = report["results"]
    lines = [f"{'':28}" + "".join(f"{name:>20}" for name in results)]

    def row(title: str, values: list) -> None:
        cells = ("-" if value is None else value for value in values)
        lines.append(f"{title:28}" + "".join(f"{cell:>20}" for cell in cells))

    for key in ("file_mb", "load_seconds", "weights_mb", "share_of_weights"):
        row(key, [result[key] for result in results.values()])
    for size, first in next(iter(results.values()))["batches"].items():
        batches = [result["batches"][size] for result in results.values()]
        lines.append(f"batches of {size}")
        for key in ("median_ms", "ratio", "same_decoder", "peak_mb", "caches_mb"):
            row(f"  {key}", [batch[key] for batch in batches])
        for part in first["parts_ms"]:
            row(f"    {part}", [batch["parts_ms"].get(part) for batch in batches])
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 8, 32], help="sentences in a batch"
    )
    parser.add_argument("--models", nargs="*", default=list(PACKED), choices=PACKED)
    parser.add_argument("--decoders", nargs="+", default=list(DECODERS), choices=DECODERS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a recording")
    parser.add_argument("--tokens", type=int, default=25, help="of a translation")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    device = Device(args.device)
    found = kernels.backends()["gpu"]
    if device.is_gpu and not found.available:
        sys.stderr.write(f"gpu_translation: {found.detail}; --device cpu rehearses without one\n")
        return 2
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    report = measure(device, args)
    write_json(args.output / "gpu_translation.json", report)
    sys.stdout.write(f"{report['machine']}\n{table(report)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
