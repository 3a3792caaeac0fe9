"""A corpus of several target languages: the language pairs of one root, side by side.

Its manifests have the segments of all pairs, one language after the other, with their language in
the column ``tgt_lang``.  Ids get the language in front, paths of recordings the folder of the pair.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cress_svcd.data.corpus.corpora import CORPORA
from cress_svcd.data.corpus.corpus import Corpus, check_tgt_lang
from cress_svcd.data.corpus.manifest import Segment
from cress_svcd.data.corpus.prepare_options import PrepareOptions
from cress_svcd.data.corpus.split_report import SplitReport
from cress_svcd.data.corpus.usable_segments import prepare_split
from cress_svcd.errors import ConfigError, ReleaseError

logger = logging.getLogger(__name__)

SEPARATOR = ","


@dataclass(frozen=True)
class LanguagePairs:
    """One language pair or several; what the preparation of a folder is about."""

    pairs: Sequence[Corpus]

    @classmethod
    def find(cls, root: str | os.PathLike, corpus: str, languages: str) -> "LanguagePairs":
        """Open the pairs of ``languages``, which commas separate.

        Raises:
            ReleaseError: one is not there, or they are not spoken in one language.
            ConfigError: a code is none, or stands twice.
        """
        names = [name.strip() for name in languages.split(SEPARATOR)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"--tgt-lang {languages}: {twice!r} stands twice; name each once")
        pairs = [CORPORA[corpus].find(root, name) for name in names]
        for pair in pairs:
            check_tgt_lang(pair.tgt_lang, pair.src_lang)
        if len({pair.src_lang for pair in pairs}) > 1:
            raise ReleaseError(f"{root}: {languages} are not translated from one language")
        return cls(pairs)

    @property
    def is_several(self) -> bool:
        return len(self.pairs) > 1

    @property
    def audio_root(self) -> Path:
        if not self.is_several:
            return self.pairs[0].audio_root
        return Path(os.path.commonpath([pair.audio_root.resolve() for pair in self.pairs]))

    @property
    def src_lang(self) -> str:
        return self.pairs[0].src_lang

    @property
    def languages(self) -> list[str]:
        """The target languages."""
        return [pair.tgt_lang for pair in self.pairs]

    @property
    def tgt_lang(self) -> str:
        """The target languages, in one word."""
        return SEPARATOR.join(self.languages)

    def find_splits(self, wanted: Sequence[str] | None) -> list[str]:
        """The splits to prepare: ``wanted``, or the usual ones that all pairs have."""
        found = [pair.find_splits(wanted) for pair in self.pairs]
        splits = [split for split in found[0] if all(split in other for other in found)]
        left_out = sorted({split for own in found for split in own} - set(splits))
        if left_out:
            logger.warning("not prepared (not of every language): %s", " ".join(left_out))
        if not splits:
            raise ReleaseError(f"{self.audio_root}: no split that all of {self.tgt_lang} have")
        return splits

    def fingerprint(self, split: str) -> dict[str, Any]:
        if not self.is_several:
            return self.pairs[0].fingerprint(split)
        return {pair.tgt_lang: pair.fingerprint(split) for pair in self.pairs}

    def prepare_split(
        self, split: str, options: PrepareOptions
    ) -> tuple[list[Segment], SplitReport]:
        """The usable segments of all pairs; see ``usable_segments.prepare_split``."""
        parts = [
            prepare_split(
                pair,
                split,
                options.limits,
                options.check_audio,
                options.workers,
                options.sample_audio,
            )
            for pair in self.pairs
        ]
        if not self.is_several:
            return parts[0]
        root = self.audio_root
        segments = [
            _of_pair(segment, os.path.relpath(pair.audio_root.resolve(), root))
            for pair, (own, _) in zip(self.pairs, parts)
            for segment in own
        ]
        return segments, _sum([report for _, report in parts])


def _of_pair(segment: Segment, folder: str) -> Segment:
    """A segment under the common root, with an id of its own."""
    audio = segment.audio if folder == os.curdir else os.path.join(folder, segment.audio)
    return dataclasses.replace(segment, id=f"{segment.tgt_lang}_{segment.id}", audio=audio)


def _sum(reports: Sequence[SplitReport]) -> SplitReport:
    total = SplitReport(0, 0)
    for report in reports:
        for field in dataclasses.fields(SplitReport):
            own, more = getattr(total, field.name), getattr(report, field.name)
            if isinstance(own, dict):
                own = {key: own.get(key, 0) + more.get(key, 0) for key in {**own, **more}}
                setattr(total, field.name, own)
            else:
                setattr(total, field.name, round(own + more, 4))
    return total
