"""Curves of trainings out of their logs: loss, gradient norm, loss scale, overflows over updates.

  cress-svcd curves constraint=with.log none=without.log --csv curves.csv --png curves.png

A log is what fairseq-train printed with --log-format json (of each --log-interval updates), with a
name before it if you like.  Of several trainings in one log each has its own line, and so has,
broken, what a training was validated on.  ``overflows`` counts, up to each entry, the batches that
were left out because their gradients overflowed in fp16; such a batch makes no update.  A training
that stopped because the loss scale had become too small is marked so.  What no training logged has
no panel.
"""

import argparse
import sys
from pathlib import Path

from cress_svcd.errors import ConfigError

METRICS = ("loss", "gnorm", "loss_scale", "overflows")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", nargs="+", metavar="[NAME=]LOG", help="output of fairseq-train")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=list(METRICS),
        metavar="M",
        help="what is drawn, a panel each: anything that is logged, such as st_nll_loss or "
        f"quant_mix (default: {' '.join(METRICS)})",
    )
    parser.add_argument("--csv", type=Path, help="write a row for each entry there")
    parser.add_argument("--png", type=Path, help="write the picture there")
    parser.add_argument("--json", type=Path, help="write the summary of each log there")


def run(args: argparse.Namespace) -> int:
    from cress_svcd.atomic_files import write_json
    from cress_svcd.evaluation.outputs import named_files
    from cress_svcd.evaluation.plots import write_csv
    from cress_svcd.evaluation.training_curves import (
        draw,
        format_curves,
        read_log,
        summarize,
        table,
    )

    logs = named_files(args.logs)
    curves = []
    left_out = 0
    for name, path in logs.items():
        try:
            curves += read_log(name, path)
        except ConfigError as error:
            if len(logs) == 1:
                raise
            print(f"cress-svcd curves: error: {error}", file=sys.stderr)
            left_out += 1
    if not curves:
        raise ConfigError(f"none of {left_out} logs has a curve; the reasons stand above")
    logged = {key for curve in curves for row in curve.entries for key in row}
    logged |= {
        key for curve in curves for rows in curve.validation.values() for row in rows for key in row
    }
    unknown = [metric for metric in args.metrics if metric not in logged]
    if unknown and args.metrics != list(METRICS):
        raise ConfigError(
            f"--metrics {' '.join(unknown)}: nothing of that name is logged; there are "
            f"{', '.join(sorted(logged))}"
        )
    metrics = [metric for metric in args.metrics if metric in logged]
    summaries = [summarize(curve) for curve in curves]
    print(format_curves(summaries))
    if args.csv:
        write_csv(args.csv, table(curves, metrics))
    if args.png:
        draw(args.png, curves, metrics)
    if args.json:
        write_json(args.json, summaries)
    if left_out:
        print(f"cress-svcd curves: {left_out} of {len(logs)} logs left out", file=sys.stderr)
    return 1 if left_out else 0
