"""What a translator returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word of a text, and when it is said, in seconds of the recording."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Hypothesis:
    """A translation of a segment.

    score: log-probability in base 2, divided by (number of tokens) ** lenpen.
    tokens: those of the vocabulary, without the end of sentence.
    """

    text: str
    score: float
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """What was said in [``start``, ``end``) seconds of a recording, in the target language.

    text, score, tokens: of the best hypothesis, see :class:`Hypothesis`.
    hypotheses: the best first, as many as ``nbest`` asks for and the search finds.
    words: those of the text with their times, with ``word_times``.
    decoded_again: the first translation repeated itself; this is the second.
    """

    start: float
    end: float
    hypotheses: tuple[Hypothesis, ...]
    words: tuple[Word, ...] = ()
    decoded_again: bool = False

    @property
    def text(self) -> str:
        return self.hypotheses[0].text if self.hypotheses else ""

    @property
    def score(self) -> float:
        return self.hypotheses[0].score if self.hypotheses else 0.0

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.hypotheses[0].tokens if self.hypotheses else ()


@dataclass(frozen=True)
class Translation:
    """The translation of a recording of so many ``seconds``.

    segments: its parts in their order; none: nothing is heard in it.
    cut_by_loudness: the model's segmenter heard nothing, and the recording is cut by loudness.
    srt, vtt: subtitles, with ``word_times``; else None.
    """

    segments: tuple[Segment, ...]
    seconds: float
    cut_by_loudness: bool = False
    srt: str | None = None
    vtt: str | None = None

    @property
    def text(self) -> str:
        return " ".join(part.text for part in self.segments if part.text)

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for part in self.segments for word in part.words)

    @property
    def score(self) -> float:
        """The mean of the segments' scores, weighted by their tokens."""
        weights = [max(1, len(part.tokens)) for part in self.segments]
        total = sum(weight * part.score for weight, part in zip(weights, self.segments))
        return total / max(1, sum(weights))
