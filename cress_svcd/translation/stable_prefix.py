"""Which of the words of speech that is still being said will stay.

A model that knows only whole sentences is given what was said so far, again and again.  A policy
says how many tokens of each translation are certain; the next ones must begin with these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cress_svcd.translation.phrases import WITHOUT_SPACES
from cress_svcd.translation.result import Translation

BEGINS_WORD = "▁"


class Policy(Protocol):
    """Of one segment."""

    attention: bool  # whether ``Translation.attended`` is needed

    def certain(self, found: Translation, end: float) -> int:
        """How many tokens of the translation of what was said until ``end`` (seconds) stay."""


@dataclass
class LocalAgreement:
    """Those that the last ``count`` translations begin with (Liu et al., Low-latency
    sequence-to-sequence speech recognition and translation by partial hypothesis selection,
    Interspeech 2020)."""

    count: int = 2
    attention: bool = False
    previous: list[tuple[str, ...]] = field(default_factory=list)

    def certain(self, found: Translation, end: float) -> int:
        self.previous = [*self.previous, found.tokens][-self.count :]
        if len(self.previous) < self.count:
            return 0
        return common(self.previous)


@dataclass
class HoldBack:
    """All but the last ``count`` (hold-n, in the same article)."""

    count: int = 3
    attention: bool = False

    def certain(self, found: Translation, end: float) -> int:
        return max(0, len(found.tokens) - self.count)


@dataclass
class AlignAtt:
    """Those before the first that attends to the last ``seconds`` (Papi et al., AlignAtt,
    Interspeech 2023)."""

    seconds: float = 0.5
    attention: bool = True

    def certain(self, found: Translation, end: float) -> int:
        for number, attended in enumerate(found.attended):
            if attended > end - self.seconds:
                return number
        return len(found.attended)


POLICIES: dict[str, Callable[..., Policy]] = {
    "agreement": LocalAgreement,
    "hold": HoldBack,
    "attention": AlignAtt,
}


class StablePrefix:
    """The tokens of a segment that stay, as its translations come in.

    A translation's last token never stays before the end: models end what they are given as a
    sentence, though it goes on.
    """

    def __init__(self, policy: Policy):
        self.policy = policy
        self.tokens: tuple[str, ...] = ()

    def update(self, found: Translation, end: float) -> tuple[str, ...]:
        """The tokens that stay, now that what was said until ``end`` is translated."""
        certain = min(self.policy.certain(found, end), len(found.tokens) - 1)
        certain = whole_words(found.tokens, certain)
        if certain > len(self.tokens) and found.tokens[: len(self.tokens)] == self.tokens:
            self.tokens = found.tokens[:certain]
        return self.tokens


def common(sequences: Sequence[Sequence[str]]) -> int:
    """How many items all of them begin with."""
    count = 0
    for items in zip(*sequences):
        if len(set(items)) > 1:
            break
        count += 1
    return count


def whole_words(tokens: Sequence[str], count: int) -> int:
    """The most of the first ``count`` tokens after which a word ends."""
    while 0 < count < len(tokens) and not (
        tokens[count].startswith(BEGINS_WORD) or WITHOUT_SPACES.match(tokens[count])
    ):
        count -= 1
    return max(0, count)
