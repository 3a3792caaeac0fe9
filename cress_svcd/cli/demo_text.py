"""Generate a small parallel corpus of everyday sentences, English to German or Romanian.

The sentences are composed from a lexicon and a grammar, so every translation is right; some 500
English word forms with numbers, clock times, dates, questions, negation, modals, subordinate and
relative clauses.  No sentence occurs twice, in any split, on either side.  Every English word of
dev and tst-COMMON occurs in train.

Example:

  cress-svcd demo-text --tgt-lang de -o demo/text

It writes into the folder, line-aligned, one sentence a line:

  train.en train.de  dev.*  tst-COMMON.*    for 'cress-svcd speak'
  mt.en mt.de                               further pairs, to pretrain text translation
  summary.json                              sizes, vocabularies, shares of questions, ...

The same options give the same files, on every machine; --mt-train changes only mt.*.
"""

import argparse
from pathlib import Path
from typing import Any

from cress_svcd.data.everyday import LANGUAGES, make_corpus, write_corpus

_COLUMNS = {
    "sentences": "sentences",
    "english_vocabulary": "words en",
    "target_vocabulary": "words {language}",
    "words_per_sentence": "mean length",
    "share_questions": "questions",
    "share_subordinate": "subordinate",
    "share_negative": "negative",
    "share_numbers": "numbers",
    "share_times": "times",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tgt-lang",
        required=True,
        metavar="LANG",
        help=f"language of the translations: {', '.join(LANGUAGES)}",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the corpus")
    for option, default, what in (
        ("--train", 2400, "training sentences"),
        ("--dev", 100, "development sentences"),
        ("--test", 200, "test sentences (tst-COMMON)"),
        ("--mt-train", 20_000, "further pairs for text translation; 0: none"),
    ):
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{what}; default: %(default)s"
        )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    corpus = make_corpus(
        args.tgt_lang, args.train, args.dev, args.test, args.mt_train, seed=args.seed
    )
    figures = write_corpus(args.output, args.tgt_lang, corpus, args.seed)
    print(_table(args.tgt_lang, figures))
    print(f"written to {args.output}")
    return 0


def _table(language: str, figures: dict[str, dict[str, Any]]) -> str:
    """The figures of the splits, a split a line."""
    header = ["split"] + [title.format(language=language) for title in _COLUMNS.values()]
    rows = [[split] + [str(row[key]) for key in _COLUMNS] for split, row in figures.items()]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in [header, *rows]
    )
