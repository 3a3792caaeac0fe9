"""BLEU of every quantisation method against bits: the rows of docs/methods.md and their picture.

  python scripts/bench/methods.py runs/quality -o runs/methods
  python scripts/bench/methods.py runs/quality -o runs/methods --seed 1 2 3 --only svcd onebit

Each method trains the decoder of the full-precision bench's model (scripts/bench/quality.yaml,
whose folder comes first) for the same updates, by the stage "row" of
scripts/bench/quantization.yaml; then the model is averaged, translates test_2016, and is reported.
A second run goes on where the first one stopped.  --set changes settings of that recipe.

  python scripts/bench/methods.py runs/quality -o runs/methods --set updates=500
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from cress_svcd.cli.main import main as cress_svcd
from cress_svcd.quantization import METHODS

RECIPE = Path(__file__).with_name("quantization.yaml")
# Options besides the method's name, where a paper's choice needs them.
OPTIONS = {"ptq161": ["--quant-calibrate-by=inputs"]}


def run_row(full: Path, folder: Path, method: str, seed: int, settings: list[str]) -> None:
    """Train, average, translate and measure a method; raises CalledProcessError if that fails."""
    options = ["--quant-policy=decoder", f"--quant-method={method}", *OPTIONS.get(method, [])]
    command = [sys.executable, "-m", "cress_svcd.cli.main", "recipe", str(RECIPE)]
    for setting in (
        f"full={full}",
        f"out={folder}",
        f"seed={seed}",
        "parts=false",
        "methods=false",
        f"row={method}",
        f"row_options={json.dumps(options)}",
        *settings,
    ):
        command += ["--set", setting]
    subprocess.run(command, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full", type=Path, help="folder of the full-precision bench")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="trainings of each")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--set", action="append", default=[], help="setting of that recipe")
    args = parser.parse_args()
    rows: dict[str, list[Path]] = {}
    for method in args.only:
        for seed in args.seed:
            folder = args.output / f"{method}-seed{seed}"
            try:
                run_row(args.full, folder, method, seed, args.set)
            except subprocess.CalledProcessError:
                print(f"methods: {method}, seed {seed}: left out, see {folder}/logs")
                continue
            rows.setdefault(method, []).append(folder)
    if not rows:
        return 1
    first = next(iter(rows.values()))[0]
    scores = [f"full={first / f'{next(iter(rows))}.json'}"]
    sizes = []
    for method, folders in rows.items():
        scores += [f"{method}={folder / f'{method}.json'}" for folder in folders]
        sizes += ["--sizes", f"{method}={folders[0] / method / 'report.json'}"]
    tables = ["--csv", f"{args.output}/methods.csv", "--png", f"{args.output}/methods.png"]
    picture = ["--bits-of", "weights", "--title", "methods on the decoder"]
    return cress_svcd(["chart", *scores, *sizes, *tables, *picture])


if __name__ == "__main__":
    sys.exit(main())
