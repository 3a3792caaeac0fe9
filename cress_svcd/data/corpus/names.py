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

    What is spelt exactly so comes first.  Where several others fit, none is taken.
    """
    path = Path(path)
    if os.path.lexists(path) or path.parent == path:
        return path
    parent = existing(path.parent)
    if parent == path.parent and path.name.isascii():
        return path
    if os.path.lexists(parent / path.name):
        return parent / path.name
    try:
        there = os.listdir(parent)
    except OSError:
        return path
    same = [name for name in there if composed(name) == composed(path.name)]
    return parent / (same[0] if len(same) == 1 else path.name)
