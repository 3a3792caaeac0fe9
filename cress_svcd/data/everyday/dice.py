"""Random choices that are the same on every Python, and that favour some words over others."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Seeded choices.

    Only ``Random.random`` is called: of the standard generator's methods it alone is promised to
    give the same sequence in every version of Python.
    """

    _TRIES = 3  # of so many words drawn, the one used most is taken

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._uses: Counter[object] = Counter()

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random.random() * len(options))]

    def weighted(self, options: Sequence[tuple[T, float]]) -> T:
        """One of ``(option, weight)``."""
        point = self._random.random() * sum(weight for _, weight in options)
        for option, weight in options:
            point -= weight
            if point < 0:
                return option
        return options[-1][0]

    def usual(self, options: Sequence[T]) -> T:
        """One of ``options``, rather one that was taken often before.

        What is used much is used ever more: words differ in frequency as they do in speech (Simon
        1955, "On a class of skew distribution functions").
        """
        drawn = [self.pick(options) for _ in range(self._TRIES)]
        choice = max(drawn, key=lambda option: self._uses[option])
        self._uses[choice] += 1
        return choice
