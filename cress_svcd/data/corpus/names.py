"""Names of files, talks and speakers: composed and decomposed spellings are the same name.

"é" is one character (composed, as most systems write it) or two (decomposed, as macOS does); a
corpus that was copied from one system to another often has both.
"""

import os
import unicodedata
from pathlib import Path


def composed(name: str) -> str:
    """The composed spelling, which two names that look the same have in common."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def existing(path: str | os.PathLike) -> Path:
    """The path, or one that is there and spelt otherwise; the path itself if there is none.

    What is spelt exactly so comes first, then what is composed or decomposed throughout.  Where
    several fit alike, none is taken.
    """
    path = Path(path)
    if os.path.lexists(path) or path.parent == path:
        return path
    parent = existing(path.parent)
    if parent == path.parent and path.name.isascii():
        return path
    if os.path.lexists(parent / path.name):
        return parent / path.name
    same = _spellings(parent, path.name)
    return parent / (same[0] if len(same) == 1 else path.name)


def _spellings(folder: Path, name: str) -> list[str]:
    """What is in a folder under that name in other spellings."""
    # To list the folder of a large corpus takes a second, and this is asked for each utterance.
    usual = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    there = [each for each in sorted(usual) if os.path.lexists(folder / each)]
    if there:
        return there
    try:
        return [each for each in os.listdir(folder) if composed(each) == composed(name)]
    except OSError:
        return []
