"""Hypotheses that repeat themselves: a search that has lost the speech goes in circles."""

from collections import Counter
from collections.abc import Iterator, Sequence

SIZE = 3
MOST = 3
WORD_START = "▁"  # sentencepiece's

# No so many tokens in a row come twice where a hypothesis that repeats itself is decoded again.
NO_REPEAT = 3


def repeats_itself(text: str, tokens: Sequence[str]) -> bool:
    """Whether three words in a row, or three tokens within a word, come more than three times.

    Tokens do not count beyond a word: those of a small vocabulary recur in any text.  A text
    without spaces is one word.  Figures may repeat: 1000000000.
    """
    if _most_frequent(text.split()) > MOST:
        return True
    return any(_most_frequent(word) > MOST for word in _tokens_of_words(tokens))


def _most_frequent(items: Sequence[str]) -> int:
    grams = zip(*(items[start:] for start in range(SIZE)))
    counts = Counter(gram for gram in grams if not _is_figures("".join(gram)))
    return max(counts.values(), default=0)


def _is_figures(text: str) -> bool:
    return any(map(str.isdigit, text)) and not any(map(str.isalpha, text))


def _tokens_of_words(tokens: Sequence[str]) -> Iterator[list[str]]:
    if not any(token.startswith(WORD_START) for token in tokens):
        return  # another vocabulary, whose words are not to be seen in its tokens
    word: list[str] = []
    for token in tokens:
        if token.startswith(WORD_START) and word:
            yield word
            word = []
        word += filter(None, [token.removeprefix(WORD_START)])
    yield word


def report(count: int) -> str:
    """A line about so many translations that repeated themselves; empty if none did."""
    if not count:
        return ""
    return (
        f"{count} translations repeated themselves and were decoded again with "
        f"--no-repeat-ngram-size {NO_REPEAT}"
    )
