"""Transcriptions and translations in fairseq's binary format, for training on text."""

import logging
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cress_svcd.atomic_files import write_text
from cress_svcd.data.corpus.vocabulary import load_sentencepiece
from cress_svcd.errors import ConfigError

logger = logging.getLogger(__name__)

_CARRIAGE_RETURN = "\r"

# Below that, starting another process takes longer than the work.
_MIN_LINES_PER_PROCESS = 5_000

# Of an index: magic number, version, code of the tokens' type, number of sentences.
_INDEX_MAGIC = b"MMIDIDX\x00\x00"
_INDEX_HEADER = struct.Struct("<9sQBQ")
_OLD_INDEX_MAGIC = b"TNTIDX\x00\x00"  # of fairseq's earlier formats


class TokenSplitter:
    """Splits a line into the tokens of a sentencepiece model; loads it once in each process."""

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
    binarizer = VocabularyDatasetBinarizer(entries, tokenize=TokenSplitter(model))
    pair = "-".join(texts)
    # A fixed name, so that what a killed run leaves behind is cleared by the next.
    scratch = folder / f".{name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    counts = {}
    try:
        for language, lines in texts.items():
            plain = scratch / "lines.txt"
            # fairseq would end a line at a carriage return too.
            content = "".join(f"{line.replace(_CARRIAGE_RETURN, ' ')}\n" for line in lines)
            plain.write_text(content, encoding="utf-8")
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


def check_binary_pairs(folder: Path, name: str, languages: Sequence[str]) -> None:
    """Refuse binary text that was cut short, before it is mapped into memory.

    Looks at the index and the size of the files that :func:`binarize_pairs` writes, never at the
    sentences.

    Raises:
        ConfigError: a file is missing, empty, shorter or longer than its index says, or one
            language has more sentences than the other.
    """
    files = [folder / file for file in text_data_files(name, languages) if file.endswith(".idx")]
    counts = [_check_binary(file) for file in files]
    if len(set(counts) - {None}) > 1:
        raise ConfigError(
            f"{files[0]}: {counts[0]} sentences, but {files[1]} has {counts[1]}: they are no "
            "pairs; make the text again (prepare-mustc --text-data, or fairseq-preprocess)"
        )


def _check_binary(index: Path) -> int | None:
    """Sentences of one language; None of a format other than the mapped one, whose size is free."""
    from fairseq.data import indexed_dataset

    content = index.with_suffix(".bin")
    remedy = "make the text again (prepare-mustc --text-data, or fairseq-preprocess)"
    for file in (index, content):
        if not file.is_file() or file.stat().st_size == 0:
            problem = "is empty (0 bytes)" if file.is_file() else "no such file"
            raise ConfigError(f"{file}: {problem}; {remedy}")
    with index.open("rb") as file:
        header = file.read(_INDEX_HEADER.size)
    if header.startswith(_OLD_INDEX_MAGIC):
        return None
    if len(header) < _INDEX_HEADER.size:
        raise ConfigError(
            f"{index}: is truncated: {len(header)} bytes, fewer than its header has; {remedy}"
        )
    magic, version, code, count = _INDEX_HEADER.unpack(header)
    if (magic, version) != (_INDEX_MAGIC, 1):
        raise ConfigError(f"{index}: is no index of fairseq's binary text, or damaged; {remedy}")
    # Of each sentence its length (32 bits) and where it starts (64 bits).
    expected = _INDEX_HEADER.size + 12 * count
    if index.stat().st_size != expected or code not in indexed_dataset._code_to_dtype:
        raise ConfigError(
            f"{index}: is truncated or damaged: {index.stat().st_size} bytes, expected {expected} "
            f"for {count} sentences; {remedy}"
        )
    lengths = np.fromfile(index, dtype=np.int32, count=count, offset=_INDEX_HEADER.size)
    width = np.dtype(indexed_dataset._code_to_dtype[code]).itemsize
    starts = np.fromfile(index, np.int64, count, offset=_INDEX_HEADER.size + 4 * count)
    ends = np.cumsum(lengths, dtype=np.int64) * width
    if count and (lengths.min() < 0 or starts[0] or not np.array_equal(starts[1:], ends[:-1])):
        raise ConfigError(f"{index}: is damaged: its sentences do not follow each other; {remedy}")
    expected = int(ends[-1]) if count else 0
    if content.stat().st_size != expected:
        raise ConfigError(
            f"{content}: {content.stat().st_size} bytes, expected {expected} for the {count} "
            f"sentences of {index.name}: it is truncated, or not of this index; {remedy}"
        )
    return count


def write_dictionaries(dictionary: Path, folder: Path, languages: Sequence[str]) -> None:
    """Put the joint dictionary where fairseq looks for that of each language."""
    for language in languages:
        write_text(folder / f"dict.{language}.txt", dictionary.read_text(encoding="utf-8"))
