#!/usr/bin/env python3
"""The random model of the benchmarks, and a test set of noise for it.

    python scripts/bench/random_set.py runs/random --count 20
    python scripts/bench/engine_equality.py runs/random/packed.pt runs/random --lang de \\
      --audio runs/random --max-len-b 30 --no-repeat-ngram-size 3 --tokens

A model of random weights has no favourites among its words: a difference in the last place of a
number soon changes them.  It is the hardest test of whether two programs compute the same.
"""

import argparse
import sys
from pathlib import Path

import soundfile
from noise import noise
from random_model import make_models

from cress_svcd.data.corpus.manifest import Segment, write_manifest


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where all of it goes")
    parser.add_argument("--count", type=int, default=20, help="recordings")
    parser.add_argument("--seconds", type=float, default=4, help="of each")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    make_models(args.folder, ["packed"])
    rows = []
    for number in range(args.count):
        wave = noise(number, args.seconds)
        soundfile.write(args.folder / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        texts = ("piece1", "noise", "noise", "en", "de")
        rows.append(Segment(str(number), f"{number}.wav", len(wave), *texts))
    write_manifest(args.folder / "tst-COMMON.tsv", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
