"""Transcripts as sequences of letters, the targets of CTC."""

import unicodedata

WORD_BOUNDARY = "|"
_APOSTROPHE = "'"
_APOSTROPHES = "'’‘ʼ`´"


def spell(text: str) -> list[str]:
    """The letters, digits and apostrophes of a text in lower case, ``|`` between words.

    Accents are taken off (é → e) and everything else separates words: what is written in many ways
    but sounds the same gets one spelling.  Empty for a text without any letter.
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(_APOSTROPHE if c in _APOSTROPHES else c for c in plain)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    kept = "".join(c if c.isalnum() or c == _APOSTROPHE else " " for c in plain)
    words = (word.strip(_APOSTROPHE) for word in kept.split())
    return list(WORD_BOUNDARY.join(word for word in words if word))


def ctc_frames(letters: list[str]) -> int:
    """Fewest frames that CTC needs for a sequence: a blank must stand between equal neighbours."""
    return len(letters) + sum(a == b for a, b in zip(letters, letters[1:]))
