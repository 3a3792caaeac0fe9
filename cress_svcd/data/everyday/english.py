"""English: the side that is spoken.

American spelling, no contractions.  "You" is one friend, never several people or a stranger.
"""

from dataclasses import replace

from cress_svcd.data.everyday import english_words as words
from cress_svcd.data.everyday.concepts import NOUNS
from cress_svcd.data.everyday.meaning import (
    HE,
    IT,
    PLURAL,
    SHE,
    SINGULAR,
    THEY,
    WE,
    YOU,
    Age,
    Ago,
    Asked,
    Clause,
    Clock,
    Comparison,
    Complex,
    Contrast,
    Date,
    Determiner,
    Existence,
    Front,
    HourIs,
    I,
    Identity,
    Indirect,
    Job,
    Later,
    Link,
    Modal,
    Moment,
    Name,
    NounPhrase,
    Pair,
    Participant,
    Person,
    Place,
    Predicate,
    Pronoun,
    Quality,
    Question,
    Request,
    Sentence,
    Spot,
    Statement,
    Tense,
    Time,
    Weekday,
    agreement,
)
from cress_svcd.data.everyday.text import join, sentence_case

_SUBJECTS = {I: "I", YOU: "you", HE: "he", SHE: "she", WE: "we", THEY: "they", IT: "it"}
_OBJECTS = {I: "me", YOU: "you", HE: "him", SHE: "her", WE: "us", THEY: "them"}
_OWNERS = {I: "my", YOU: "your", HE: "his", SHE: "her", WE: "our", THEY: "their"}
_LINKS = {link: link.value for link in Link}


def linearize(sentence: Sentence) -> str:
    """The sentence in English, with capitals and punctuation."""
    match sentence:
        case Statement(clause, front):
            return sentence_case(_statement(clause, front), ".")
        case Question(clause, asked):
            return sentence_case(_question(clause, asked), "?")
        case Complex(main, link, sub, sub_first):
            subordinate = f"{_LINKS[link]} {_statement(sub)}"
            if sub_first:
                return sentence_case(f"{subordinate}, {_statement(main)}", ".")
            return sentence_case(f"{_statement(main)} {subordinate}", ".")
        case Indirect(main, question, is_question):
            first = _question(main, Asked.WHETHER) if is_question else _statement(main)
            indirect = _indirect(question.clause, question.asked)
            return sentence_case(f"{first} {indirect}", "?" if is_question else ".")
        case Contrast(first, second):
            return sentence_case(f"{_statement(first)}, but {_statement(second)}", ".")
        case Request(clause):
            verb = words.VERBS[clause.verb]
            return sentence_case(join("please", verb.base, verb.after, *_rest(clause)), ".")
        case Existence(thing, place, negative):
            verb = "are" if thing.number == PLURAL else "is"
            no = "no" if negative else ""
            bare = negative and thing.determiner is Determiner.A
            phrase = _noun(thing) if bare else noun_phrase(thing)
            return sentence_case(join("there", verb, no, phrase, _place(place, False)), ".")
        case HourIs(clock):
            return sentence_case(f"it is {_clock(clock)}", ".")
    raise TypeError(f"not a sentence: {sentence!r}")


def number(value: int) -> str:
    """``value`` from 1 to 999 in words."""
    if value >= 100:
        hundreds = f"{words.ONES[value // 100]} hundred"
        return f"{hundreds} and {number(value % 100)}" if value % 100 else hundreds
    if value < 20:
        return words.ONES[value]
    tens, ones = words.TENS[value // 10], value % 10
    return f"{tens}-{words.ONES[ones]}" if ones else tens


# Noun phrases


def participant(who: Participant, subject: bool = False) -> str:
    match who:
        case Pronoun(person):
            return (_SUBJECTS if subject else _OBJECTS)[person]
        case Name(name):
            return name
        case Pair(first, second):
            return f"{participant(first, subject)} and {participant(second, subject)}"
    return noun_phrase(who)


def noun_phrase(phrase: NounPhrase) -> str:
    adjective = words.ADJECTIVES.get(phrase.adjective, phrase.adjective)
    core = join(adjective, _noun(phrase))
    text = join(_determiner(phrase, core), core)
    if phrase.content:
        text += f" of {_content(phrase.content)}"
    if phrase.toward:
        text += f" {words.PLACES[phrase.toward][1]}"
    if phrase.relative:
        relative = phrase.relative
        clause = relative.clause
        person = Person(3, phrase.number) if relative.of_subject else None
        text += f" {'who' if relative.of_subject else 'that'} {_statement(clause, person=person)}"
    return text


def _determiner(phrase: NounPhrase, following: str) -> str:
    if phrase.owner:
        return _OWNERS[phrase.owner]
    if phrase.count is not None:
        return number(phrase.count)
    match phrase.determiner:
        case Determiner.A:
            return "an" if following[0] in "aeiou" else "a"
        case Determiner.THIS:
            return "these" if phrase.number == PLURAL else "this"
    return phrase.determiner.value


def _noun(phrase: NounPhrase) -> str:
    return _word(phrase.noun, phrase.number)


def _word(noun: str, grammatical_number: str) -> str:
    name = words.NOUN_NAMES.get(noun, noun)
    if grammatical_number == SINGULAR or noun in words.PLURAL_ONLY:
        return name
    return words.IRREGULAR_PLURALS.get(noun, f"{name}s")


def _content(noun: str) -> str:
    return _word(noun, SINGULAR if "mass" in NOUNS[noun].numbers else PLURAL)


# Verbs


def _be(person: Person, past: bool) -> str:
    if past:
        return "was" if person.number == SINGULAR and person != YOU else "were"
    if person == I:
        return "am"
    return "is" if person.number == SINGULAR and person.person == 3 else "are"


def _third(person: Person) -> bool:
    return person.person == 3 and person.number == SINGULAR


def _verb(clause: Clause, person: Person, apart: bool) -> tuple[str, str]:
    """Auxiliary and remainder.

    ``apart``: the auxiliary must stand alone (in questions and before "not"); "do" steps in where
    the verb has none.  Otherwise such a verb leaves the auxiliary empty.  "Must" does neither:
    it becomes "have to".
    """
    verb = words.VERBS[clause.verb]
    past = clause.tense is Tense.PAST
    match clause.modal:
        case Modal.CAN | Modal.SHOULD:
            return clause.modal.value, verb.base
        case Modal.WOULD_LIKE:
            return "would", f"like to {verb.base}"
        case Modal.MUST if not apart and not past:
            return "must", verb.base
        case Modal.MUST:
            return _do(person, past, apart, "have", "had", f"to {verb.base}")
        case Modal.WANT | Modal.LIKE:
            base = clause.modal.value.removesuffix(" to")
            finite = f"{base}ed" if past else f"{base}s" if _third(person) else base
            return _do(person, past, apart, base, finite, f"to {verb.base}")
    if clause.tense is Tense.FUTURE:
        return "will", verb.base
    if clause.tense is Tense.PROGRESSIVE:
        return _be(person, past=False), verb.gerund
    if clause.verb == "be":
        return _be(person, past), ""
    finite = verb.past if past else verb.third if _third(person) else verb.base
    return _do(person, past, apart, verb.base, finite, "")


def _do(
    person: Person, past: bool, apart: bool, base: str, finite: str, rest: str
) -> tuple[str, str]:
    """``finite`` with ``rest``, or a form of "do" and ``base`` with ``rest``."""
    if not apart:
        return "", join(finite, rest)
    return ("did" if past else "does" if _third(person) else "do"), join(base, rest)


def _negated(auxiliary: str) -> str:
    return "cannot" if auxiliary == "can" else f"{auxiliary} not"


# Clauses


def _statement(clause: Clause, front: Front = Front.SUBJECT, person: Person | None = None) -> str:
    """A clause in the order of a statement; ``person`` stands in for an absent subject."""
    subject = _subject(clause) if person is None else ""
    person = person or agreement(clause.subject)
    auxiliary, verb = _verb(clause, person, apart=clause.negative)
    if clause.negative:
        auxiliary = _negated(auxiliary)
    frequency, fronted = clause.frequency, ""
    times = _times(clause)
    if front is Front.TIME:
        fronted, times = times, ""
    elif front is Front.FREQUENCY:
        fronted, frequency = frequency, ""
    particle = words.VERBS[clause.verb].after
    return join(fronted, subject, auxiliary, frequency, verb, particle, *_rest(clause, times))


def _subject(clause: Clause) -> str:
    return participant(clause.subject, subject=True) if clause.subject else "it"


_ASKING = {
    Asked.SUBJECT: "who",
    Asked.PERSON: "who",
    Asked.THING: "what",
    Asked.PRICE: "how much",
    Asked.AGE: "how old",
    Asked.PLACE: "where",
    Asked.GOAL: "where",
    Asked.TIME: "when",
    Asked.REASON: "why",
}


def _question(clause: Clause, asked: Asked) -> str:
    if asked is Asked.SUBJECT:
        return f"who {_statement(clause, person=IT)}"
    asking, clause = _asking(clause, asked)
    auxiliary, verb = _verb(clause, agreement(clause.subject), apart=True)
    particle = words.VERBS[clause.verb].after
    negation = "not" if clause.negative else ""
    return join(
        asking,
        auxiliary,
        _subject(clause),
        negation,
        clause.frequency,
        verb,
        particle,
        *_rest(clause),
    )


def _indirect(clause: Clause, asked: Asked) -> str:
    if asked is Asked.WHETHER:
        return f"whether {_statement(clause)}"
    asking, clause = _asking(clause, asked)
    if clause.verb == "be" and not clause.modal and not clause.negative:
        # "where my keys are": the verb comes last
        return join(asking, _subject(clause), _be(agreement(clause.subject), False), *_rest(clause))
    return f"{asking} {_statement(clause)}"


def _asking(clause: Clause, asked: Asked) -> tuple[str, Clause]:
    """The question word and what is left of the clause."""
    if asked in (Asked.WHICH, Asked.HOW_MANY):
        return _asking_noun(clause, asked)
    return _ASKING.get(asked, ""), clause


def _asking_noun(clause: Clause, asked: Asked) -> tuple[str, Clause]:
    asking = "which" if asked is Asked.WHICH else "how many"
    return f"{asking} {_noun(clause.object)}", replace(clause, object=None)


def _rest(clause: Clause, times: str | None = None) -> list[str]:
    """What follows the verb, in order."""
    parts = [clause.recipient, clause.object]
    texts = [participant(part) for part in parts if part]
    if clause.predicate:
        texts.append(_predicate(clause.predicate))
    if clause.manner:
        texts.append(words.MANNERS[clause.manner])
    if clause.goal:
        texts.append(_place(clause.goal, goal=True))
    if clause.vehicle:
        texts.append(words.VEHICLES[clause.vehicle])
    if clause.companion:
        texts.append(f"with {participant(clause.companion)}")
    if clause.beneficiary:
        texts.append(f"for {participant(clause.beneficiary)}")
    if clause.place:
        texts.append(_place(clause.place, goal=False))
    if clause.duration:
        texts.append(f"for {noun_phrase(clause.duration)}")
    texts.append(_times(clause) if times is None else times)
    return texts


def _predicate(predicate: Predicate) -> str:
    match predicate:
        case Quality(adjective, very):
            return join("very" if very else "", words.ADJECTIVES.get(adjective, adjective))
        case Job(noun):
            return f"a {noun}"
        case Identity(phrase):
            return noun_phrase(phrase)
        case Comparison(adjective, than):
            return f"{words.COMPARATIVES[adjective]} than {participant(than)}"
        case Age(years):
            return f"{number(years)} years old"
    raise TypeError(f"not a predicate: {predicate!r}")


def _place(place: Place, goal: bool) -> str:
    if isinstance(place, Spot):
        return f"{words.RELATIONS[place.relation]} {noun_phrase(place.thing)}"
    return words.PLACES[place][1 if goal else 0]


def _times(clause: Clause) -> str:
    return " ".join(_time(time) for time in clause.times)


def _time(time: Time) -> str:
    match time:
        case Moment(key):
            return words.MOMENTS[key]
        case Weekday(day, part, every):
            return join("every" if every else "on", day.capitalize(), part)
        case Date(month, 0):
            return f"in {month.capitalize()}"
        case Date(month, day):
            return f"on the {words.ORDINALS[day]} of {month.capitalize()}"
        case Clock():
            return f"at {_clock(time)}"
        case Ago(count, unit):
            return f"{_amount(count, unit)} ago"
        case Later(count, unit):
            return f"in {_amount(count, unit)}"
    raise TypeError(f"not a time: {time!r}")


def _amount(count: int, unit: str) -> str:
    return f"a {unit}" if count == 1 else f"{number(count)} {unit}s"


def _clock(clock: Clock) -> str:
    hour, following = number(clock.hour), number(clock.hour % 12 + 1)
    match clock.minute:
        case 0:
            return f"{hour} o'clock"
        case 15:
            return f"a quarter past {hour}"
        case 30:
            return f"half past {hour}"
        case 45:
            return f"a quarter to {following}"
        case early if early < 30:
            return f"{number(early)} past {hour}"
    return f"{number(60 - clock.minute)} to {following}"
