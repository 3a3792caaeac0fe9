"""What a sentence means, before any language puts it into words.

A sentence is a small tree of the classes below.  The composer draws such trees; ``english``,
``german`` and ``romanian`` each turn one into text, so the two sides of a pair never meet and a
further language is a further module.  Nouns, verbs, adjectives and so on are named by concepts
(``"look_for"``, ``"old_person"``), whose properties are in ``concepts``.
"""

from dataclasses import dataclass
from enum import Enum

SINGULAR = "sg"
PLURAL = "pl"
FEMALE = "f"
MALE = "m"


class Tense(Enum):
    PRESENT = "present"  # habits and states
    PROGRESSIVE = "progressive"
    PAST = "past"
    FUTURE = "future"


class Modal(Enum):
    CAN = "can"
    MUST = "must"
    WANT = "want to"
    SHOULD = "should"
    WOULD_LIKE = "would like to"
    LIKE = "like to"


class Determiner(Enum):
    THE = "the"
    A = "a"
    THIS = "this"
    BARE = ""  # "bread", "apples"


@dataclass(frozen=True)
class Person:
    """A grammatical person.  ``gender`` is known of the third person singular only."""

    person: int
    number: str
    gender: str = ""


I = Person(1, SINGULAR)  # noqa: E741 - the pronoun
YOU = Person(2, SINGULAR)
HE = Person(3, SINGULAR, MALE)
SHE = Person(3, SINGULAR, FEMALE)
IT = Person(3, SINGULAR)
WE = Person(1, PLURAL)
THEY = Person(3, PLURAL)


@dataclass(frozen=True)
class Pronoun:
    """``bound``: the subject of the neighbouring clause is meant (some languages drop it)."""

    who: Person
    bound: bool = False


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class NounPhrase:
    """A noun with what belongs to it.

    ``owner`` ("my") or ``count`` ("three"), where given, takes the place of the determiner.
    ``content`` is what a measure holds ("a cup of tea"), ``toward`` the city of "the train to".
    """

    noun: str
    number: str = SINGULAR
    determiner: Determiner = Determiner.THE
    owner: Person | None = None
    count: int | None = None
    adjective: str = ""
    content: str = ""
    toward: str = ""
    relative: "Relative | None" = None

    @property
    def is_definite(self) -> bool:
        if self.owner:
            return True
        return self.count is None and self.determiner in (Determiner.THE, Determiner.THIS)


@dataclass(frozen=True)
class Pair:
    """Two participants joined by "and"."""

    first: "Participant"
    second: "Participant"


Participant = Pronoun | Name | NounPhrase | Pair


@dataclass(frozen=True)
class Relative:
    """A relative clause.  Its noun is the clause's subject or object, which is absent there."""

    clause: "Clause"
    of_subject: bool


@dataclass(frozen=True)
class Quality:
    """The predicate "(very) tired"."""

    adjective: str
    very: bool = False


@dataclass(frozen=True)
class Job:
    """The predicate "a doctor": the noun of an occupation."""

    noun: str


@dataclass(frozen=True)
class Identity:
    """The predicate "my neighbor"."""

    phrase: NounPhrase


@dataclass(frozen=True)
class Comparison:
    """The predicate "faster than the bus"."""

    adjective: str
    than: Participant


@dataclass(frozen=True)
class Age:
    """The predicate "twelve years old"."""

    years: int


Predicate = Quality | Job | Identity | Comparison | Age


@dataclass(frozen=True)
class Spot:
    """A place by its relation to a thing: "under the table"."""

    relation: str
    thing: NounPhrase


Place = str | Spot  # a concept of ``concepts.PLACES`` or a spot


@dataclass(frozen=True)
class Moment:
    """A fixed expression: "today", "every evening"."""

    key: str


@dataclass(frozen=True)
class Weekday:
    day: str
    part: str = ""  # morning, afternoon, evening
    every: bool = False


@dataclass(frozen=True)
class Date:
    """A day of a month, or the month alone (``day`` 0)."""

    month: str
    day: int = 0


@dataclass(frozen=True)
class Clock:
    """``hour`` from 1 to 12; ``minute`` is one of ``concepts.MINUTES``."""

    hour: int
    minute: int


@dataclass(frozen=True)
class Ago:
    count: int
    unit: str


@dataclass(frozen=True)
class Later:
    """ "in three days" """

    count: int
    unit: str


Time = Moment | Weekday | Date | Clock | Ago | Later


@dataclass(frozen=True)
class Clause:
    """A verb with its participants and circumstances.

    ``subject`` is None where a relative clause or a question takes it, and with "rain".
    ``times`` stand in their order of speaking: the day before the hour.
    """

    subject: Participant | None
    verb: str
    tense: Tense = Tense.PRESENT
    modal: Modal | None = None
    negative: bool = False
    object: Participant | None = None
    recipient: Participant | None = None
    companion: Participant | None = None
    beneficiary: Participant | None = None
    predicate: Predicate | None = None
    vehicle: str = ""
    manner: str = ""
    frequency: str = ""
    place: Place | None = None
    goal: Place | None = None
    duration: NounPhrase | None = None
    times: tuple[Time, ...] = ()


class Front(Enum):
    """What a statement begins with."""

    SUBJECT = "subject"
    TIME = "time"
    FREQUENCY = "frequency"


@dataclass(frozen=True)
class Statement:
    clause: Clause
    front: Front = Front.SUBJECT


class Asked(Enum):
    """What a question asks for; that part is absent from its clause unless said otherwise."""

    WHETHER = "yes or no"
    SUBJECT = "who"
    PERSON = "whom"
    THING = "what"
    WHICH = "which book"  # the noun stays in the clause's object
    HOW_MANY = "how many books"  # likewise
    PRICE = "how much does it cost"
    AGE = "how old"
    PLACE = "where"
    GOAL = "where to"
    TIME = "when"
    REASON = "why"


@dataclass(frozen=True)
class Question:
    clause: Clause
    asked: Asked = Asked.WHETHER


class Link(Enum):
    BECAUSE = "because"
    ALTHOUGH = "although"
    WHEN = "when"
    IF = "if"
    BEFORE = "before"
    AFTER = "after"
    THAT = "that"


@dataclass(frozen=True)
class Complex:
    """A main clause and a subordinate one; ``sub_first`` says which is spoken first."""

    main: Clause
    link: Link
    sub: Clause
    sub_first: bool = False


@dataclass(frozen=True)
class Indirect:
    """A question inside a clause: "I do not know where my keys are", "Do you know when ...?"."""

    main: Clause
    question: Question
    is_question: bool = False


@dataclass(frozen=True)
class Contrast:
    """Two clauses joined by "but"."""

    first: Clause
    second: Clause


@dataclass(frozen=True)
class Request:
    """ "Please close the door." """

    clause: Clause


@dataclass(frozen=True)
class Existence:
    """ "There is a lamp on the table." """

    thing: NounPhrase
    place: Place
    negative: bool = False


@dataclass(frozen=True)
class HourIs:
    """ "It is half past eight." """

    clock: Clock


Sentence = Statement | Question | Complex | Indirect | Contrast | Request | Existence | HourIs


def agreement(participant: Participant | None) -> Person:
    """The person with which a verb agrees; an absent subject counts as "who" or "it"."""
    match participant:
        case Pronoun(who=who):
            return who
        case Pair():
            return THEY
        case NounPhrase(number=number):
            return Person(3, number)
    return IT
