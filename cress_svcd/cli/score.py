"""Score translations: BLEU, chrF and length ratio with sacreBLEU's signatures.

  cress-svcd score results/generate-tst-COMMON.txt --manifest data/tst-COMMON.tsv --json out.json

Each input is an output of fairseq-generate; the hypotheses are the D- lines.  With --manifest the
references are its tgt_text as it stands; without, they are the T- lines, which have passed through
the vocabulary (unknown characters are lost there), so that a published score wants --manifest.
Several inputs are scored one by one; 'cress-svcd compare' tests whether they differ.

With --recordings whole recordings are scored, which is what users bring.  An input is a model,
which translates all recordings of the manifest as 'cress-svcd translate' does, or what that command
wrote: JSON lines, or a folder of a file for each recording (jsonl, srt, vtt, ttml).

  cress-svcd score --recordings packed.pt --manifest data/tst-COMMON.tsv --exact results/packed.txt
  cress-svcd score --recordings translations.jsonl --manifest data/tst-COMMON.tsv
  cress-svcd score --recordings subtitles --manifest data/tst-COMMON.tsv --json out.json

The translation of each recording is divided among the segments that the manifest has of it, where
the fewest words differ (mweralign).  Printed are BLEU and chrF of these parts, and SubER, the edits
that make the subtitles those of the reference, in percent: 0 is best.  The reference's subtitles
are the manifest's segments with their times.  --exact names the translation of the same segments,
cut as the manifest says, and adds which share of its scores is kept.  A recording of the manifest
without a translation counts as translated to nothing, and is named.  --recordings needs
pip install 'cress_svcd[score]'.

With --transcripts the speech encoder is scored.  An input is a model with a CTC head; what that
hears of the manifest's segments is compared with their src_text, without case and punctuation.
Printed are the word errors and the letter errors, in percent of the words and letters said, and the
share of segments without an error.

  cress-svcd score --transcripts runs/st/averaged.pt --manifest data/tst-COMMON.tsv

The status is 0 if all went well, 1 if some inputs could not be scored or a model could not
translate some recordings, 2 if nothing could be scored or the command is wrong.
"""

import argparse
import sys
from pathlib import Path

from cress_svcd.cli.arguments import TOKENIZERS, add_search_arguments, add_segmentation_arguments
from cress_svcd.errors import ConfigError, CressError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "outputs",
        nargs="+",
        type=Path,
        metavar="OUTPUT|MODEL",
        help="output of fairseq-generate; with --recordings: a model, or translations; with "
        "--transcripts: a model",
    )
    parser.add_argument("--manifest", type=Path, help="TSV of the split, for its references")
    parser.add_argument(
        "--tokenize",
        default="13a",
        choices=TOKENIZERS,
        help="sacreBLEU's tokenizer (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write scores, hypotheses and references there")
    parser.add_argument(
        "--recordings", action="store_true", help="score translations of whole recordings"
    )
    parser.add_argument(
        "--transcripts", action="store_true", help="score what a model's CTC head hears"
    )
    parser.add_argument(
        "--exact",
        type=Path,
        metavar="FILE",
        help="with --recordings: output of fairseq-generate for the manifest's segments, or the "
        "JSON of its scores, for the share that whole recordings keep",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="as of 'cress-svcd translate'")
    add_search_arguments(parser)
    add_segmentation_arguments(parser)


def run(args: argparse.Namespace) -> int:
    _check_options(args)
    from cress_svcd.atomic_files import write_json
    from cress_svcd.data.corpus.manifest import read_manifest

    whole = None
    if args.recordings:
        from cress_svcd.cli.recording_scores import RecordingScores

        whole = RecordingScores(args)
    elif args.manifest:
        read_manifest(args.manifest)  # what is wrong with it is wrong for all
    reports = []
    for path in args.outputs:
        try:
            report = whole.score(path) if whole else _score(path, args)
        except CressError as error:
            if len(args.outputs) == 1:
                raise
            print(f"cress-svcd score: error: {error}", file=sys.stderr)
            continue
        reports.append({"output": str(path), **report})
        print(f"{path}\n  {_lines(report)}", flush=True)
    left_out = len(args.outputs) - len(reports)
    if not reports:
        raise ConfigError(f"none of {left_out} outputs could be scored; the reasons stand above")
    if args.json:
        write_json(args.json, reports[0] if len(args.outputs) == 1 else reports)
    if left_out:
        print(
            f"cress-svcd score: {left_out} of {len(args.outputs)} outputs could not be scored",
            file=sys.stderr,
        )
    return 1 if left_out else (whole.status if whole else 0)


def _check_options(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together."""
    if args.recordings and args.transcripts:
        raise ConfigError("--recordings and --transcripts: expected one of them")
    if args.transcripts and not args.manifest:
        raise ConfigError("--transcripts: --manifest is missing, which says what was said")
    if args.exact and not args.recordings:
        raise ConfigError("--exact: only with --recordings")
    if args.data and not (args.recordings or args.transcripts):
        raise ConfigError("--data: only with --recordings or --transcripts")


def _score(path: Path, args: argparse.Namespace) -> dict:
    """Of an output, or of what a model hears."""
    if not args.transcripts:
        from cress_svcd.evaluation.outputs import score_output

        return score_output(path, args.manifest, args.tokenize)
    from cress_svcd.evaluation.word_errors import score_transcripts

    names = ("batch_seconds", "device", "fp16", "threads")
    options = {name: getattr(args, name) for name in names}
    backend = None if args.backend == "auto" else args.backend
    return score_transcripts(path, args.manifest, args.data, backend=backend, **options)


def _lines(report: dict) -> str:
    if "word_error_rate" in report:
        from cress_svcd.evaluation.word_errors import format_word_errors

        return format_word_errors(report)
    from cress_svcd.evaluation.recordings import format_scores

    return format_scores(report)
