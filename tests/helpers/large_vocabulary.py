"""A vocabulary for more than a corpus uses, as DeltaLM's is."""

import itertools
import random
from pathlib import Path

from cress_svcd.data.corpus.vocabulary import train_sentencepiece, write_dictionary

SYLLABLES = ["ta", "ru", "mi", "so", "ken", "lor", "fi", "wap", "du", "gra"]


def write_vocabulary(folder: Path, corpus: list[str], entries: int) -> None:
    """Write ``spm.model`` and ``dict.txt``, trained on the corpus and on other words."""
    words = ["".join(parts) for parts in itertools.product(SYLLABLES, repeat=3)]
    generator = random.Random(1)
    other = [" ".join(generator.choices(words, k=6)) for _ in range(150)]
    train_sentencepiece([*corpus, *other], folder / "spm", entries)
    write_dictionary(folder / "spm.model", folder / "dict.txt")
