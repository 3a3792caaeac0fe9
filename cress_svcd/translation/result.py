"""What a translator returns."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word of a text, and when it is said, in seconds of the recording.

    A script that puts no spaces between its words (Chinese, Thai) has a word for each token.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Translation:
    """What was said in [``start``, ``end``) seconds of a recording, in the target language.

    text: as fairseq-generate prints it after ``D-``.
    score: log-probability in base 2, divided by (number of tokens) ** lenpen: what fairseq-generate
        prints.  Of several segments: their mean, weighted by their tokens.
    tokens: those of the vocabulary.
    start, end: seconds; None for translated text.
    segments: the parts of a recording, in their order; empty for a part.
    words: those of the text with their times, where they were asked for.
    attended: seconds of the recording that each of the tokens attends to most, where words with
        times were asked for; of a part.
    decoded_again: the first hypothesis repeated itself (``repetition.repeats_itself``).
    transcript: what was said, in the source language, where it was asked for.
    transcript_words: those of the transcript with their times.
    """

    text: str
    score: float
    tokens: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    segments: tuple["Translation", ...] = ()
    words: tuple[Word, ...] = ()
    decoded_again: bool = False
    transcript: str | None = None
    transcript_words: tuple[Word, ...] = ()
    attended: tuple[float, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What a search is to find.

    translations: words; else what is heard alone, without a search.
    attention, labels: see ``search.Found``; of speech.
    """

    translations: bool = True
    attention: bool = False
    labels: bool = False


def join(parts: Sequence[Translation]) -> Translation:
    """The translation of a recording out of those of its segments."""
    tokens = tuple(token for part in parts for token in part.tokens)
    weights = [max(1, len(part.tokens)) for part in parts]
    total = sum(weight * part.score for weight, part in zip(weights, parts))
    heard = [part.transcript for part in parts if part.transcript is not None]
    return Translation(
        " ".join(part.text for part in parts if part.text),
        total / max(1, sum(weights)),
        tokens,
        parts[0].start if parts else 0.0,
        parts[-1].end if parts else 0.0,
        tuple(parts),
        tuple(word for part in parts for word in part.words),
        any(part.decoded_again for part in parts),
        " ".join(filter(None, heard)) if heard else None,
        tuple(word for part in parts for word in part.transcript_words),
    )
