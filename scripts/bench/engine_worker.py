#!/usr/bin/env python3
"""The engine in C for translation.py, in a process of its own, without torch.

    engine_worker.py LIBRARY FILE THREADS BEAM

answers requests on standard input, a JSON object a line, on standard output; CRESS_SVCD_ISA names
the instructions.
"""

import json
import os
import sys
import time
from pathlib import Path

from noise import noise

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "native" / "python"))
from cress_runtime import Translator, library


def work(path: str, threads: int, beam: int) -> None:
    options = {"threads": threads, "beam": beam, "segmentation": False}
    options["isa"] = os.environ.get("CRESS_SVCD_ISA")

    def answer(value: object) -> None:
        print(json.dumps(value), flush=True)

    answer("ready")
    translators: dict[int, Translator] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "parts":
            answer({})
        elif request["do"] == "translate":
            wave, tokens = noise(request["seed"], request["seconds"]), request["tokens"]
            if tokens not in translators:
                translators[tokens] = Translator(path, max_len_b=tokens, **options)
            start, cpu = time.perf_counter(), time.process_time()
            found = translators[tokens].translate(wave)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            answer([seconds, cpu, sum(len(each.tokens) for each in found.segments)])
        else:
            if request["do"] == "load":
                translators[200] = Translator(path, **options)
            answer("done")


if __name__ == "__main__":
    library.LIBRARY = Path(sys.argv[1])
    work(sys.argv[2], *map(int, sys.argv[3:]))
