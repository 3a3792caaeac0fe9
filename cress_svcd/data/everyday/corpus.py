"""A parallel corpus of distinct sentences in splits, and figures about it."""

import importlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from cress_svcd.atomic_files import write_json, write_text
from cress_svcd.data.everyday import english
from cress_svcd.data.everyday.composer import Composer
from cress_svcd.data.everyday.meaning import (
    Age,
    Ago,
    Clock,
    Complex,
    Date,
    HourIs,
    Indirect,
    Later,
    Moment,
    NounPhrase,
    Question,
    Relative,
    Sentence,
    Weekday,
)
from cress_svcd.errors import ConfigError

# Target language: the module of this package that puts meanings into it.
LANGUAGES = {"de": "german", "ro": "romanian"}

TRAIN, DEV, TEST, MT = "train", "dev", "tst-COMMON", "mt"
SHORTEST, LONGEST = 3, 16  # English words
MOST_SENTENCES = 200_000  # of all splits; the grammar holds more, at a falling rate
CANDIDATES = 10  # sentences drawn for one of training, for rare words to come up

# Words of dev and test are in train so often, less often in a train too small for that.
SEEN_AT_LEAST = 5
_TRAIN_PER_SIGHTING = 480

_PATIENCE = 30_000  # draws in a row without a sentence that can be used


@dataclass(frozen=True)
class Pair:
    """An English sentence, its translation, and what both mean."""

    english: str
    target: str
    meaning: Sentence


Corpus = dict[str, list[Pair]]


def words_of(sentence: str) -> list[str]:
    """The English words, in lower case; "twenty-five" is two."""
    return re.findall(r"[a-z']+", sentence.lower())


def language_module(language: str) -> ModuleType:
    """The module that speaks ``language``.  Raises ConfigError for one that is not there."""
    if language not in LANGUAGES:
        raise ConfigError(
            f"--tgt-lang {language}: there is no grammar for this language; "
            f"choose one of {', '.join(LANGUAGES)}"
        )
    return importlib.import_module(f"{__package__}.{LANGUAGES[language]}")


def make_corpus(language: str, train: int, dev: int, test: int, mt: int, seed: int) -> Corpus:
    """Draw the splits, of so many pairs each; nothing occurs twice, on either side.

    Training sentences are chosen for an even use of the words.  Every English word of dev and
    test occurs in train (``sightings_required``), the sentences themselves do not.  The same
    arguments give the same corpus, on every machine and Python; ``mt`` changes only that split.

    Raises ConfigError for an unknown language and for sizes that cannot be had.
    """
    sizes = {TRAIN: train, DEV: dev, TEST: test, MT: mt}
    _check_sizes(sizes)
    source = _Source(language, seed)
    corpus: Corpus = {}
    with tqdm(total=sum(sizes.values()), unit=" sentences", disable=None) as progress:
        counts: Counter[str] = Counter()
        corpus[TRAIN] = list(_counted(source.balanced(train, counts), progress))
        least = sightings_required(train)
        known = {word for word, count in counts.items() if count >= least}
        for split in (DEV, TEST):
            corpus[split] = list(_counted(source.within(known, sizes[split], split), progress))
        corpus[MT] = list(_counted(source.any(mt), progress))
    return corpus


def sightings_required(train: int) -> int:
    """How often a word of dev or test occurs at least in a training set of this size."""
    return max(1, min(SEEN_AT_LEAST, train // _TRAIN_PER_SIGHTING))


def _check_sizes(sizes: dict[str, int]) -> None:
    for split, size in sizes.items():
        least = 0 if split == MT else 1
        if size < least:
            raise ConfigError(f"{split}: {size} sentences wanted; expected {least} or more")
    total = sum(sizes.values())
    if total > MOST_SENTENCES:
        raise ConfigError(
            f"{total:,} sentences wanted ({', '.join(f'{k} {v:,}' for k, v in sizes.items())}); "
            f"the grammar gives {MOST_SENTENCES:,} different ones, ask for less"
        )


def _counted(pairs: Iterator[Pair], progress: tqdm) -> Iterator[Pair]:
    for pair in pairs:
        progress.update()
        yield pair


class _Source:
    """Draws pairs that were not taken before, neither in English nor in the target language."""

    def __init__(self, language: str, seed: int):
        self._linearize = language_module(language).linearize
        self._composer = Composer(seed)
        self._taken: set[str] = set()
        self._taken_targets: set[str] = set()

    def any(self, size: int) -> Iterator[Pair]:
        for _ in range(size):
            yield self._take(self._draw(MT))

    def balanced(self, size: int, counts: Counter[str]) -> Iterator[Pair]:
        """Of ``CANDIDATES`` each time the one that has the rarest word; ``counts`` is filled."""
        for _ in range(size):
            candidates = [self._draw(TRAIN) for _ in range(CANDIDATES)]
            best = min(candidates, key=lambda pair: min(counts[w] for w in words_of(pair.english)))
            counts.update(words_of(best.english))
            yield self._take(best)

    def within(self, known: set[str], size: int, split: str) -> Iterator[Pair]:
        """Sentences of ``known`` words only."""
        for _ in range(size):
            yield self._take(self._draw(split, known))

    def _draw(self, split: str, known: set[str] | None = None) -> Pair:
        for _ in range(_PATIENCE):
            meaning = self._composer.sentence()
            source = english.linearize(meaning)
            words = words_of(source)
            fits = SHORTEST <= len(words) <= LONGEST and source not in self._taken
            if not fits or (known is not None and not known.issuperset(words)):
                continue
            target = self._linearize(meaning)
            if target not in self._taken_targets:
                return Pair(source, target, meaning)
        reason = "" if known is None else f" with only the {len(known)} words frequent in train"
        raise ConfigError(
            f"{split}: no further sentence in {_PATIENCE:,} draws{reason}; ask for a larger train "
            "or for fewer sentences"
        )

    def _take(self, pair: Pair) -> Pair:
        self._taken.add(pair.english)
        self._taken_targets.add(pair.target)
        return pair


# Figures


def describe(pairs: list[Pair]) -> dict[str, Any]:
    """Sentences, words, and the shares of what makes a sentence harder."""
    english_words = [words_of(pair.english) for pair in pairs]
    target_words = [re.findall(r"\w+", pair.target.lower()) for pair in pairs]
    traits = Counter(trait for pair in pairs for trait in traits_of(pair.meaning))
    return {
        "sentences": len(pairs),
        "english_vocabulary": len({word for words in english_words for word in words}),
        "target_vocabulary": len({word for words in target_words for word in words}),
        "words_per_sentence": round(sum(map(len, english_words)) / max(1, len(pairs)), 2),
        **{f"share_{trait}": round(traits[trait] / max(1, len(pairs)), 3) for trait in TRAITS},
    }


TRAITS = ("questions", "subordinate", "negative", "numbers", "times")


def traits_of(sentence: Sentence) -> set[str]:
    """Which of ``TRAITS`` a sentence has."""
    traits = set()
    for node in _nodes(sentence):
        match node:
            case Question():
                traits.add("questions")
            case Complex() | Indirect() | Relative():
                traits.add("subordinate")
            case NounPhrase(count=int()) | Age():
                traits.add("numbers")
            case Ago() | Later():
                traits |= {"numbers", "times"}
            case Clock() | HourIs() | Date() | Weekday() | Moment():
                traits.add("times")
        if getattr(node, "negative", False):
            traits.add("negative")
    if isinstance(sentence, Indirect) and not sentence.is_question:
        traits.discard("questions")
    return traits


def _nodes(node: Any) -> Iterator[Any]:
    """``node`` and all that it is made of."""
    if isinstance(node, tuple):
        for part in node:
            yield from _nodes(part)
    elif is_dataclass(node):
        yield node
        for field in fields(node):
            yield from _nodes(getattr(node, field.name))


# Files


def write_corpus(folder: Path, language: str, corpus: Corpus, seed: int) -> dict[str, Any]:
    """Write ``SPLIT.en`` and ``SPLIT.LANGUAGE``, a sentence a line, and ``summary.json``.

    Returns the figures of ``describe`` by split.  A split without sentences is left out.
    """
    for split, pairs in corpus.items():
        if pairs:
            write_text(folder / f"{split}.en", "".join(f"{pair.english}\n" for pair in pairs))
            write_text(folder / f"{split}.{language}", "".join(f"{p.target}\n" for p in pairs))
    figures = {split: describe(pairs) for split, pairs in corpus.items() if pairs}
    write_json(folder / "summary.json", {"tgt_lang": language, "seed": seed, "splits": figures})
    return figures
