"""Score what fairseq-generate wrote: BLEU, chrF and length ratio with sacreBLEU's signatures.

  cress-svcd score results/generate-tst-COMMON.txt --manifest data/tst-COMMON.tsv --json out.json

The hypotheses are the D- lines.  With --manifest the references are its tgt_text as it stands;
without, they are the T- lines, which have passed through the vocabulary (unknown characters are
lost there), so that a published score wants --manifest.  Several outputs are scored one by one;
'cress-svcd compare' tests whether they differ.
"""

import argparse
from pathlib import Path

from sacrebleu.metrics import BLEU

from cress_svcd.atomic_files import write_json
from cress_svcd.evaluation.outputs import score_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("outputs", nargs="+", type=Path, help="output of fairseq-generate")
    parser.add_argument("--manifest", type=Path, help="TSV of the split, for its references")
    parser.add_argument(
        "--tokenize",
        default="13a",
        choices=BLEU.TOKENIZERS,
        help="sacreBLEU's tokenizer (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write scores, hypotheses and references there")


def run(args: argparse.Namespace) -> None:
    reports = []
    for path in args.outputs:
        report = score_output(path, args.manifest, args.tokenize)
        reports.append({"output": str(path), **report})
        print(
            f"{path}\n  BLEU {report['bleu']:.2f}   chrF2 {report['chrf']:.2f}   "
            f"length ratio {report['length_ratio']:.3f}   sentences {report['sentences']}\n"
            f"  {report['bleu_signature']}\n  {report['chrf_signature']}"
        )
    if args.json:
        write_json(args.json, reports[0] if len(reports) == 1 else reports)
