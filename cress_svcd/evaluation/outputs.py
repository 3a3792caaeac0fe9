"""Outputs of fairseq-generate: their translations, scores and times."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from cress_svcd.atomic_files import require_text
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.bleu_chrf import measure

LINE = re.compile(r"([TD])-([0-9]{1,18})\t(.*)")
# fairseq-generate logs it at the end: the time of translating alone, without loading.
TIME = re.compile(r"Translated [\d,]+ sentences \([\d,]+ tokens\) in ([0-9]{1,12}(?:\.[0-9]+)?)s")


def read_output(path: Path) -> tuple[dict[int, str], dict[int, str], float | None]:
    """Best hypotheses and references by sentence number, from the D- and T- lines; the seconds that
    translating took, if the log is in the output as well.

    Raises:
        ConfigError: the file is missing, or not such an output.
    """
    lines = require_text(path).split("\n")
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
    require_references(references.values(), manifest or path)
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


def require_references(texts: Iterable[str], where: Path) -> None:
    """Raises ConfigError if there is not a word in any of the references."""
    if not any(text.strip() for text in texts):
        raise ConfigError(f"{where}: no reference in it has a word; expected translations")


def named_files(items: list[str]) -> dict[str, Path]:
    """``[NAME=]FILE`` texts as name → file; a file's name is its own without the suffix.

    Raises:
        ConfigError: two have one name.
    """
    files: dict[str, Path] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not (equals and name and path) or os.path.exists(item):
            name, path = Path(item).stem, item
        if name in files:
            raise ConfigError(f"{files[name]} and {path} are both called {name}: give NAME=FILE")
        files[name] = Path(path)
    return files


def read_systems(
    paths: dict[str, Path], manifest: Path | None, tokenize: str
) -> tuple[list[dict], dict[str, float]]:
    """Sentences with ``id``, ``source``, ``reference``, and ``hypotheses`` by name of system; and
    the seconds that translating took, of systems whose output tells.

    Raises:
        ConfigError: an output cannot be read, or is of other sentences than the first.
    """
    first: list[dict] = []
    sentences: list[dict] = []
    seconds: dict[str, float] = {}
    for name, path in paths.items():
        scores = score_output(path, manifest, tokenize)
        if "seconds" in scores:
            seconds[name] = scores["seconds"]
        found = scores["translations"]
        hypotheses = [each.pop("hypothesis") for each in found]
        if not first:
            first = found
            sentences = [{**each, "hypotheses": {}} for each in found]
        if found != first:
            raise ConfigError(
                f"{path}: {len(found)} sentences with their references, which are not the "
                f"{len(sentences)} of {next(iter(paths.values()))}; compare outputs of one split"
            )
        for sentence, hypothesis in zip(sentences, hypotheses):
            sentence["hypotheses"][name] = hypothesis
    return sentences, seconds
