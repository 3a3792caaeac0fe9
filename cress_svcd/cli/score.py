"""Score what fairseq-generate wrote: BLEU, chrF and length ratio with sacreBLEU's signatures.

  cress-svcd score results/generate-tst-COMMON.txt --manifest data/tst-COMMON.tsv --json out.json

The hypotheses are the D- lines.  With --manifest the references are its tgt_text as it stands;
without, they are the T- lines, which have passed through the vocabulary (unknown characters are
lost there), so that a published score wants --manifest.  Several outputs are scored one by one;
'cress-svcd compare' tests whether they differ.
"""

import argparse
import re
from pathlib import Path

from sacrebleu.metrics import BLEU

from cress_svcd.atomic_files import write_json
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.bleu_chrf import measure

LINE = re.compile(r"([TD])-(\d+)\t(.*)")
# fairseq-generate logs it at the end: the time of translating alone, without loading.
TIME = re.compile(r"Translated [\d,]+ sentences \([\d,]+ tokens\) in ([\d.]+)s")


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


def read_output(path: Path) -> tuple[dict[int, str], dict[int, str], float | None]:
    """Best hypotheses and references by sentence number, from the D- and T- lines; the seconds that
    translating took, if the log is in the output as well.

    Raises:
        ConfigError: the file is missing, or not such an output.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 ({error.reason})") from None
    hypotheses: dict[int, str] = {}
    references: dict[int, str] = {}
    seconds = None
    for line in lines:
        match = LINE.match(line)
        if not match:
            if time := TIME.search(line):
                seconds = float(time[1])
            continue
        kind, number, text = match[1], int(match[2]), match[3]
        if kind == "T":
            references[number] = text
        else:
            # The first D- line of a sentence is its best; others come from --nbest.
            hypotheses.setdefault(number, text.partition("\t")[2])
    if not hypotheses:
        raise ConfigError(
            f"{path}: no 'D-' line in it; expected the output of fairseq-generate without --quiet"
        )
    return hypotheses, references, seconds


def score_output(path: Path, manifest: Path | None = None, tokenize: str = "13a") -> dict:
    """Scores of one output, with its sentences.

    Args:
        path: output of fairseq-generate.
        manifest: the split's TSV, for references as they stand.
        tokenize: sacreBLEU tokenizer.
    Returns:
        see :func:`cress_svcd.evaluation.bleu_chrf.measure`; ``translations`` holds
        ``id``, ``source``, ``reference`` and ``hypothesis`` of each sentence; ``seconds``, if the
        output has its log with it, how long translating took.
    Raises:
        ConfigError: a hypothesis is missing for a row of the manifest, or the other way round.
    """
    hypotheses, references, seconds = read_output(path)
    numbers = sorted(hypotheses)
    names, sources = {number: str(number) for number in numbers}, {}
    if manifest:
        frame = read_manifest(manifest)
        if numbers != list(range(len(frame))):
            raise ConfigError(
                f"{path}: {len(numbers)} translations, but {manifest} has {len(frame)} segments; "
                "score the output of the same split, generated whole"
            )
        references = dict(enumerate(frame["tgt_text"]))
        sources = dict(enumerate(frame["src_text"]))
        names = dict(enumerate(frame["id"]))
    missing = [number for number in numbers if number not in references]
    if missing:
        raise ConfigError(f"{path}: no 'T-' line for sentence {missing[0]}; give --manifest")
    result = measure(
        [hypotheses[number] for number in numbers],
        [references[number] for number in numbers],
        tokenize,
    )
    if seconds is not None:
        result["seconds"] = seconds
    result["translations"] = [
        {
            "id": names[number],
            "source": sources.get(number, ""),
            "reference": references[number],
            "hypothesis": hypotheses[number],
        }
        for number in numbers
    ]
    return result
