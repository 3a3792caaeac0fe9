"""What the preparation asks of a corpus.

To add one: a file here with a class that answers as :class:`Corpus` says, and a line in CORPORA of
``corpora.py``.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from cress_svcd.errors import ConfigError

_LANGUAGE_CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")


class Utterance(NamedTuple):
    """A stretch of a recording and its texts, as the corpus gives them; times in seconds.

    ``id`` is unique in its split; it and ``speaker`` get into the manifest as they are, the texts
    are cleaned.  ``audio`` is the file, relative to ``Corpus.audio_root``.  A ``precut`` file holds
    the utterance alone: all of it is taken, and offset and duration only say where it lay.
    Utterances of the same ``recording`` are put next to each other, in order of time.  ``line``,
    from 1, is where the utterance stands in ``Corpus.listing``; messages name it.
    """

    id: str
    recording: str
    audio: str
    source: str
    target: str
    line: int
    offset: float = 0.0
    duration: float = 0.0
    speaker: str = ""
    precut: bool = False


class Corpus(Protocol):
    """One language pair of a corpus.  What contradicts itself is a ReleaseError, by file and line.

    A vocabulary is trained on the split ``train``.  Splits whose names begin so lose segments that
    are too long; all others keep them.
    """

    @classmethod
    def find(cls, root: str | os.PathLike, tgt_lang: str) -> Self:
        """Open the corpus in the folder (or file) ``root`` that the user names.

        Raises ReleaseError if it is not there or has no such language.
        """
        ...

    @property
    def audio_root(self) -> Path:
        """The folder that paths of audio start from."""
        ...

    @property
    def src_lang(self) -> str:
        """The language that is spoken."""
        ...

    @property
    def tgt_lang(self) -> str: ...

    def find_splits(self, wanted: Sequence[str] | None = None) -> list[str]:
        """The splits to prepare: ``wanted``, or the usual ones that exist.

        Raises ReleaseError for a split that is not there or lacks a file.
        """
        ...

    def listing(self, split: str) -> Path:
        """The file that lists a split's utterances; messages name it."""
        ...

    def read(self, split: str) -> list[Utterance]:
        """The utterances of a split, all of them, in the order of its listing.

        Nothing needs to be dropped or cleaned here, nor audio opened.
        """
        ...

    def fingerprint(self, split: str) -> dict[str, Any]:
        """Changes when a text or audio file of the split does; JSON can hold it.

        While it stays the same, the split is not prepared again.  ``fingerprints.py`` helps.
        """
        ...


def check_tgt_lang(tgt_lang: str, src_lang: str) -> None:
    """Raise ConfigError for what is no code of a language, or that of the source language."""
    if not _LANGUAGE_CODE.fullmatch(tgt_lang) or tgt_lang == src_lang:
        raise ConfigError(
            f"--tgt-lang {tgt_lang}: expected the code of a language other than {src_lang}, "
            f"such as de"
        )
