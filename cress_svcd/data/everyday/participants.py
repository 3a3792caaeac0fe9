"""Draws who and what a sentence speaks of."""

from dataclasses import replace
from functools import cache

from cress_svcd.data.everyday import concepts
from cress_svcd.data.everyday.concepts import NOUNS, nouns_of
from cress_svcd.data.everyday.dice import Dice
from cress_svcd.data.everyday.meaning import (
    FEMALE,
    HE,
    MALE,
    PLURAL,
    SHE,
    SINGULAR,
    THEY,
    WE,
    YOU,
    Determiner,
    I,
    Name,
    NounPhrase,
    Pair,
    Participant,
    Person,
    Place,
    Pronoun,
    Spot,
)

_EVERYBODY = (I, YOU, HE, SHE, WE, THEY)
_ADJECTIVE_SHARE = 0.3
_PLURAL_SHARE = 0.25
_DETERMINERS = {"a": Determiner.A, "the": Determiner.THE, "this": Determiner.THIS}


def again(who: Participant) -> Pronoun | None:
    """The pronoun that takes up ``who`` in the neighbouring clause, where one clearly does."""
    person = person_of(who)
    return Pronoun(person, bound=True) if person else None


def person_of(who: Participant | None) -> Person | None:
    """The grammatical person of people, or None where it is unclear whether "he" or "she"."""
    match who:
        case Pronoun(person):
            return person
        case Name(name):
            return SHE if concepts.NAMES[name] == FEMALE else HE
        case Pair() | NounPhrase(number="pl"):
            return THEY
        case NounPhrase(noun=noun) if "female" in NOUNS[noun].kinds:
            return SHE
        case NounPhrase(noun=noun) if "male" in NOUNS[noun].kinds:
            return HE
    return None


@cache
def adjectives_of(noun: str, besides: str = "") -> list[str]:
    """The adjectives that go with ``noun``, and with the adjective ``besides``."""
    excluded = {besides}
    for group in map(str.split, concepts.ALTERNATIVES):
        excluded |= set(group) if besides in group else set()
    adjectives = concepts.ADJECTIVES.items()
    return [key for key, nouns in adjectives if noun in nouns_of(nouns) and key not in excluded]


def suitable(nouns: tuple[str, ...], owner: Person | None) -> tuple[str, ...]:
    """Those of ``nouns`` that ``owner`` may have: a man has no dress.  All, if none would stay."""
    if owner != HE:
        return nouns
    return tuple(noun for noun in nouns if noun not in concepts.NOT_FOR_HIM) or nouns


class Participants:
    """People, things and spots, drawn with ``dice``."""

    def __init__(self, dice: Dice):
        self._dice = dice

    # People

    def subject(self, known: bool = False, asking: bool = False) -> Participant:
        """A person, never "you".

        ``known``: ``again`` finds a pronoun for it; ``asking``: not the speaker, who knows.
        """
        kind = self._dice.weighted(
            [
                (I, 0 if asking else 17),
                (WE, 0 if asking else 9),
                (HE, 8),
                (SHE, 8),
                (THEY, 7),
                ("name", 20),
                ("kin", 24),
                ("role", 0 if known else 8),
                ("couple", 4),
            ]
        )
        if isinstance(kind, Person):
            return Pronoun(kind)
        if kind == "name":
            return self.name()
        if kind == "couple":
            return self._couple()
        if kind == "role":
            return self.role()
        mine, ours = (0, 0) if asking else (7, 2)
        owner = self._dice.weighted([(I, mine), (YOU, 4), (HE, 1), (SHE, 1), (WE, ours), (THEY, 1)])
        return self.kin(owner, known)

    def other(
        self, subject: Participant | None, pronouns: bool = True, stranger: bool = False
    ) -> Participant:
        """A person beside ``subject``, who is None where nobody knows him ("who").

        ``stranger``: not of the subject's family.
        """
        pronoun = 3 if pronouns and not stranger else 0
        kind = self._dice.weighted([("pronoun", pronoun), ("name", 3), ("kin", 5), ("role", 2)])
        own = person_of(subject)
        if kind == "pronoun":
            taken = (I, WE) if own in (I, WE) else (own,)
            return Pronoun(self._dice.pick([who for who in _EVERYBODY if who not in taken]))
        if kind == "name":
            return self.name(subject)
        if kind == "role":
            return self.role(subject)
        owner = own if own and self._dice.chance(0.7) else self._dice.pick((I, YOU))
        if stranger:
            related = (own, {I: WE, WE: I}.get(own))
            owner = self._dice.pick([who for who in _EVERYBODY if who not in related])
        return self.kin(owner, besides=subject)

    def name(self, besides: Participant | None = None) -> Name:
        taken = (besides.first, besides.second) if isinstance(besides, Pair) else (besides,)
        names = [Name(name) for name in concepts.NAMES]
        return self._dice.usual([name for name in names if name not in taken])

    def _couple(self) -> Pair:
        """A woman and a man: where "they" has a gender, it is the masculine."""
        names = concepts.NAMES.items()
        women = [name for name, gender in names if gender == FEMALE]
        men = [name for name, gender in names if gender == MALE]
        return Pair(Name(self._dice.pick(women)), Name(self._dice.pick(men)))

    def kin(
        self, owner: Person, known: bool = False, besides: Participant | None = None
    ) -> NounPhrase:
        """Somebody's relative, friend or neighbor."""
        options = [
            phrase
            for noun in self._besides(nouns_of("kin"), besides)
            for number in NOUNS[noun].numbers
            if person_of(phrase := NounPhrase(noun, number, owner=owner)) or not known
        ]
        return self._dice.usual(options)

    def role(self, besides: Participant | None = None) -> NounPhrase:
        noun = self._dice.usual(self._besides(nouns_of("role"), besides))
        return NounPhrase(noun, NOUNS[noun].numbers[0])

    @staticmethod
    def _besides(nouns: tuple[str, ...], who: Participant | None) -> list[str]:
        return [n for n in nouns if not (isinstance(who, NounPhrase) and who.noun == n)]

    # Things

    def thing(
        self, selection: str, forms: str, owner: Person | None = None, negative: bool = False
    ) -> NounPhrase:
        """A thing of ``selection``, introduced by one of ``forms`` (see ``concepts.Frame``).

        ``owner`` is who "own" refers to; without one that form is left out.
        """
        noun = self._dice.usual(suitable(nouns_of(selection), owner))
        form = self._form(noun, forms, owner, negative)
        if form == "measure":
            return self.measure(noun)
        phrase = self._introduced(noun, form, owner)
        if form == "bare" and "instrument" in NOUNS[noun].kinds:
            return phrase  # "play the piano"
        return self.adorned(phrase)

    def _form(self, noun: str, forms: str, owner: Person | None, negative: bool) -> str:
        numbers = NOUNS[noun].numbers
        mass, in_general = numbers == ("mass",), noun in nouns_of(concepts.IN_GENERAL)
        fits = {
            "a": SINGULAR in numbers,
            "the": True,
            "own": owner is not None and not mass and "sight" not in NOUNS[noun].kinds,
            "this": not mass,
            "bare": "mass" in numbers or (PLURAL in numbers and in_general),
            "count": PLURAL in numbers and noun in nouns_of(concepts.COUNTED) and not negative,
            "measure": bool(self._measures_of(noun)) and not negative,
        }
        fitting = [form for form in forms.split() if fits[form]]
        return self._dice.pick(fitting or ["a" if SINGULAR in numbers else "bare"])

    def _introduced(self, noun: str, form: str, owner: Person | None) -> NounPhrase:
        numbers = NOUNS[noun].numbers
        number = PLURAL if numbers == (PLURAL,) else SINGULAR
        if form == "count":
            low, high = concepts.COUNTS.get(noun, concepts.DEFAULT_COUNT)
            return NounPhrase(noun, PLURAL, count=self._dice.between(low, high))
        if form == "bare" and "mass" not in numbers:
            number = PLURAL
        if form in ("the", "own", "this") and PLURAL in numbers:
            number = PLURAL if self._dice.chance(_PLURAL_SHARE) else number
        if form == "own":
            return NounPhrase(noun, number, owner=owner)
        return NounPhrase(noun, number, _DETERMINERS.get(form, Determiner.BARE))

    @staticmethod
    def _measures_of(noun: str) -> list[str]:
        return [measure for measure, contents in concepts.CONTENTS.items() if noun in contents]

    def measure(self, noun: str) -> NounPhrase:
        """ "a cup of tea", "three kilos of apples" """
        measure = self._dice.usual(self._measures_of(noun))
        if measure != "kilo" and self._dice.chance(0.5):
            return NounPhrase(measure, determiner=Determiner.A, content=noun)
        count = self._dice.between(2, 10 if measure == "kilo" else 6)
        return NounPhrase(measure, PLURAL, count=count, content=noun)

    def adorned(self, phrase: NounPhrase, share: float = _ADJECTIVE_SHARE) -> NounPhrase:
        """``phrase`` with an adjective that suits it, in ``share`` of the cases."""
        adjectives = adjectives_of(phrase.noun)
        if adjectives and self._dice.chance(share):
            return replace(phrase, adjective=self._dice.usual(adjectives))
        return phrase

    # Spots

    def spot(self, outdoors: bool = False, besides: str = "") -> Spot:
        """ "under the table", or outdoors "behind the house"; not next to ``besides``."""
        spots = concepts.OUTDOOR_SPOTS if outdoors else concepts.SPOTS
        relation = self._dice.usual(tuple(spots))
        nouns = [noun for noun in nouns_of(spots[relation]) if noun != besides]
        thing = NounPhrase(self._dice.usual(nouns))
        plain = relation in ("behind", "in_front_of")
        return Spot(relation, thing if plain else self.adorned(thing, share=0.15))

    def place(self, place: str, owner: Person | None) -> Place:
        """The place itself; "room" becomes one's own room."""
        if place == "room":
            return Spot("in", NounPhrase("room", owner=owner))
        return place
