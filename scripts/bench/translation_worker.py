#!/usr/bin/env python3
"""A method of translation.py in a process of its own, and a stopwatch on the parts of a model.

    translation_worker.py METHOD FILE THREADS BEAM

answers requests on standard input, a JSON object a line, on standard output.
"""

import functools
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from random_model import PACKED, fix_length, noise


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
            start, cpu = time.perf_counter(), time.process_time()
            found = translator.translate(wave)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            answer([seconds, cpu, len(found.tokens)])


class Worker:
    """The process of a method; of the engine in ``library``, if there is one."""

    def __init__(
        self, method: str, path: Path, threads: int, beam: int, library: Path | None = None
    ):
        program = [__file__, method]
        if library is not None:
            program = [str(Path(__file__).with_name("engine_worker.py")), str(library)]
        self.process = subprocess.Popen(
            [sys.executable, *program, str(path), str(threads), str(beam)],
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


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
