"""A corpus of two target languages out of the spoken release of one: the same speech, two texts."""

import os
from pathlib import Path

# The words of the small grammar in conftest.py, in Romanian.
ROMANIAN = {
    "the man": "bărbatul",
    "a woman": "o femeie",
    "the dog": "câinele",
    "my child": "copilul meu",
    "sees": "vede",
    "buys": "cumpără",
    "wants": "vrea",
    "takes": "ia",
    "the house": "casa",
    "an apple": "un măr",
    "water": "apă",
    "a red book": "o carte roșie",
}


def to_romanian(sentence: str) -> str:
    """The translation of a sentence of the grammar."""
    for english, romanian in ROMANIAN.items():
        sentence = sentence.replace(english, romanian)
    return sentence


def add_romanian(release: Path, folder: Path) -> Path:
    """``folder`` with the pairs en-de of ``release`` and en-ro, whose audio is the same."""
    folder.mkdir(exist_ok=True)
    os.symlink(release / "en-de", folder / "en-de")
    for split in (release / "en-de" / "data").iterdir():
        own = folder / "en-ro" / "data" / split.name
        (own / "txt").mkdir(parents=True)
        os.symlink(split / "wav", own / "wav")
        for suffix in ("yaml", "en"):
            name = f"{split.name}.{suffix}"
            os.symlink(split / "txt" / name, own / "txt" / name)
        english = (split / "txt" / f"{split.name}.en").read_text(encoding="utf-8")
        (own / "txt" / f"{split.name}.ro").write_text(to_romanian(english), encoding="utf-8")
    return folder
