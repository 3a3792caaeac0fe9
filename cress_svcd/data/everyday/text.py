"""Putting words together."""

import re


def join(*parts: str) -> str:
    """The parts that are not empty, with blanks between them."""
    return " ".join(part for part in parts if part)


def sentence_case(text: str, end: str) -> str:
    """``text`` with a capital at its head, ``end`` at its end, and commas only between words."""
    text = re.sub(r"\s*,[\s,]*", ", ", text).rstrip(", ")
    return text[0].upper() + text[1:] + end
