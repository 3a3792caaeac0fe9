"""Draws sentences of two clauses."""

from dataclasses import replace

from cress_svcd.data.everyday import concepts
from cress_svcd.data.everyday.activities import (
    FUTURE,
    HABIT,
    NOW,
    PAST,
    Mode,
    modal,
    modes_of,
)
from cress_svcd.data.everyday.concepts import FRAMES, NOUNS, REASONS, ROUTINE, Deed, nouns_of
from cress_svcd.data.everyday.material import Material
from cress_svcd.data.everyday.meaning import (
    HE,
    PLURAL,
    SHE,
    SINGULAR,
    WE,
    YOU,
    Asked,
    Clause,
    Complex,
    Contrast,
    Determiner,
    I,
    Identity,
    Indirect,
    Link,
    Modal,
    Name,
    NounPhrase,
    Pair,
    Participant,
    Pronoun,
    Quality,
    Question,
    Relative,
    Sentence,
    Statement,
    Tense,
)
from cress_svcd.data.everyday.participants import adjectives_of, again, person_of, suitable
from cress_svcd.data.everyday.questions import Questions
from cress_svcd.data.everyday.statements import Statements

_LINKS = [(Link.BECAUSE, 4.0), (Link.ALTHOUGH, 2.0), (Link.WHEN, 2.0), (Link.IF, 2.0)]
_CONTRASTED = {
    "like": "food drink music tennis football animal",
    "have": "dog cat horse car bike piano guitar computer",
    "need": "umbrella chair lamp table computer phone bike coat",
    "speak": "language",
    "learn": "language",
    "play_music": "instrument",
    "drink": "drink",
}
_OF_PERSONS = (
    "live",
    "work",
    "speak",
    "play_music",
    "sing",
    "call",
    "help",
    "visit",
    "sell",
    "wait_for",
    "repair",
    "wear",
    "look_for",
    "play_game",
    "read",
    "know",
    "meet",
)
_OF_THINGS = (
    "buy",
    "read",
    "bake",
    "wear",
    "sell",
    "write",
    "look_for",
    "watch",
    "lose",
    "find",
)
_OF_FUTURE_THINGS = ("buy", "sell", "read", "watch")  # there before something is done with them


class Compounds:
    """One method a kind of sentence; the docstrings give examples."""

    def __init__(self, material: Material, statements: Statements, questions: Questions):
        self._material = material
        self._dice = material.dice
        self._people = material.people
        self._activities = material.activities
        self._statements = statements
        self._questions = questions

    # Reasons and conditions

    def reason(self) -> Complex:
        """ "Peter is staying at home because he is sick." """
        cause, link = self._dice.usual(tuple(REASONS)), self._dice.weighted(_LINKS)
        if link is Link.ALTHOUGH and cause in concepts.INEVITABLE:
            link = Link.BECAUSE
        deed, negative, mode = self._consequence(cause, link)
        subject = self._people.subject(known=True)
        sub_first = self._dice.chance(0.5 if link in (Link.WHEN, Link.IF) else 0.2)
        if cause == "broken_car" and not isinstance(subject, Pronoun):
            sub_first = False  # not "because her car is broken, Anna ..."
        again_subject = subject if cause in concepts.WEATHER else again(subject)
        in_sub, in_main = (subject, again_subject) if sub_first else (again_subject, subject)
        main = self._activities.deed(deed, in_main, mode, negative)
        tense = Tense.PAST if mode[0] is Tense.PAST else Tense.PRESENT
        return Complex(main, link, self._cause(cause, in_sub, tense, link), sub_first)

    def _consequence(self, cause: str, link: Link) -> tuple[Deed, bool, Mode]:
        """A deed, whether it is denied, and how it is told."""
        leads, prevents = REASONS[cause]
        expected = self._dice.chance(0.2 if link is Link.ALTHOUGH else 0.55)
        if not prevents:
            expected = True
        negative = expected == (link is Link.ALTHOUGH)
        usable = [
            (deed, modes)
            for deed in (leads if expected else prevents)
            if (modes := self._modes(cause, deed, link, negative))
        ]
        if not usable:
            return self._consequence(cause, link)
        deed = self._dice.usual([deed for deed, _ in usable])
        return deed, negative, self._dice.pick(dict(usable)[deed])

    @staticmethod
    def _modes(cause: str, deed: Deed, link: Link, negative: bool) -> list[Mode]:
        """How the consequence may be told."""
        usable = [mode for mode, _ in modes_of(deed.verb)]
        if link is Link.WHEN:
            wanted: tuple[Mode, ...] = (HABIT,)
        elif link is Link.IF:
            wanted = (FUTURE,) if cause in concepts.MOODS else (FUTURE, modal(Modal.SHOULD))
        elif link is Link.BECAUSE and deed.verb == "need":
            wanted = (HABIT,)
        else:
            wanted = (PAST, NOW, FUTURE, modal(Modal.WANT))
            if link is Link.BECAUSE:
                wanted += (modal(Modal.CAN if negative else Modal.MUST),)
        return [mode for mode in wanted if mode in usable]

    def _cause(self, cause: str, who: Participant, tense: Tense, link: Link) -> Clause:
        if cause in concepts.WEATHER:
            clause = self._statements.weather_clause(cause)
            if tense is Tense.PRESENT and link not in (Link.WHEN, Link.IF):
                return clause  # "it is raining"
            return replace(clause, tense=tense)
        if cause == "no_time":
            time = NounPhrase("time", determiner=Determiner.BARE)
            return Clause(who, "have", tense, negative=True, object=time)
        if cause == "must_work":
            return Clause(who, "work", tense, Modal.MUST)
        if cause == "broken_car":
            car = NounPhrase("car", owner=person_of(who))
            return Clause(car, "be", tense, predicate=Quality("broken"))
        very = link in (Link.BECAUSE, Link.ALTHOUGH) and self._dice.chance(0.25)
        return Clause(who, "be", tense, predicate=Quality(cause, very))

    def sequence(self) -> Complex:
        """ "Before Anna goes to school, she drinks a glass of milk." """
        mode, letter = self._dice.weighted([((PAST, "p"), 3.0), ((HABIT, "h"), 2.0)])
        deeds = [deed for deed in ROUTINE if letter in FRAMES[deed.verb].tenses]
        earlier = self._dice.usual([d for d in deeds if d.verb not in ("sleep", "rest")])
        later = self._dice.usual([d for d in deeds if d.verb not in ("get_up", earlier.verb)])
        link, sub_first = self._dice.usual((Link.BEFORE, Link.AFTER)), self._dice.chance(0.45)
        subject = self._people.subject(known=True)
        in_sub, in_main = (subject, again(subject)) if sub_first else (again(subject), subject)
        main, sub = (earlier, later) if link is Link.BEFORE else (later, earlier)
        main_clause = self._activities.deed(main, in_main, mode)
        return Complex(main_clause, link, self._activities.deed(sub, in_sub, mode), sub_first)

    # What is said, known, asked

    def report(self) -> Complex:
        """ "I hope that my parents will visit us tomorrow." """
        verb = self._dice.usual(("think", "hope", "say", "know_fact"))
        speaker = Pronoun(I) if self._dice.chance(0.45) else self._people.subject(known=True)
        if verb == "say" and person_of(speaker) in (I, WE):
            speaker = self._people.name()
        if verb != "know_fact" and not isinstance(speaker, Pronoun) and self._dice.chance(0.4):
            subject = again(speaker)
        else:
            subject = self._besides(speaker)
        return Complex(Clause(speaker, verb), Link.THAT, self._reported(verb, subject))

    def _besides(self, speaker: Participant) -> Participant:
        """Somebody else than ``speaker``, and clearly so."""
        subject = self._people.subject()
        first_persons = (I, WE)
        alike = person_of(subject) in first_persons and person_of(speaker) in first_persons
        named = isinstance(subject, Name | Pair)  # maybe the speaker, or one of the speakers
        if alike or named or person_of(subject) == person_of(speaker):
            return self._people.name(besides=speaker)
        return subject

    def _reported(self, verb: str, subject: Participant) -> Clause:
        if verb == "hope":
            return self._activities.activity(subject, modes=(FUTURE,), negative=False)
        if self._dice.chance(0.35):
            if self._dice.chance(0.5):
                return self._statements.state_of_person(subject)
            return self._statements.state_of_thing()
        modes = (FUTURE, modal(Modal.CAN), modal(Modal.WANT), modal(Modal.MUST))
        if verb != "think" or subject != again(subject):  # one knows what one did oneself
            modes += (PAST, NOW)
        return self._activities.activity(subject, modes=modes)

    def indirect(self) -> Indirect:
        """ "Do you know when the train to Berlin leaves?" """
        question = self._questions.about_others()
        kind = self._dice.weighted([("you", 4.0), ("I", 4.0), ("other", 2.0)])
        if kind == "you":
            return Indirect(Clause(Pronoun(YOU), "know_fact"), question, is_question=True)
        if kind == "I":
            return Indirect(Clause(Pronoun(I), "know_fact", negative=True), question)
        wondering = self._people.subject(known=True)
        return Indirect(Clause(wondering, "know_fact", modal=Modal.WANT), question)

    def contrast(self) -> Contrast:
        """ "I like tea, but my brother likes coffee." """
        verb = self._dice.usual(tuple(_CONTRASTED))
        mode = NOW if verb == "learn" else HABIT
        deed = Deed(verb, _CONTRASTED[verb], forms="a" if verb in ("have", "need") else "bare")
        subject, negative = self._people.subject(known=True), self._dice.chance(0.5)
        other = again(subject) if negative else self._besides(subject)
        first = self._activities.deed(deed, subject, mode)
        second = self._activities.deed(deed, other, mode, negative)
        while second.object.noun == first.object.noun:
            second = self._activities.deed(deed, other, mode, negative)
        return Contrast(first, second)

    # Relative clauses

    def relative(self) -> Sentence:
        """ "The cake that Anna baked was very good." """
        compose = self._dice.weighted(
            [(self._acquaintance, 4.0), (self._person, 3.0), (self._thing, 5.0)]
        )
        return compose()

    def _person_who(self, determiner: Determiner) -> NounPhrase:
        clause = self._activities.activity(None, _OF_PERSONS, (HABIT, NOW, PAST), negative=False)
        clause = replace(clause, frequency="", times=(), companion=None)
        noun = self._dice.usual(nouns_of("woman man girl boy doctor teacher"))
        return NounPhrase(noun, determiner=determiner, relative=Relative(clause, of_subject=True))

    def _acquaintance(self) -> Sentence:
        """ "Do you know the woman who lives in Berlin?" """
        if self._dice.chance(0.5):
            person = self._person_who(Determiner.THE)
            return Question(Clause(Pronoun(YOU), "know", object=person), Asked.WHETHER)
        subject, person = self._people.subject(known=True), self._person_who(Determiner.A)
        if self._dice.chance(0.4):
            return Statement(Clause(subject, "meet", Tense.PAST, object=person))
        return Statement(Clause(subject, "know", object=person))

    def _person(self) -> Statement:
        """ "The man who repaired our car is very friendly." """
        person = self._person_who(Determiner.THE)
        if person.noun == "man" and self._dice.chance(0.7):
            noun = self._dice.usual(("teacher", "doctor", "friend", "neighbor"))
            identity = Identity(NounPhrase(noun, owner=self._dice.pick((I, HE, SHE, WE))))
            return Statement(Clause(person, "be", predicate=identity))
        quality = self._material.quality(adjectives_of(person.noun), very=0.4)
        return Statement(Clause(person, "be", predicate=quality))

    def _thing(self) -> Statement:
        """ "The cake that Anna baked was very good." """
        verbs, modes = self._dice.weighted(
            [((_OF_THINGS, (PAST, NOW)), 4.0), ((_OF_FUTURE_THINGS, (modal(Modal.WANT),)), 1.0)]
        )
        subject = self._people.subject(known=True)
        clause = self._activities.activity(subject, verbs, modes, negative=False, bare=True)
        nouns = [noun for noun in nouns_of(FRAMES[clause.verb].objects) if adjectives_of(noun)]
        noun = self._dice.usual(suitable(tuple(nouns), person_of(subject)))
        number = PLURAL if NOUNS[noun].numbers == (PLURAL,) else SINGULAR
        relative = Relative(replace(clause, object=None), of_subject=False)
        quality = self._material.quality(adjectives_of(noun), very=0.35)
        past = clause.tense is Tense.PAST and self._dice.chance(0.5)
        tense = Tense.PAST if past else Tense.PRESENT
        thing = NounPhrase(noun, number, relative=relative)
        return Statement(Clause(thing, "be", tense, predicate=quality))
