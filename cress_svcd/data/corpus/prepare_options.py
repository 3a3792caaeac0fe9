"""What a preparation is asked for; ``--help`` needs it without what prepares."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cress_svcd.data.corpus.corpora import DEFAULT_CORPUS
from cress_svcd.data.corpus.split_report import Limits


@dataclass(frozen=True)
class PrepareOptions:
    """What ``preparation.prepare`` shall do; the fields are the options of ``prepare-mustc``."""

    tgt_lang: str
    corpus: str = DEFAULT_CORPUS
    splits: Sequence[str] | None = None
    vocab_size: int = 10_000
    spm_model: Path | None = None
    dictionary: Path | None = None
    text_data: Path | None = None
    limits: Limits = Limits()
    standardize_audio: bool = False
    check_audio: bool = False
    sample_audio: bool = True
    workers: int = 1
    force: bool = False
