"""Draws when things happen."""

from cress_svcd.data.everyday import concepts
from cress_svcd.data.everyday.dice import Dice
from cress_svcd.data.everyday.meaning import (
    PLURAL,
    SINGULAR,
    Ago,
    Clock,
    Date,
    Determiner,
    Later,
    Moment,
    NounPhrase,
    Time,
    Weekday,
)

Times = tuple[Time, ...]
_LONGEST = {"minute": 50, "day": 10, "week": 8, "year": 30}


class Calendar:
    """Times that suit a tense, drawn with ``dice``."""

    def __init__(self, dice: Dice):
        self._dice = dice

    def clock(self, earliest: int = 1, latest: int = 12) -> Clock:
        return Clock(self._dice.between(earliest, latest), self._dice.usual(concepts.MINUTES))

    def past(self, clock: bool = False, distant: bool = False, week: bool = True) -> Times:
        """``clock``: the hour may be named; ``distant``: it may be long ago; ``week``: last week."""
        far = 2.5 if distant else 0
        kind = self._dice.weighted([("moment", 5), ("weekday", 4), ("ago", far), ("date", far)])
        if kind == "moment":
            moments = concepts.PAST_MOMENTS + (("last_week",) if week else ())
            return self._at(Moment(self._dice.usual(moments)), clock)
        if kind == "ago":
            return (Ago(*self._amount(("day", "week", "year"))),)
        return self._day(kind, clock)

    def future(self, clock: bool = False, distant: bool = False, week: bool = True) -> Times:
        """``clock``: the hour may be named; ``distant``: it may be far off; ``week``: next week."""
        far = 2.5 if distant else 0
        soon = 1.5 if clock else 0
        kind = self._dice.weighted(
            [("moment", 5), ("weekday", 4), ("soon", soon), ("later", far), ("date", far)]
        )
        if kind == "moment":
            moments = concepts.FUTURE_MOMENTS + (("next_week",) if week else ())
            return self._at(Moment(self._dice.usual(moments)), clock)
        if kind == "soon":
            return (Later(*self._amount(("minute",))),)
        if kind == "later":
            return (Later(*self._amount(("day", "week"))),)
        return self._day(kind, clock)

    def habit(self) -> Times:
        if self._dice.chance(0.3):
            return (Weekday(self._dice.usual(concepts.DAYS), every=True),)
        return (Moment(self._dice.usual(concepts.HABIT_MOMENTS)),)

    def scheduled(self) -> Times:
        """When a train leaves or a course begins: by the clock, on a day, or both."""
        kind = self._dice.weighted([("clock", 5), ("both", 4), ("date", 1.5)])
        if kind == "date":
            return (self.date(),)
        return (self.weekday(), self.clock()) if kind == "both" else (self.clock(),)

    def weekday(self, parts: bool = False) -> Weekday:
        part = self._dice.pick(concepts.DAY_PARTS) if parts and self._dice.chance(0.4) else ""
        return Weekday(self._dice.usual(concepts.DAYS), part)

    def date(self) -> Date:
        day = self._dice.between(1, concepts.LAST_DATE) if self._dice.chance(0.7) else 0
        return Date(self._dice.usual(concepts.MONTHS), day)

    def duration(self) -> NounPhrase:
        """ "three weeks" """
        count, unit = self._amount(("day", "week", "year"))
        if count == 1:
            return NounPhrase(unit, SINGULAR, Determiner.A)
        return NounPhrase(unit, PLURAL, count=count)

    def _day(self, kind: str, clock: bool) -> Times:
        if kind == "date":
            return (self.date(),)
        return self._at(self.weekday(parts=True), clock)

    def _at(self, day: Moment | Weekday, clock: bool) -> Times:
        whole_day = day in (Moment("yesterday"), Moment("today"), Moment("tomorrow"))
        if isinstance(day, Weekday) and not day.part:
            whole_day = True
        return (day, self.clock()) if clock and whole_day and self._dice.chance(0.35) else (day,)

    def _amount(self, units: tuple[str, ...]) -> tuple[int, str]:
        unit = self._dice.usual(units)
        if unit == "minute":
            return self._dice.pick((5, 10, 15, 20, 25, 30, 40, 45, 50)), unit
        return self._dice.between(1 if unit == "week" else 2, _LONGEST[unit]), unit
