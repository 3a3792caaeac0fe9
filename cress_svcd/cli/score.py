"""Score translations: BLEU, chrF and length ratio with sacreBLEU's signatures.

  cress-svcd score results/generate-tst-COMMON.txt --manifest data/tst-COMMON.tsv --json out.json

Each input is an output of fairseq-generate; the hypotheses are the D- lines.  With --manifest the
references are its tgt_text as it stands; without, they are the T- lines, which have passed through
the vocabulary (unknown characters are lost there), so that a published score wants --manifest.
Several inputs are scored one by one; 'cress-svcd compare' tests whether they differ.

With --recordings whole recordings are scored, which is what users bring.  An input is a model,
which translates all recordings of the manifest as 'cress-svcd translate' does, or what that command
wrote: JSON lines, or a folder of a file for each recording (jsonl, srt, vtt).

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
"""

import argparse
import sys
import tempfile
from pathlib import Path

from sacrebleu.metrics import BLEU

from cress_svcd.atomic_files import write_json
from cress_svcd.cli import translate
from cress_svcd.cli.arguments import add_search_arguments, add_segmentation_arguments
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation import recordings
from cress_svcd.evaluation.outputs import score_output
from cress_svcd.evaluation.recording_translations import (
    RecordingTranslation,
    assign,
    holds_translations,
    read_subtitled,
    read_translations,
)

NAMED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "outputs",
        nargs="+",
        type=Path,
        metavar="OUTPUT|MODEL",
        help="output of fairseq-generate; with --recordings: a model, or translations",
    )
    parser.add_argument("--manifest", type=Path, help="TSV of the split, for its references")
    parser.add_argument(
        "--tokenize",
        default="13a",
        choices=BLEU.TOKENIZERS,
        help="sacreBLEU's tokenizer (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write scores, hypotheses and references there")
    parser.add_argument(
        "--recordings", action="store_true", help="score translations of whole recordings"
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
    for option in ("exact", "data"):
        if getattr(args, option) and not args.recordings:
            raise ConfigError(f"--{option}: only with --recordings")
    split = Split(args) if args.recordings else None
    reports = []
    for path in args.outputs:
        report = split.score(path) if split else score_output(path, args.manifest, args.tokenize)
        reports.append({"output": str(path), **report})
        print(f"{path}\n  {recordings.format_scores(report)}")
    if args.json:
        write_json(args.json, reports[0] if len(reports) == 1 else reports)
    return split.status if split else 0


class Split:
    """The recordings of a manifest, against which translations of them are scored."""

    def __init__(self, args: argparse.Namespace):
        if not args.manifest:
            raise ConfigError(
                "--recordings: --manifest is missing, which says where each reference was spoken"
            )
        recordings.require_extras()  # rather than after all has been translated
        self.args, self.status = args, 0
        self.recordings = recordings.read_recordings(args.manifest)
        self.exact = args.exact and recordings.read_exact(args.exact, args.manifest, args.tokenize)

    def score(self, path: Path) -> dict:
        if holds_translations(path):
            names = [recording.path for recording in self.recordings]
            translations, others = assign(read_translations(path), names, path)
            tell("not of the manifest, left out", others)
        else:
            translations = self.translate(path)
        report = recordings.score_recordings(self.recordings, translations, self.args.tokenize)
        tell("without a translation, counted as translated to nothing", report["missing"])
        tell("translated to nothing", report["silent"])
        if self.exact:
            report |= recordings.compare_with_exact(report, self.exact, self.args.exact)
        return report

    def translate(self, model: Path) -> dict[str, RecordingTranslation]:
        """By 'cress-svcd translate', into subtitles; its options have the values of ours."""
        parser = argparse.ArgumentParser()
        translate.add_arguments(parser)
        options = vars(parser.parse_args([str(model), "--output-format=srt"]))
        options |= {key: value for key, value in vars(self.args).items() if key in options}
        translations = {}
        with tempfile.TemporaryDirectory(prefix="cress-svcd-") as folder:
            # Recordings of one name, from several folders, would have one file of subtitles.
            for number, group in enumerate(recordings.with_distinct_names(self.recordings)):
                options["output"] = f"{folder}/{number}/"
                options["inputs"] = recordings.audio_files(self.args.manifest, group)
                self.status |= translate.run(argparse.Namespace(**options))
                for recording in group:
                    written = Path(options["output"], Path(recording.path).stem + ".srt")
                    if written.is_file():
                        translations[recording.path] = read_subtitled(written)
        return translations


def tell(what: str, names: list[str]) -> None:
    """One line about recordings, the first of them by name."""
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        named = ", ".join(names[:NAMED]) + more
        count = "1 recording" if len(names) == 1 else f"{len(names)} recordings"
        print(f"cress-svcd score: {count} {what}: {named}", file=sys.stderr)
