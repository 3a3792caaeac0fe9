"""Transcriptions and translations in fairseq's binary format, for training on text."""

import logging
import os
import shutil
from pathlib import Path
from typing import Sequence

from cress_svcd.data.vocabulary import load_sentencepiece
from cress_svcd.files import write_text

logger = logging.getLogger(__name__)

# Below that, starting another process takes longer than the work.
_MIN_LINES_PER_PROCESS = 5_000


class PieceTokenizer:
    """Splits a line into the pieces of a sentencepiece model; loads it once in each process."""

    def __init__(self, model: str | os.PathLike):
        self.model = os.fspath(model)
        self._processor = None

    def __call__(self, line: str) -> list[str]:
        if self._processor is None:
            self._processor = load_sentencepiece(self.model)
        return self._processor.encode(line.strip(), out_type=str)

    def __getstate__(self) -> dict:
        return {"model": self.model, "_processor": None}


def binarize_pairs(
    name: str,
    texts: dict[str, Sequence[str]],
    model: Path,
    dictionary: Path,
    folder: Path,
    workers: int,
) -> dict[str, dict[str, int]]:
    """Write ``name.SRC-TGT.{SRC,TGT}.{bin,idx}`` with fairseq's binarizer; all or nothing.

    ``texts`` maps the source language to its lines and the target language to theirs, in this
    order; lines are clean (one line each, no control characters).  Returns for each language the
    number of tokens (end of sentence included) and of unknown ones among them.
    """
    # Imported here: reading releases and manifests does not need fairseq.
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
    from fairseq.data import Dictionary

    entries = Dictionary.load(str(dictionary))
    binarizer = VocabularyDatasetBinarizer(entries, tokenize=PieceTokenizer(model))
    pair = "-".join(texts)
    # A fixed name, so that what a killed run leaves behind is cleared by the next.
    scratch = folder / f".{name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    counts = {}
    try:
        for language, lines in texts.items():
            plain = scratch / "lines.txt"
            plain.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            result = FileBinarizer.multiprocess_dataset(
                str(plain),
                "mmap",
                binarizer,
                str(scratch / f"{name}.{pair}.{language}"),
                vocab_size=len(entries),
                num_workers=max(1, min(workers, len(lines) // _MIN_LINES_PER_PROCESS)),
            )
            plain.unlink()
            counts[language] = {"tokens": result.num_tok, "unknown": result.num_replaced}
        for file in sorted(scratch.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts


def text_data_files(name: str, languages: Sequence[str]) -> list[str]:
    """Names of the files that :func:`binarize_pairs` writes."""
    pair = "-".join(languages)
    return [f"{name}.{pair}.{language}.{end}" for language in languages for end in ("bin", "idx")]


def write_dictionaries(dictionary: Path, folder: Path, languages: Sequence[str]) -> None:
    """Put the joint dictionary where fairseq looks for that of each language."""
    for language in languages:
        write_text(folder / f"dict.{language}.txt", dictionary.read_text(encoding="utf-8"))
