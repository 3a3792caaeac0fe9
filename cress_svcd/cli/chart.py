"""A table and a picture of BLEU, by system or against bits, from JSON files of scores.

  cress-svcd chart full=full.json query=query.json key=key.json --csv table.csv --png table.png
  cress-svcd chart full=full.json decoder=seed1/decoder.json decoder=seed2/decoder.json \\
    --sizes decoder=seed1/decoder.report.json --csv table.csv --png bits.png

Scores are files of 'cress-svcd score --json', or one of 'cress-svcd compare --json', which names
its systems itself and whose 95 % confidence intervals are shown.  A name that is given several
times (seeds) becomes one row: mean and standard deviation.  The first system is the full-precision
one, of which the others keep a share.  --sizes are files of 'cress-svcd report --json': with them
the picture shows BLEU against the bits of a parameter, over the whole model, or with --bits-of
weights of a quantised weight, for methods on the same layers; without them a bar a system.

Where no reference has four tokens, BLEU means nothing: exact match, in percent, is drawn in its
place, and shares are of it, or of chrF where the first system has no exact match.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scores", nargs="+", metavar="[NAME=]JSON", help="the first is the baseline"
    )
    parser.add_argument(
        "--sizes", action="append", default=[], metavar="NAME=JSON", help="report of that system"
    )
    parser.add_argument(
        "--bits-of",
        default="model",
        choices=["model", "weights"],
        help="the picture's bits: of all parameters, or of the quantised weights alone",
    )
    parser.add_argument("--title", default="", help="of the picture")
    parser.add_argument("--csv", type=Path, help="write the table there")
    parser.add_argument("--png", type=Path, help="write the picture there")
    parser.add_argument("--json", type=Path, help="write the rows there")


def run(args: argparse.Namespace) -> None:
    from cress_svcd.atomic_files import write_json
    from cress_svcd.evaluation.plots import write_csv
    from cress_svcd.evaluation.score_chart import draw, format_table, read_scores, read_sizes, table

    rows = table(read_scores(args.scores), read_sizes(args.sizes))
    print(format_table(rows))
    if args.csv:
        write_csv(args.csv, rows)
    if args.json:
        write_json(args.json, rows)
    if args.png:
        draw(args.png, rows, args.title, args.bits_of)
