"""Draws questions."""

from dataclasses import replace

from cress_svcd.data.everyday import concepts
from cress_svcd.data.everyday.activities import (
    EVERY_MODE,
    FUTURE,
    HABIT,
    NOW,
    PAST,
    Mode,
    modal,
)
from cress_svcd.data.everyday.concepts import FRAMES, NOUNS, nouns_of
from cress_svcd.data.everyday.material import Material
from cress_svcd.data.everyday.meaning import (
    PLURAL,
    SINGULAR,
    WE,
    YOU,
    Asked,
    Clause,
    I,
    Modal,
    NounPhrase,
    Participant,
    Pronoun,
    Question,
    agreement,
)
from cress_svcd.data.everyday.statements import Statements

_ASKED_OBJECTS = (
    (Asked.THING, "what"),
    (Asked.PERSON, "who"),
    (Asked.WHICH, "which"),
    (Asked.HOW_MANY, "howmany"),
)
_DONE_SOMEWHERE = (
    "buy",
    "find",
    "lose",
    "see",
    "meet",
    "sleep",
    "read",
    "work",
    "stay",
    "learn",
)
_DONE_SOMETIME = (
    "get_up",
    "come_back",
    "visit",
    "meet",
    "call",
    "sell",
    "travel",
    "buy",
    "go",
)

# One asks why of what people mean to do, not of what they find or need.
_INTENDED = tuple(verb for verb, frame in FRAMES.items() if not frame.allows("static"))


class Questions:
    """One method a kind of question; the docstrings give examples."""

    def __init__(self, material: Material, statements: Statements):
        self._material = material
        self._dice = material.dice
        self._people = material.people
        self._activities = material.activities
        self._statements = statements

    def yes_no(self) -> Question:
        """ "Did you buy the blue hat?" """
        if self._dice.chance(0.3):
            clause = self._statements.state(asking=True)
        else:
            clause = self._activity(())
        return Question(replace(clause, negative=False))

    def wh(self) -> Question:
        """ "Where does your sister live?" """
        return self._dice.weighted(
            self._asking_others() + [(self._who, 4.0), (self._object, 3.0)]
        )()

    def about_others(self) -> Question:
        """A question that somebody else may be asked: not about him, nor about the speaker."""
        asking = self._asking_others() + [(self.yes_no, 8.0)]
        question = self._dice.weighted(asking)()
        while agreement(question.clause.subject) in (I, WE, YOU):
            question = self._dice.weighted(asking)()
        return question

    def _asking_others(self) -> list[tuple]:
        return [
            (self._price, 2.0),
            (self._age, 2.0),
            (self._place, 4.0),
            (self._goal, 1.0),
            (self._time, 4.0),
            (self._reason, 1.5),
            (self._object, 2.0),
        ]

    def _someone(self) -> Participant:
        if self._dice.chance(0.35):
            return Pronoun(YOU)
        return self._people.subject(asking=True)

    def _activity(self, modes: tuple[Mode, ...], verbs: tuple[str, ...] = tuple(FRAMES)) -> Clause:
        """What somebody is asked to be doing; of "you" anything may be asked."""
        subject = self._someone()
        if subject == Pronoun(YOU):
            modes = modes or EVERY_MODE
        return self._activities.activity(subject, verbs, modes, negative=False)

    def _who(self) -> Question:
        """ "Who is singing in the garden?" """
        modes = (NOW, PAST, FUTURE, modal(Modal.CAN), modal(Modal.WANT), HABIT)
        clause = self._activities.activity(None, modes=modes, negative=False)
        return Question(replace(clause, frequency=""), Asked.SUBJECT)

    def _object(self) -> Question:
        """ "What are you looking for?", "Which book is Tom reading?" """
        asked, word = self._dice.pick(_ASKED_OBJECTS)
        verbs = tuple(verb for verb, frame in FRAMES.items() if word in frame.asks.split())
        modes = (NOW, PAST, FUTURE, HABIT, modal(Modal.WANT), modal(Modal.MUST))
        clause = self._activity(modes, verbs)
        clause = replace(clause, frequency="", manner="", object=None, beneficiary=None)
        if asked in (Asked.WHICH, Asked.HOW_MANY):
            clause = replace(clause, object=self._asked_noun(clause.verb, asked))
        return Question(clause, asked)

    def _asked_noun(self, verb: str, asked: Asked) -> NounPhrase:
        number = SINGULAR if asked is Asked.WHICH else PLURAL
        nouns = [n for n in nouns_of(FRAMES[verb].objects) if number in NOUNS[n].numbers]
        if asked is Asked.HOW_MANY:
            nouns = [noun for noun in nouns if noun in nouns_of(concepts.COUNTED)]
        return NounPhrase(self._dice.usual(nouns), number)

    def _price(self) -> Question:
        """ "How much does this coat cost?" """
        return Question(Clause(self._statements.priced(), "cost"), Asked.PRICE)

    def _age(self) -> Question:
        """ "How old is your brother?" """
        who, _ = self._statements.aged(asking=True)
        return Question(Clause(who, "be"), Asked.AGE)

    def _place(self) -> Question:
        """ "Where are my keys?", "Where did you buy this coat?" """
        kind = self._dice.weighted(
            [("sight", 2.0), ("thing", 4.0), ("person", 3.0), ("doing", 5.0)]
        )
        if kind == "doing":
            modes = (PAST, FUTURE, modal(Modal.WANT))
            clause = self._activity(modes, _DONE_SOMEWHERE)
            clause = replace(clause, place=None, manner="", beneficiary=None, duration=None)
            return Question(clause, Asked.PLACE)
        if kind == "person":
            verb = self._dice.usual(("live", "work", "be"))
            return Question(Clause(self._people.subject(asking=True), verb), Asked.PLACE)
        if kind == "sight":
            subject = NounPhrase(self._dice.usual(nouns_of("sight")))
        else:
            # one may well ask for one's own keys
            subject = self._people.thing(concepts.SMALL_THINGS, "own the", self._material.owner())
        return Question(Clause(subject, "be"), Asked.PLACE)

    def _goal(self) -> Question:
        """ "Where are you going tomorrow?" """
        clause = self._activity((NOW, PAST, FUTURE, modal(Modal.WANT)), ("go", "drive", "travel"))
        return Question(replace(clause, goal=None, manner=""), Asked.GOAL)

    def _time(self) -> Question:
        """ "When does the train to Berlin leave?" """
        if self._dice.chance(0.6):
            clause = self._statements.scheduled(asking=True)
        else:
            modes = (PAST, FUTURE, modal(Modal.WANT), modal(Modal.MUST))
            clause = self._activity(modes, _DONE_SOMETIME)
        return Question(replace(clause, times=(), manner=""), Asked.TIME)

    def _reason(self) -> Question:
        """ "Why did you not come to the party?" """
        negative = self._dice.chance(0.6)
        modes = (PAST, NOW, modal(Modal.WANT)) if negative else (NOW, PAST)
        clause = self._activities.activity(
            self._someone(), _INTENDED, modes, negative=negative, bare=True
        )
        return Question(clause, Asked.REASON)
