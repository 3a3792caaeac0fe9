#!/usr/bin/env python3
"""Write parallel text of numbers, for a corpus of one-word references, where BLEU means nothing.

    python scripts/bench/spoken_numbers.py -o numbers
    cress-svcd recipe scripts/bench/quality.yaml --set text=numbers --set vocab_size=80 ...

Numbers from 0 to 999, in English words (two hundred seventeen) and as the one word that German has
for them (zweihundertsiebzehn): train.en, train.de, val.*, test_2016.*, as the recipe expects them.
Those of val and test_2016 are in no training sentence: what is tested is whether the parts of a
number have been learnt.
"""

import argparse
import random
import sys
from pathlib import Path

from cress_svcd.atomic_files import write_text

ENGLISH = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
GERMAN = """
    null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn
    sechzehn siebzehn achtzehn neunzehn
"""
GERMAN_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"
VALIDATED, TESTED = 150, 300


def english(number: int) -> str:
    ones, tens = ENGLISH.split(), ENGLISH_TENS.split()
    if number >= 100:
        rest = number % 100
        return f"{ones[number // 100]} hundred" + (f" {english(rest)}" if rest else "")
    if number < len(ones):
        return ones[number]
    return tens[number // 10 - 2] + (f" {ones[number % 10]}" if number % 10 else "")


def german(number: int) -> str:
    ones, tens = GERMAN.split(), GERMAN_TENS.split()
    before = ["", "ein", *ones[2:10]]  # as the beginning of a word
    if number >= 100:
        rest = number % 100
        return f"{before[number // 100]}hundert" + (german(rest) if rest else "")
    if number < len(ones):
        return ones[number]
    return (f"{before[number % 10]}und" if number % 10 else "") + tens[number // 10 - 2]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--sentences", type=int, default=6000, help="of training")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    numbers = list(range(1000))
    draw.shuffle(numbers)
    known = numbers[VALIDATED + TESTED :]
    splits = {
        "train": [draw.choice(known) for _ in range(args.sentences)],
        "val": numbers[:VALIDATED],
        "test_2016": numbers[VALIDATED : VALIDATED + TESTED],
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for split, chosen in splits.items():
        for language, words in (("en", english), ("de", german)):
            text = "".join(f"{words(number)}\n" for number in chosen)
            write_text(args.output / f"{split}.{language}", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
