"""The translation of a whole recording, cut anew so that it fits the reference's segments.

A translator cuts a recording where it likes, and BLEU compares sentence with sentence.  The
translation of each recording is therefore divided among the reference's segments so that the edit
distance of words is least (Matusov et al., Evaluating machine translation output with automatic
sentence segmentation, IWSLT 2005).  mweralign does it; it is under the GPL, and an extra.
"""

import contextlib
import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cress_svcd.errors import ConfigError

UNSPACED = frozenset({"bo", "dz", "ja", "km", "lo", "my", "th", "yue", "zh"})
"""Languages that write no spaces between words: a character counts as a word there."""

_WORDS = re.compile(r"\S+")
# Words in Latin letters stay whole.
_CHARACTERS = re.compile(r"[\x21-\xff]+|\S")


def require_extra(module: str, package: str) -> Any:
    """A module of the extra ``score``.

    Raises:
        ConfigError: its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"scores of whole recordings need the package {package} ({error}): "
            "pip install 'cress_svcd[score]'"
        ) from None


def realign(hypothesis: str, references: Sequence[str], characters: bool = False) -> list[str]:
    """Divide the translation of a recording among the references of its segments.

    Args:
        hypothesis: the whole translation.
        references: texts of the segments, in the order of time.
        characters: of a language without spaces; see :data:`UNSPACED`.
    Returns:
        a part of the hypothesis for each reference, which may be empty; together they have all of
        its words in their order, with one space where there were several.
    Raises:
        ConfigError: mweralign is not installed.
    """
    aligner = require_extra("mweralign", "mweralign")
    pattern = _CHARACTERS if characters else _WORDS
    words = list(pattern.finditer(hypothesis))
    if not words or not references:
        return [""] * len(references)
    # Words become numbers: nothing in a text is mistaken for the aligner's own marks.
    numbers: dict[str, str] = {}

    def number(text: str) -> str:
        return numbers.setdefault(text.casefold(), str(len(numbers)))

    lines = [" ".join(number(word) for word in pattern.findall(text)) for text in references]
    stream = " ".join(number(word[0]) for word in words)
    # mweralign 1.4 leaves neither the first segment empty nor a last one without a reference: a
    # word that both sides begin with, and one that they end with, let both be.
    lines[0] = f"begin {lines[0]}"
    lines[-1] += " end"
    with _without_native_messages():
        aligned = aligner.align_texts("\n".join(lines), f"begin {stream} end")
    counts = [len(line.split()) for line in aligned.split("\n")]
    counts[0] -= 1
    counts[-1] -= 1
    if len(counts) != len(references) or sum(counts) != len(words) or min(counts) < 0:
        raise RuntimeError(f"mweralign gave {counts} of {len(words)} words")
    parts, first = [], 0
    for count in counts:
        last = first + count
        span = words[first:last]
        text = hypothesis[span[0].start() : span[-1].end()] if span else ""
        parts.append(" ".join(text.split()))
        first = last
    return parts


def signature(characters: bool = False) -> str:
    """How texts were aligned, in the manner of sacreBLEU's signatures."""
    version = importlib.metadata.version("mweralign")
    return f"mweralign|case:lc|tok:{'char' if characters else 'none'}|version:{version}"


@contextlib.contextmanager
def _without_native_messages() -> Iterator[None]:
    """While the block runs, what compiled code writes to standard error goes nowhere."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
