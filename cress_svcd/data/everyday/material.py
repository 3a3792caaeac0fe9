"""The ways of drawing that all kinds of sentences share."""

from cress_svcd.data.everyday.activities import Activities
from cress_svcd.data.everyday.concepts import ABSOLUTE
from cress_svcd.data.everyday.dice import Dice
from cress_svcd.data.everyday.meaning import HE, SHE, THEY, WE, YOU, I, Person, Quality
from cress_svcd.data.everyday.participants import Participants
from cress_svcd.data.everyday.times import Calendar


class Material:
    """Words, participants, times and activities, all drawn with the same dice."""

    def __init__(self, seed: int):
        self.dice = Dice(seed)
        self.people = Participants(self.dice)
        self.calendar = Calendar(self.dice)
        self.activities = Activities(self.dice, self.people, self.calendar)

    def owner(self, asking: bool = False) -> Person:
        """Whose something is; nobody asks about his own things."""
        mine = [] if asking else [(I, 5.0), (WE, 2.0)]
        return self.dice.weighted(mine + [(YOU, 4.0), (HE, 2.0), (SHE, 2.0), (THEY, 2.0)])

    def quality(self, adjectives: list[str], very: float = 0.25) -> Quality:
        """One of ``adjectives``, with "very" in that share of the cases."""
        adjective = self.dice.usual(adjectives)
        return Quality(adjective, adjective not in ABSOLUTE and self.dice.chance(very))

    def number(self, low: int, high: int) -> int:
        """A number, above a hundred nearly always a round one.

        Never 101, 201, ...: German has two ways to say those.
        """
        value = self.dice.between(low, high)
        if value > 100 and self.dice.chance(0.9):
            value = min(high, max(low, round(value, -1)))
        return value + 1 if value > 100 and value % 100 == 1 else value
