"""Compare translations of the same sentences: scores, and whether they differ by more than chance.

  cress-svcd compare full=results/full.txt svcd=results/svcd.txt packed=results/packed.txt \\
    --manifest data/en-de/tst-COMMON.tsv --json results/comparison.json

Each is an output of fairseq-generate, with a name before it if you like.  The first is the
baseline: the others are tested against it by paired bootstrap resampling (sacreBLEU's, two-sided).
Behind ± stands half of the 95 % confidence interval; a * marks p < 0.05.  References are those of
'cress-svcd score': the manifest's, or the T- lines.
"""

import argparse
from pathlib import Path

from cress_svcd.cli.arguments import TOKENIZERS, positive
from cress_svcd.errors import ConfigError

SIGNIFICANT = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "outputs", nargs="+", metavar="[NAME=]FILE", help="output of fairseq-generate; two or more"
    )
    parser.add_argument("--manifest", type=Path, help="TSV of the split, for its references")
    parser.add_argument(
        "--tokenize",
        default="13a",
        choices=TOKENIZERS,
        help="sacreBLEU's tokenizer (default: %(default)s)",
    )
    parser.add_argument(
        "--resamples", type=positive, default=1000, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=positive, default=12345, help="of the resampling (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write figures and sentences there")


def run(args: argparse.Namespace) -> None:
    from cress_svcd.atomic_files import write_json
    from cress_svcd.evaluation.outputs import named_files, read_systems
    from cress_svcd.evaluation.significance import compare

    paths = named_files(args.outputs)
    if len(paths) < 2:
        raise ConfigError(f"{args.outputs[0]}: one output; two or more can be compared")
    sentences, seconds = read_systems(paths, args.manifest, args.tokenize)
    systems = {name: [each["hypotheses"][name] for each in sentences] for name in paths}
    references = [each["reference"] for each in sentences]
    report = compare(systems, references, args.tokenize, args.resamples, args.seed)
    for row in report["systems"]:
        row["output"] = str(paths[row["name"]])
        if row["name"] in seconds:
            row["seconds"] = seconds[row["name"]]
    print(format_comparison(report))
    if args.json:
        write_json(args.json, {**report, "translations": sentences})


def format_comparison(report: dict) -> str:
    """The table for people."""
    from cress_svcd.evaluation.bleu_chrf import without_4grams

    width = max(len(row["name"]) for row in report["systems"]) + 2
    head = "".join(f"{name:>14}{'diff.':>8}{'p':>9}" for name in ("BLEU", "chrF2"))
    lines = [f"{'':<{width}}{head}{'length':>8}{'same':>7}"]
    for row in report["systems"]:
        cells = "".join(_cells(row, metric) for metric in ("bleu", "chrf"))
        same = row.get("same_sentences", "")
        lines.append(f"{row['name']:<{width}}{cells}{row['length_ratio']:>8.3f}{same:>7}")
    lines.append(
        f"{report['systems'][0]['sentences']} sentences; differences, p and equal translations are "
        f"against {report['baseline']}"
    )
    for row in report["systems"]:
        if warning := without_4grams(row):
            lines.append(f"{row['name']}: {warning}")
    return "\n".join([*lines, report["bleu_signature"], report["chrf_signature"]])


def _cells(row: dict, metric: str) -> str:
    score = f"{row[metric]:.2f} ± {row[f'{metric}_interval']:.2f}"
    if f"{metric}_p" not in row:
        return f"{score:>14}{'':>17}"
    p = row[f"{metric}_p"]
    shown = "same" if p is None else f"{p:.4f}" + ("*" if p < SIGNIFICANT else " ")
    return f"{score:>14}{row[f'{metric}_difference']:>+8.2f}{shown:>9}"
