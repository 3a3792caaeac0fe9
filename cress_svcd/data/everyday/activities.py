"""Draws what people do: clauses whose parts go together."""

from dataclasses import replace
from functools import cache

from cress_svcd.data.everyday import concepts
from cress_svcd.data.everyday.concepts import FRAMES, Deed, Frame
from cress_svcd.data.everyday.dice import Dice
from cress_svcd.data.everyday.meaning import (
    PLURAL,
    YOU,
    Clause,
    Modal,
    Moment,
    NounPhrase,
    Pair,
    Participant,
    Pronoun,
    Quality,
    Tense,
    agreement,
)
from cress_svcd.data.everyday.participants import Participants, person_of
from cress_svcd.data.everyday.times import Calendar, Times

Mode = tuple[Tense, Modal | None]  # how a deed is told: done, being done, wanted, ...

HABIT: Mode = (Tense.PRESENT, None)
NOW: Mode = (Tense.PROGRESSIVE, None)
PAST: Mode = (Tense.PAST, None)
FUTURE: Mode = (Tense.FUTURE, None)
_LETTERS = {"h": HABIT, "g": NOW, "p": PAST}
_NEGATIVE_SHARE = {Modal.CAN: 0.4, Modal.LIKE: 0.25, Modal.WOULD_LIKE: 0.0}
_DEFAULT_NEGATIVE_SHARE = 0.17
_MOST_EXTRAS = 2


def modal(value: Modal) -> Mode:
    return (Tense.PRESENT, value)


@cache
def modes_of(verb: str) -> tuple[tuple[Mode, float], ...]:
    """The tenses and modals in which ``verb`` is used, with weights."""
    frame = FRAMES[verb]
    weights = {"h": 3.5, "g": 3.0, "p": 4.0}
    options = [(_LETTERS[letter], weights[letter]) for letter in frame.tenses]
    if frame.allows("must"):
        options += [(modal(Modal.MUST), 2.0), (modal(Modal.SHOULD), 1.0), (FUTURE, 1.0)]
        return tuple(options)
    if frame.allows("can"):
        options.append((modal(Modal.CAN), 2.0))
    if frame.allows("static"):
        return tuple(options)
    options += [(FUTURE, 1.8), (modal(Modal.WANT), 1.0), (modal(Modal.MUST), 1.0)]
    options += [(modal(Modal.CAN), 0.7), (modal(Modal.SHOULD), 0.7)]
    options += [(modal(Modal.WOULD_LIKE), 0.8)]
    options += [((Tense.PAST, Modal.WANT), 0.4), ((Tense.PAST, Modal.MUST), 0.4)]
    if frame.allows("enjoyed"):
        options.append((modal(Modal.LIKE), 1.2))
    return tuple(options)


EVERY_MODE = tuple(dict.fromkeys(m for verb in FRAMES for m, _ in modes_of(verb)))


def is_said_to_you(mode: Mode) -> bool:
    """Whether one tells somebody so of himself: "you should", not "you are buying"."""
    return mode[1] in (Modal.CAN, Modal.MUST, Modal.SHOULD)


@cache
def _fitting_modes(
    verb: str, to_you: bool, modes: tuple[Mode, ...]
) -> tuple[tuple[Mode, float], ...]:
    """Those of ``modes`` (none: of all) that ``verb`` is used in; ``to_you``: the subject is you."""
    options = [option for option in modes_of(verb) if not modes or option[0] in modes]
    if to_you and not modes:
        options = [option for option in options if is_said_to_you(option[0])]
    return tuple(options)


@cache
def _fitting_verbs(
    verbs: tuple[str, ...], to_you: bool, modes: tuple[Mode, ...]
) -> tuple[str, ...]:
    return tuple(verb for verb in verbs if _fitting_modes(verb, to_you, modes))


class Activities:
    """Clauses about people's doings, drawn with ``dice``."""

    def __init__(self, dice: Dice, participants: Participants, calendar: Calendar):
        self._dice = dice
        self._participants = participants
        self._calendar = calendar

    def activity(
        self,
        subject: Participant | None,
        verbs: tuple[str, ...] = tuple(FRAMES),
        modes: tuple[Mode, ...] = (),
        negative: bool | None = None,
        bare: bool = False,
    ) -> Clause:
        """What ``subject`` does; an absent one is who a question or a relative clause is about.

        ``modes``: the tenses and modals to choose from, any by default; verbs without one of
        them are left out.  ``bare``: nothing but what the verb needs.
        """
        to_you = subject == Pronoun(YOU)
        verb = self._dice.usual(_fitting_verbs(verbs, to_you, modes))
        mode = self._dice.weighted(_fitting_modes(verb, to_you, modes))
        if negative is None:
            negative = self._is_negative(verb, mode)
        return self._enacted(Deed(verb), subject, mode, negative, bare)

    def deed(
        self, deed: Deed, subject: Participant | None, mode: Mode, negative: bool = False
    ) -> Clause:
        """``deed`` done by ``subject``, with nothing added."""
        return self._enacted(deed, subject, mode, negative, bare=True)

    def _is_negative(self, verb: str, mode: Mode) -> bool:
        if FRAMES[verb].allows("positive"):
            return False
        share = _NEGATIVE_SHARE.get(mode[1], _DEFAULT_NEGATIVE_SHARE)
        return self._dice.chance(share)

    def _enacted(
        self, deed: Deed, subject: Participant | None, mode: Mode, negative: bool, bare: bool
    ) -> Clause:
        frame, (tense, modal_verb) = FRAMES[deed.verb], mode
        clause = Clause(subject, deed.verb, tense, modal_verb, negative)
        clause = self._with_object(clause, frame, deed)
        clause = self._with_complements(clause, frame, deed)
        if bare:
            return clause
        if not negative:
            clause = self._with_extras(clause, frame)
        return self._with_times(clause, frame)

    # What the verb needs

    def _with_object(self, clause: Clause, frame: Frame, deed: Deed) -> Clause:
        selection, forms = deed.objects or frame.objects, deed.forms or frame.forms
        if not selection or (frame.bare_too and not deed.objects and self._dice.chance(0.4)):
            return clause
        people = "people" in selection.split()
        things = " ".join(part for part in selection.split() if part != "people")
        if people and (not things or self._dice.chance(0.75)):
            person = self._participants.other(clause.subject, stranger=frame.allows("stranger"))
            return replace(clause, object=person)
        if clause.modal is Modal.LIKE and "bare" in forms:
            forms = "bare"
        owner = person_of(clause.subject)
        thing = self._participants.thing(things, forms, owner, clause.negative)
        return replace(clause, object=thing)

    def _with_complements(self, clause: Clause, frame: Frame, deed: Deed) -> Clause:
        subject = clause.subject
        if frame.allows("recipient"):
            clause = replace(clause, recipient=self._participants.other(subject))
        if frame.allows("feeling"):
            feeling = self._dice.usual(concepts.FEELINGS)
            clause = replace(clause, predicate=Quality(feeling, very=self._dice.chance(0.25)))
        if frame.allows("spot"):
            clause = replace(clause, goal=self._participants.spot(besides=clause.object.noun))
        if deed.goal or frame.allows("goal") or (frame.goals and self._dice.chance(0.5)):
            clause = replace(clause, goal=deed.goal or self._dice.usual(frame.goals.split()))
        if deed.place or frame.allows("place"):
            clause = replace(clause, place=deed.place or self._dice.usual(frame.places.split()))
        return clause

    # What may be added

    def _with_extras(self, clause: Clause, frame: Frame) -> Clause:
        extras = [
            (0.2, self._with_manner),
            (0.25, self._with_beneficiary),
            (0.15, self._with_company),
            (0.5, self._with_vehicle),
            (0.5, self._with_duration),
            (0.5, self._with_finding),
            (0.35, self._with_place),
        ]
        added = 0
        for share, add in extras:
            if added == _MOST_EXTRAS or not self._dice.chance(share):
                continue
            richer = add(clause, frame)
            added += richer is not clause
            clause = richer
        return clause

    def _with_manner(self, clause: Clause, frame: Frame) -> Clause:
        manners = [m for m in concepts.MANNERS if frame.allows(m)]
        manners = [m for m in manners if self._manner_suits(m, clause)]
        return replace(clause, manner=self._dice.usual(manners)) if manners else clause

    @staticmethod
    def _manner_suits(manner: str, clause: Clause) -> bool:
        if manner == "together":
            subject = clause.subject
            return isinstance(subject, Pair) or agreement(subject).number == PLURAL
        if manner == "well":
            named = clause.verb in ("cook", "sing") and clause.object
            general = clause.tense is Tense.PRESENT and clause.modal in (None, Modal.CAN)
            return not named and (general or clause.verb == "sleep")
        told = clause.tense is not Tense.FUTURE and clause.modal is None
        return told or clause.modal in (Modal.MUST, Modal.SHOULD)

    def _with_beneficiary(self, clause: Clause, frame: Frame) -> Clause:
        if not (frame.allows("beneficiary") and clause.object):
            return clause
        return replace(clause, beneficiary=self._participants.other(clause.subject))

    def _with_company(self, clause: Clause, frame: Frame) -> Clause:
        if not frame.allows("companion") or isinstance(clause.subject, Pair) or clause.manner:
            return clause
        return replace(clause, companion=self._participants.other(clause.subject))

    def _with_vehicle(self, clause: Clause, frame: Frame) -> Clause:
        if not frame.allows("vehicle") or clause.companion:
            return clause
        return replace(clause, vehicle=self._dice.usual(concepts.VEHICLES))

    def _with_duration(self, clause: Clause, frame: Frame) -> Clause:
        if not frame.allows("duration"):
            return clause
        return replace(clause, duration=self._calendar.duration())

    def _with_finding(self, clause: Clause, frame: Frame) -> Clause:
        if not frame.allows("found"):
            return clause
        return replace(clause, place=self._participants.spot(besides=clause.object.noun))

    def _with_place(self, clause: Clause, frame: Frame) -> Clause:
        if clause.place or clause.goal or not frame.places:
            return clause
        owner = person_of(clause.subject)
        places = frame.places.split()
        if isinstance(clause.object, NounPhrase):
            decided = concepts.PLACES_OF_OBJECTS.get(clause.object.noun)
            places = [decided] if decided in places else places
        places = [place for place in places if owner or place != "room"]
        return replace(clause, place=self._participants.place(self._dice.usual(places), owner))

    # When

    def _with_times(self, clause: Clause, frame: Frame) -> Clause:
        if frame.allows("timeless"):
            return clause
        if clause.modal is None and clause.tense is Tense.PRESENT:
            return self._with_habit(clause, frame)
        if frame.allows("morning"):
            return replace(clause, times=self._hours(clause))
        return replace(clause, times=self._times(clause, frame))

    def _with_habit(self, clause: Clause, frame: Frame) -> Clause:
        if frame.allows("static") or clause.negative or clause.manner == "well":
            return clause
        if frame.allows("morning") and not clause.manner:
            return replace(clause, times=(self._calendar.clock(*concepts.GETTING_UP),))
        choice = self._dice.weighted([("frequency", 5), ("times", 5), ("none", 1)])
        if choice == "frequency":
            return replace(clause, frequency=self._dice.usual(concepts.FREQUENCIES))
        if choice == "times":
            return replace(clause, times=self._calendar.habit())
        return clause

    def _hours(self, clause: Clause) -> Times:
        past = clause.tense is Tense.PAST
        day = self._dice.pick(("yesterday", "today") if past else ("tomorrow",))
        if clause.manner or clause.negative:
            return (Moment(day),)
        return (Moment(day), self._calendar.clock(*concepts.GETTING_UP))

    def _times(self, clause: Clause, frame: Frame) -> Times:
        clock = frame.allows("clock") and not clause.negative
        distant = frame.allows("distant") and not clause.negative
        planned, chance = frame.allows("plan"), self._dice.chance
        if clause.duration or clause.modal is Modal.LIKE:
            return ()
        if clause.tense is Tense.PAST:
            return self._calendar.past(clock, distant, planned) if chance(0.7) else ()
        if clause.tense is Tense.PROGRESSIVE and not (planned and chance(0.35)):
            return (Moment("now"),) if chance(0.25) else ()
        if clause.modal and not planned:
            return (Moment("today"),) if chance(0.2) else ()
        likely = 0.4 if clause.modal else 0.8
        return self._calendar.future(clock, distant, planned) if chance(likely) else ()
