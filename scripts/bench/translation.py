#!/usr/bin/env python3
"""Time whole translations on the CPU: a packed model against fp32, bf16 and torch's dynamic int8.

    python scripts/bench/translation.py -o runs/bench --threads 2
    python scripts/bench/translation.py -o runs/bench --seconds 3 6 --rounds 3 --methods fp32 packed

Writes translation.json and translation.png.  The model has HuBERT-Base's dimensions, 6 + 6 layers
of 512 and a vocabulary of 10,000; its weights are random, so the translations mean nothing and
their length is fixed: --tokens-per-second of audio.  Sentences are translated one by one.

Each method has a process of its own; they take turns, sentence by sentence, so that a busy machine
disturbs all alike.  Medians are reported, ratios are taken within a round.  Memory is read from
outside (/proc): ``weights_mb`` is what loading the model adds to the process, ``peak_mb`` the most
that the process ever held, Python and torch included (``before_mb``).  A last round measures the
parts, in seconds of all sentences.

Methods:
    fp32, bf16     the plain checkpoint
    dynamic_int8   its linear layers by torch.ao.quantization.quantize_dynamic
    packed         every transformer layer in 1 bit; embeddings, output projection and convolutions
                   stored in int8; computed in fp32 but for 1-bit layers, the output projection and,
                   with AMX, the convolutions (hi/lo split of the input in bf16: 3e-6 from fp32);
                   with AVX-512-VNNI, those in three int8 parts, as precise as fp32
    packed_bf16    the same, convolutions computed in bf16 (pack --bf16-convolutions), or with
                   AVX-512-VNNI with a hi/lo split in int8
"""

import argparse
import functools
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cress_svcd.atomic_files import write_json, write_text
from cress_svcd.evaluation.plots import figure

METHODS = ("fp32", "bf16", "dynamic_int8", "packed", "packed_bf16")
PACKED = {
    "packed": ["--int8-embeddings", "--int8-convolutions"],
    "packed_bf16": ["--int8-embeddings", "--int8-convolutions", "--bf16-convolutions"],
}
VOCABULARY = 10_000
HUBERT_BASE = {
    "_name": "hubert",
    "label_rate": 50,
    "extractor_mode": "default",
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "final_dim": 256,
}


# The models


def make_models(
    folder: Path, methods: Iterable[str], packed: Mapping[str, list[str]] = PACKED
) -> dict[str, Path]:
    """Checkpoints of the random model: name of the method -> file; made once in ``folder``.

    Args:
        packed: options of pack for the methods that are packed; the others share the plain file.
    """
    files = {
        name: folder / ("model.pt" if name not in packed else f"{name}.pt") for name in methods
    }
    if all(file.exists() for file in files.values()):
        return files
    from fairseq import tasks
    from omegaconf import OmegaConf

    import cress_svcd  # noqa: F401 - registers the plug-in
    from cress_svcd.atomic_files import write_checkpoint
    from cress_svcd.cli.main import main as command
    from cress_svcd.models.hubert_checkpoint import HubertDescription
    from cress_svcd.models.hubert_transformer_config import HubertTransformerConfig
    from cress_svcd.quantization import LayerSpec, Policy, Rule, apply_policy, quantization_map
    from cress_svcd.tasks.options import SpeechAndTextTranslationConfig

    entries = "".join(f"piece{number} 1\n" for number in range(VOCABULARY - 4))
    write_text(folder / "dictionary.txt", entries)
    write_text(
        folder / "config.yaml",
        "vocab_filename: dictionary.txt\nuse_audio_input: true\nsrc_lang: en\ntgt_lang: de\n",
    )
    description = HubertDescription(HUBERT_BASE, False, 16_000, 50.0, (504,))
    model_cfg = OmegaConf.structured(
        HubertTransformerConfig(
            _name="hubert_transformer",
            hubert_description=description.to_json(),
            max_source_positions=1024,
            max_target_positions=1024,
        )
    )
    task_cfg = OmegaConf.create(
        {
            "task": OmegaConf.structured(
                SpeechAndTextTranslationConfig(
                    _name="speech_and_text_translation",
                    data=str(folder),
                    save_dir="",
                    restore_file="",
                    cpu=True,
                    ddp_backend="no_c10d",
                    find_unused_parameters=False,
                    distributed_world_size=1,
                )
            )
        }
    ).task
    torch.manual_seed(0)
    task = tasks.setup_task(task_cfg)
    model = task.build_model(model_cfg)

    def save(path: Path, quantization: dict) -> None:
        model_options = OmegaConf.to_container(model_cfg, enum_to_str=True)
        task_options = {"_name": task_cfg._name, "data": str(folder), "config_yaml": "config.yaml"}
        state = {
            "args": None,
            "cfg": {
                "task": task_options,
                "model": {**model_options, "quantization_map": json.dumps(quantization)},
            },
            "model": model.state_dict(),
            "criterion": None,
            "optimizer_history": [
                {
                    "num_updates": 0,
                    "criterion_name": "",
                    "optimizer_name": "",
                    "lr_scheduler_state": {},
                }
            ],
            "task_state": task.state_dict(),
            "extra_state": {"train_iterator": {"epoch": 1}},
        }
        write_checkpoint(path, state)

    save(folder / "model.pt", {})
    layers = "decoder.layers.*", "encoder.layers.*", "encoder.hubert.encoder.layers.*"
    apply_policy(model, Policy((Rule(layers, LayerSpec("svcd", {"init": "row"})),)))
    save(folder / "quantized.pt", quantization_map(model))
    for name, file in files.items():
        if name in packed:
            command(
                [
                    "pack",
                    str(folder / "quantized.pt"),
                    "-o",
                    str(file),
                    "--json",
                    str(folder / f"{name}.json"),
                    *packed[name],
                ]
            )
    (folder / "quantized.pt").unlink()
    return files


# One method, in a process of its own


class Stopwatch:
    """Seconds spent in functions of a model, by the name of the part.

    ``finish`` waits for work that a function has only begun, as one on a GPU does.
    """

    def __init__(self, finish: Callable[[], None] = lambda: None) -> None:
        self.seconds: dict[str, float] = {}
        self.finish = finish

    def watch(self, owner: object, attribute: str, part: str) -> None:
        """Measure the method ``attribute`` of ``owner``."""
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def timed(*args, **kwargs):
            self.finish()
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.finish()
            spent = time.perf_counter() - start
            self.seconds[part] = self.seconds.get(part, 0.0) + spent
            return result

        setattr(owner, attribute, timed)

    def parts(self) -> dict[str, float]:
        """Each part without the parts inside it."""
        spent = dict(self.seconds)
        for outer, inner in (
            ("search", ("encoder", "decoder", "reordering")),
            ("encoder", ("HuBERT convolutions", "HuBERT transformer", "subsampler")),
            ("HuBERT transformer", ("HuBERT positions",)),
            ("decoder", ("output projection",)),
        ):
            spent[outer] -= sum(spent.get(part, 0.0) for part in inner)
        return {part: round(value, 4) for part, value in spent.items()}


def watched(translator, finish: Callable[[], None] = lambda: None) -> Stopwatch:
    """A stopwatch on the parts of the translator's model."""
    watch, model = Stopwatch(finish), translator.model
    hubert, ensemble = model.encoder.hubert, translator.generator.model
    watch.watch(translator.task, "inference_step", "search")
    watch.watch(model.encoder, "forward_torchscript", "encoder")
    watch.watch(hubert, "_convolve", "HuBERT convolutions")
    watch.watch(hubert.encoder, "forward", "HuBERT transformer")
    watch.watch(hubert.encoder.pos_conv, "forward", "HuBERT positions")
    watch.watch(model.encoder.subsampler, "forward", "subsampler")
    watch.watch(ensemble, "forward_decoder", "decoder")
    watch.watch(model.decoder.output_projection, "forward", "output projection")
    watch.watch(ensemble, "reorder_incremental_state", "reordering")
    watch.watch(ensemble, "reorder_encoder_out", "reordering")
    return watch


def noise(seed: int, seconds: float) -> np.ndarray:
    """A recording, float32."""
    samples = round(seconds * 16_000)
    return np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)


def fix_length(translator, tokens: int) -> None:
    """Have every translation take ``tokens`` tokens."""
    generator = translator.generator
    generator.min_len = generator.max_len_b = tokens
    generator.max_len_a = 0


def load(method: str, path: Path, beam: int):
    """The translator of ``method``."""
    from cress_svcd.translation.translator import Translator

    translator = Translator.load(
        path,
        data=None if method in PACKED else path.parent,
        device="cpu",
        beam=beam,
        batch_seconds=0,
        segmentation=None,
    )
    if method == "bf16":
        translator.model.bfloat16()
    if method == "dynamic_int8":
        from fairseq.modules import MultiheadAttention

        from cress_svcd.models.attention import call_projections

        for module in translator.model.modules():
            if isinstance(module, MultiheadAttention):
                call_projections(module)  # fairseq would read weights, which are no tensors now
        torch.ao.quantization.quantize_dynamic(
            translator.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True
        )
    return translator


def work(method: str, path: Path, threads: int, beam: int) -> None:
    """Answer requests on standard input, a JSON object a line, on standard output."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    import cress_svcd.translation.translator  # noqa: F401 - so that its memory counts as before

    def answer(value: object) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    answer("ready")
    translator = watch = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "load":
            translator = load(method, path, beam)
            answer("loaded")
        elif request["do"] == "profile":
            watch = watched(translator)
            answer("watching")
        elif request["do"] == "parts":
            answer(watch.parts())
        else:
            fix_length(translator, request["tokens"])
            wave = noise(request["seed"], request["seconds"])
            start = time.perf_counter()
            found = translator.translate(wave)
            answer([time.perf_counter() - start, len(found.tokens)])


class Worker:
    """The process of a method."""

    def __init__(self, method: str, path: Path, threads: int, beam: int):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", method, str(path), str(threads), str(beam)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of a method ended: status {self.process.wait()}")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def memory(self, key: str) -> float:
        """VmRSS or VmHWM in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
        raise KeyError(key)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


# Report


def measure(files: dict[str, Path], args: argparse.Namespace) -> dict:
    workers = {name: Worker(name, path, args.threads, args.beam) for name, path in files.items()}
    results: dict = {name: {"seconds": []} for name in files}
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
        for sentence in sentences:
            for name, worker in workers.items():
                taken, tokens = worker.ask(**sentence)
                if tokens != sentence["tokens"]:
                    raise SystemExit(f"{name}: {tokens} tokens, {sentence['tokens']} expected")
                totals[name] += taken
        if number:  # the first round warms up
            for name, total in totals.items():
                results[name]["seconds"].append(round(total, 4))
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
        "beam": args.beam,
        "audio_seconds": args.seconds,
        "tokens": [sentence["tokens"] for sentence in sentences],
        "results": results,
    }


def summarize(results: dict) -> None:
    """Add medians and ratios."""
    for result in results.values():
        result["median_seconds"] = round(statistics.median(result["seconds"]), 4)
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

    for key in ("median_seconds", "file_mb", "load_seconds", "before_mb", "weights_mb", "peak_mb"):
        row(key, [results[name][key] for name in names])
    for other in names:
        row(
            f"times faster than {other}"[:24],
            [results[name]["times_faster_than"].get(other, "") for name in names],
        )
    for part in results[names[0]]["parts"]:
        row(f"  {part}", [results[name]["parts"][part] for name in names])
    return "\n".join(lines)


def draw(report: dict, path: Path) -> None:
    """Stacked bars of the parts, and bars of the memory."""
    results = report["results"]
    names = list(results)
    with figure(path, 2, width=5.5, height=4) as (left, right):
        height = np.zeros(len(names))
        for part in results[names[0]]["parts"]:
            values = np.array([results[name]["parts"][part] for name in names])
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
    if sys.argv[1:2] == ["--work"]:
        method, path, threads, beam = sys.argv[2:]
        work(method, Path(path), int(threads), int(beam))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--seconds", nargs="+", type=float, default=[2.0, 4.0, 6.0, 10.0], help="of the sentences"
    )
    parser.add_argument("--tokens-per-second", type=float, default=5.0)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    models = args.output / "translation_models"
    models.mkdir(parents=True, exist_ok=True)
    report = measure(make_models(models, args.methods), args)
    write_json(args.output / "translation.json", report)
    sys.stdout.write(table(report) + "\n")
    try:
        draw(report, args.output / "translation.png")
    except ImportError:
        logging.warning("no picture: matplotlib is not installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
