#!/usr/bin/env python3
"""How often the engine in C gives fairseq-generate's words and scores, and Python its own.

    python scripts/bench/engine_equality.py demo/en-de/packed.pt demo/en-de/data --lang de

Needs `make -C native` and the extra export.  Each variant translates the test set with beam 5 and
is compared with fairseq-generate, one sentence at a time:

    engine        native/build/cress, of the same model
    engine, avx2  the same with --isa avx2
    exact norms   fairseq-generate whose layer norms, GELUs and attentions are computed in double
                  precision and rounded to float32 once
    batches       fairseq-generate with eight sentences in a batch
    avx2          fairseq-generate with torch and kernels held to AVX2

Differences are of the score of the best hypothesis, in the sentences where its words are the same.
"""

import argparse
import collections
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from server_process import PROGRAM

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "native" / "build" / "cress"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "CRESS_SVCD_ISA": "avx2",
}
Found = list[list[tuple[float, str]]]  # of each sentence: hypotheses, score and words
QUANTILES = (0.5, 0.9, 0.99, 1)


def in_double_precision() -> None:
    """Have torch compute norms, GELUs and attentions of float32 as exactly as float32 can say."""
    import torch
    from torch.nn import functional as F

    def exactly(function):
        def computed(*inputs, **options):
            if inputs[0].dtype != torch.float32 or inputs[0].requires_grad:
                return function(*inputs, **options)
            doubles, named = (
                torch.utils._pytree.tree_map(
                    lambda x: (
                        x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
                    ),
                    each,
                )
                for each in (inputs, options)
            )
            return function(*doubles, **named).float()

        return computed

    for name in ("layer_norm", "gelu", "scaled_dot_product_attention"):
        setattr(F, name, exactly(getattr(F, name)))


def generate(arguments: list[str]) -> None:
    """fairseq-generate in this process."""
    if arguments[0] == "--exact":
        in_double_precision()
        arguments = arguments[1:]
    from fairseq import sequence_generator
    from fairseq_cli.generate import cli_main

    from cress_svcd.translation.search import NoRepeat

    sequence_generator.NGramRepeatBlock = NoRepeat  # fairseq's own forbids nothing, see there
    sys.argv = ["fairseq-generate", *arguments]
    cli_main()


def search_options(args: argparse.Namespace) -> list[str]:
    """What fairseq-generate and the engine are both told."""
    options = {"--max-len-b": args.max_len_b, "--no-repeat-ngram-size": args.no_repeat_ngram_size}
    return [str(word) for pair in options.items() if pair[1] is not None for word in pair]


def by_fairseq(args: argparse.Namespace, *, exact=False, batch=1, environment=None) -> Found:
    command = [sys.executable, __file__, "--generate", *(["--exact"] if exact else [])]
    command += [args.data, "--user-dir", ROOT / "cress_svcd", "--task"]
    command += ["speech_and_text_translation", "--tgt-lang", args.lang, "--gen-subset", args.subset]
    command += ["--path", args.model, "--beam", 5, "--nbest", 5, "--batch-size", batch, "--cpu"]
    command += search_options(args)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    done = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"fairseq-generate: {done.stderr[-2000:]}")
    found: dict[int, list[tuple[float, str]]] = collections.defaultdict(list)
    for line in done.stdout.splitlines():
        if line.startswith("H-" if args.tokens else "D-"):
            number, score, text = line.split("\t")
            found[int(number[2:])].append((float(score), text))
    return [found[number] for number in range(len(found))]


def by_engine(args: argparse.Namespace, model: Path, recordings: Path, *options: str) -> Found:
    command = [ENGINE, "translate", "--no-segmentation", "--nbest", "5", "--output-format", "jsonl"]
    command += search_options(args)
    done = subprocess.run(
        [*map(str, [*command, *options, model, "--list", recordings])],
        capture_output=True,
        text=True,
        check=True,
    )
    found: Found = []
    for record in map(json.loads, done.stdout.splitlines()):
        if "hypothesis" not in record:
            found.append([])
        text = " ".join(record["tokens"]) if args.tokens else record["text"]
        found[-1].append((record["score"], text))
    return found


def require_engine() -> None:
    if not ENGINE.exists():
        raise SystemExit(f"{ENGINE} is missing: make -C native")


def audio_root(args: argparse.Namespace) -> Path:
    """The folder that the manifest's paths begin at."""
    return args.audio or args.data.parent / "release" / f"en-{args.lang}" / "data"


def export(args: argparse.Namespace, folder: str) -> Path:
    """The model as a file for the engine."""
    cress = Path(folder) / "model.cress"
    command = [*PROGRAM, "export", str(args.model), "-o", str(cress)]
    subprocess.run(command, check=True, capture_output=True)
    return cress


def recordings(args: argparse.Namespace, to: Path) -> Path:
    """A list of the test set's recordings, as the engine takes it."""
    with (args.data / f"{args.subset}.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    root = audio_root(args)
    to.write_text("".join(f"{root / row['audio']}\n" for row in rows))
    return to


def compare(name: str, expected: Found, found: Found) -> str:
    pairs = list(zip(expected, found, strict=True))
    best = [(one[0][0], other[0][0]) for one, other in pairs if one[0][1] == other[0][1]]
    lists = sum([text for _, text in one] == [text for _, text in other] for one, other in pairs)
    differences = sorted(abs(one - other) for one, other in best) or [math.nan]
    last = len(differences) - 1
    quantiles = [differences[min(int(q * len(differences)), last)] for q in QUANTILES]
    beyond = sum(difference > 1e-3 for difference in differences)
    numbers = "".join(f"{quantile:>9.4f}" for quantile in quantiles)
    return f"{name:14}{len(best):>6}{lists:>6}{numbers}{beyond:>8}"


def main() -> int:
    if sys.argv[1:2] == ["--generate"]:
        generate(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a packed model")
    parser.add_argument("data", type=Path, help="its prepared corpus")
    parser.add_argument("--lang", required=True, help="the target language")
    parser.add_argument("--subset", default="tst-COMMON")
    parser.add_argument("--audio", type=Path, help="folder that the manifest's paths begin at")
    parser.add_argument("--max-len-b", type=int, help="tokens at most")
    parser.add_argument("--no-repeat-ngram-size", type=int, help="no so many tokens come twice")
    parser.add_argument("--tokens", action="store_true", help="compare tokens instead of words")
    args = parser.parse_args()
    require_engine()
    with tempfile.TemporaryDirectory() as folder:
        listed, cress = recordings(args, Path(folder) / "list"), export(args, folder)
        expected = by_fairseq(args)
        heads = "".join(f"{f'{q:.0%}':>9}" for q in QUANTILES)
        print(f"{len(expected)} sentences  best  all{heads}  > 1e-3")
        for name, found in (
            ("engine", by_engine(args, cress, listed)),
            ("engine, avx2", by_engine(args, cress, listed, "--isa", "avx2")),
            ("exact norms", by_fairseq(args, exact=True)),
            ("batches", by_fairseq(args, batch=8)),
            ("avx2", by_fairseq(args, environment=AVX2)),
        ):
            print(compare(name, expected, found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
