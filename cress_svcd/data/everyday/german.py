"""German.

The verb is second in statements, first in questions and requests, last in subordinate clauses;
participles, infinitives and separable prefixes close the clause.  What was is told in the
perfect ("hat gekauft"), but for "sein", "haben" and the modals ("war", "hatte", "wollte").
The middle of a clause has one order, whatever English does: pronouns, time, recipient, definite
object, "nicht", circumstances, indefinite object, complements.
"""

from dataclasses import dataclass, replace

from cress_svcd.data.everyday import german_words as words
from cress_svcd.data.everyday.concepts import NAMES, NOUNS
from cress_svcd.data.everyday.meaning import (
    FEMALE,
    HE,
    IT,
    MALE,
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

NOM, ACC, DAT = "nom", "acc", "dat"

# Endings by case, then by gender; "p" is the plural.
_STRONG = {
    NOM: {"m": "er", "f": "e", "n": "es", "p": "e"},
    ACC: {"m": "en", "f": "e", "n": "es", "p": "e"},
    DAT: {"m": "em", "f": "er", "n": "em", "p": "en"},
}
_WEAK = {
    NOM: {"m": "e", "f": "e", "n": "e", "p": "en"},
    ACC: {"m": "en", "f": "e", "n": "e", "p": "en"},
    DAT: {"m": "en", "f": "en", "n": "en", "p": "en"},
}
_ARTICLES = {
    NOM: {"m": "der", "f": "die", "n": "das", "p": "die"},
    ACC: {"m": "den", "f": "die", "n": "das", "p": "die"},
    DAT: {"m": "dem", "f": "der", "n": "dem", "p": "den"},
}
_RELATIVES = {**_ARTICLES, DAT: {**_ARTICLES[DAT], "p": "denen"}}
_CONTRACTIONS = {"in dem": "im", "in das": "ins"}

_PRONOUNS = {
    NOM: {I: "ich", YOU: "du", HE: "er", SHE: "sie", IT: "es", WE: "wir", THEY: "sie"},
    ACC: {I: "mich", YOU: "dich", HE: "ihn", SHE: "sie", WE: "uns", THEY: "sie"},
    DAT: {I: "mir", YOU: "dir", HE: "ihm", SHE: "ihr", WE: "uns", THEY: "ihnen"},
}
_REFLEXIVES = {I: "mich", YOU: "dich", WE: "uns"}
_OWNERS = {I: "mein", YOU: "dein", HE: "sein", SHE: "ihr", WE: "unser", THEY: "ihr"}
_WHO = {NOM: "wer", ACC: "wen", DAT: "wem"}

# first and third person singular, second person singular, plural
_BE = ("bin", "bist", "ist", "sind")
_HAVE = ("habe", "hast", "hat", "haben")
_WERDEN = ("werde", "wirst", "wird", "werden")
_WAS = ("war", "warst", "war", "waren")
_HAD = ("hatte", "hattest", "hatte", "hatten")
_MODALS = {
    Modal.CAN: ("kann", "kannst", "kann", "können"),
    Modal.MUST: ("muss", "musst", "muss", "müssen"),
    Modal.WANT: ("will", "willst", "will", "wollen"),
    Modal.SHOULD: ("sollte", "solltest", "sollte", "sollten"),
    Modal.WOULD_LIKE: ("möchte", "möchtest", "möchte", "möchten"),
}
_PAST_MODALS = {
    Modal.MUST: ("musste", "musstest", "musste", "mussten"),
    Modal.WANT: ("wollte", "wolltest", "wollte", "wollten"),
}

_LINKS = {
    Link.BECAUSE: "weil",
    Link.ALTHOUGH: "obwohl",
    Link.WHEN: "wenn",
    Link.IF: "wenn",
    Link.BEFORE: "bevor",
    Link.AFTER: "nachdem",
    Link.THAT: "dass",
}
_ASKING = {
    Asked.PRICE: "wie viel",
    Asked.AGE: "wie alt",
    Asked.PLACE: "wo",
    Asked.GOAL: "wohin",
    Asked.TIME: "wann",
    Asked.REASON: "warum",
    Asked.THING: "was",
}


def linearize(sentence: Sentence) -> str:
    """The sentence in German, with capitals and punctuation."""
    match sentence:
        case Statement(clause, front):
            return sentence_case(_statement(clause, front), ".")
        case Question(clause, asked):
            return sentence_case(_question(clause, asked), "?")
        case Complex():
            return sentence_case(_complex(sentence), ".")
        case Indirect(main, question, is_question):
            first = _verb_first(main) if is_question else _statement(main)
            indirect = _indirect(question.clause, question.asked)
            return sentence_case(f"{first}, {indirect}", "?" if is_question else ".")
        case Contrast(first, second):
            return sentence_case(f"{_statement(first)}, aber {_statement(second)}", ".")
        case Request(clause):
            return sentence_case(f"bitte {_request(clause)}", ".")
        case Existence(thing, place, negative):
            return sentence_case(_existence(thing, place, negative), ".")
        case HourIs(clock):
            return sentence_case(f"es ist {_clock(clock)}", ".")
    raise TypeError(f"not a sentence: {sentence!r}")


def number(value: int, final: bool = True) -> str:
    """``value`` from 1 to 999 in one word; ``final``: "eins" at the end rather than "ein"."""
    if value >= 100:
        rest = number(value % 100, final) if value % 100 else ""
        return f"{number(value // 100, final=False)}hundert{rest}"
    if value == 1:
        return words.ONES[1] if final else "ein"
    if value < 20:
        return words.ONES[value]
    tens, ones = words.TENS[value // 10], value % 10
    return f"{number(ones, final=False)}und{tens}" if ones else tens


# Noun phrases


def participant(who: Participant, case: str, no: bool = False) -> str:
    """``no``: negate an indefinite noun by "kein"."""
    match who:
        case Pronoun(person):
            return _PRONOUNS[case][person]
        case Name(name):
            return name
        case Pair(first, second):
            return f"{participant(first, case)} und {participant(second, case)}"
    return noun_phrase(who, case, no)


def noun_phrase(phrase: NounPhrase, case: str, no: bool = False) -> str:
    """The phrase without its relative clause, which German moves to the end of the clause."""
    column = _column(phrase)
    determiner, endings = _determiner(phrase, case, column, no)
    adjective = ""
    if phrase.adjective:
        adjective = words.ADJECTIVES[phrase.adjective][0] + endings[case][column]
    noun = _decline(phrase.noun, phrase.number, case)
    content = _content(phrase.content) if phrase.content else ""
    toward = words.PLACES[phrase.toward][1] if phrase.toward else ""
    return join(determiner, adjective, noun, content, toward)


def _column(phrase: NounPhrase) -> str:
    """The column of the tables of endings: the gender, or "p" for the plural."""
    return "p" if phrase.number == PLURAL else words.NOUNS[phrase.noun].gender


def _determiner(
    phrase: NounPhrase, case: str, column: str, no: bool
) -> tuple[str, dict[str, dict[str, str]]]:
    """The determiner and the endings that it leaves to the adjective."""
    mixed = _mixed(case, column)
    if phrase.owner:
        return _OWNERS[phrase.owner] + _ein_ending(case, column), mixed
    if phrase.count is not None:
        return number(phrase.count), _STRONG
    if no:
        return "kein" + _ein_ending(case, column), mixed
    match phrase.determiner:
        case Determiner.THE:
            return _ARTICLES[case][column], _WEAK
        case Determiner.THIS:
            return "dies" + _STRONG[case][column], _WEAK
        case Determiner.A:
            return "ein" + _ein_ending(case, column), mixed
    return "", _STRONG


def _has_no_ending(case: str, column: str) -> bool:
    """Where "ein" stays bare, and the adjective shows the gender instead."""
    return (case, column) in ((NOM, "m"), (NOM, "n"), (ACC, "n"))


def _ein_ending(case: str, column: str) -> str:
    return "" if _has_no_ending(case, column) else _STRONG[case][column]


def _mixed(case: str, column: str) -> dict[str, dict[str, str]]:
    return _STRONG if _has_no_ending(case, column) else _WEAK


def _decline(concept: str, grammatical_number: str, case: str) -> str:
    noun = words.NOUNS[concept]
    if grammatical_number == SINGULAR:
        return noun.plural if noun.weak and case != NOM else noun.singular
    needs_n = case == DAT and not noun.plural.endswith(("n", "s"))
    # a measure stays as it is: "mit zwanzig Euro"
    return noun.plural + ("n" if needs_n and concept not in ("euro", "kilo") else "")


def _content(concept: str) -> str:
    plural = "mass" not in NOUNS[concept].numbers
    return _decline(concept, PLURAL if plural else SINGULAR, NOM)


def _relative(who: Participant | None) -> str:
    """The relative clause of ``who``, between commas, or nothing."""
    if not isinstance(who, NounPhrase) or not who.relative:
        return ""
    clause, column = who.relative.clause, _column(who)
    if who.relative.of_subject:
        person = Person(3, who.number)
        return f", {_RELATIVES[NOM][column]} {_verb_last(clause, person=person)},"
    verb = words.VERBS[clause.verb]
    return f", {join(verb.preposition, _RELATIVES[verb.case][column])} {_verb_last(clause)},"


# Verbs


def _index(person: Person) -> int:
    return 3 if person.number == PLURAL else person.person - 1


def _finite(verb: words.Verb, person: Person) -> str:
    if verb.infinitive == "sein":
        return _BE[_index(person)]
    return (verb.first, verb.second, verb.third, verb.infinitive)[_index(person)]


@dataclass(frozen=True)
class _Verbs:
    """The finite verb, and the prefix or the infinitive or participle that closes the clause."""

    finite: str
    prefix: str = ""
    closing: str = ""

    def last(self) -> str:
        """All of it at the end of a clause."""
        return join(self.closing, self.prefix + self.finite)


def _verbs(clause: Clause, person: Person, anterior: bool = False) -> _Verbs:
    """``anterior``: what happens before another thing ("nachdem"), one tense further back."""
    verb, index = words.VERBS[clause.verb], _index(person)
    infinitive = verb.prefix + verb.infinitive
    past = clause.tense is Tense.PAST
    if clause.modal and clause.modal is not Modal.LIKE:
        forms = (_PAST_MODALS if past else _MODALS)[clause.modal]
        return _Verbs(forms[index], closing=infinitive)
    if clause.tense is Tense.FUTURE:
        return _Verbs(_WERDEN[index], closing=infinitive)
    if past and clause.verb in ("be", "have") and not anterior:
        return _Verbs((_WAS if clause.verb == "be" else _HAD)[index])
    if past or anterior:
        present, preterite = (_BE, _WAS) if verb.auxiliary == "be" else (_HAVE, _HAD)
        auxiliary = (preterite if past and anterior else present)[index]
        return _Verbs(auxiliary, closing=verb.prefix + verb.participle)
    return _Verbs(_finite(verb, person), prefix=verb.prefix)


# Clauses


def _statement(clause: Clause, front: Front = Front.SUBJECT) -> str:
    first = ""
    if front is Front.TIME:
        first, clause = _times(clause), replace(clause, times=())
    elif front is Front.FREQUENCY:
        first, clause = words.FREQUENCIES[clause.frequency], replace(clause, frequency="")
    return _verb_second(first, clause) if first else _verb_second(_subject(clause), clause, False)


def _verb_second(first: str, clause: Clause, with_subject: bool = True) -> str:
    """``first``, the finite verb, the subject (unless it is ``first``), and the rest."""
    person = agreement(clause.subject)
    verbs = _verbs(clause, person)
    subject = _subject(clause) if with_subject else ""
    return join(
        first, verbs.finite, subject, *_middle(clause, person), verbs.closing, verbs.prefix
    ) + _extraposed(clause)


def _verb_first(clause: Clause) -> str:
    return _verb_second("", clause)


def _verb_last(clause: Clause, person: Person | None = None, anterior: bool = False) -> str:
    """``person`` stands in for an absent subject."""
    subject = "" if person else _subject(clause)
    person = person or agreement(clause.subject)
    verbs = _verbs(clause, person, anterior)
    return join(subject, *_middle(clause, person), verbs.last()) + _extraposed(clause)


def _subject(clause: Clause) -> str:
    if clause.subject is None:
        return "es"
    return participant(clause.subject, NOM) + _relative(clause.subject)


def _extraposed(clause: Clause) -> str:
    return _relative(clause.object)


def _complex(sentence: Complex) -> str:
    link = _LINKS[sentence.link]
    subordinate = f"{link} {_verb_last(sentence.sub, anterior=sentence.link is Link.AFTER)}"
    if sentence.sub_first:  # the subordinate clause takes the first place before the verb
        return f"{subordinate}, {_verb_first(sentence.main)}"
    return f"{_statement(sentence.main)}, {subordinate}"


def _existence(thing: NounPhrase, place: Place, negative: bool) -> str:
    """Things are somewhere ("sind"); what belongs to a town is had there ("gibt es")."""
    where = _place(place, goal=False)
    if "sight" in NOUNS[thing.noun].kinds:
        return join(where, "gibt es", noun_phrase(thing, ACC, no=negative))
    verb = _BE[_index(Person(3, thing.number))]
    return join(where, verb, noun_phrase(thing, NOM, no=negative))


def _request(clause: Clause) -> str:
    verb = words.VERBS[clause.verb]
    return join(words.IMPERATIVES[clause.verb], *_middle(clause, YOU), verb.prefix)


def _question(clause: Clause, asked: Asked) -> str:
    if asked is Asked.WHETHER:
        return _verb_first(clause)
    if asked is Asked.SUBJECT:
        return _verb_second("wer", replace(clause, subject=None), with_subject=False)
    asking, clause = _asking(clause, asked)
    return _verb_second(asking, clause)


def _indirect(clause: Clause, asked: Asked) -> str:
    if asked is Asked.WHETHER:
        return f"ob {_verb_last(clause)}"
    asking, clause = _asking(clause, asked)
    return f"{asking} {_verb_last(clause)}"


def _asking(clause: Clause, asked: Asked) -> tuple[str, Clause]:
    """The question word and what is left of the clause."""
    verb = words.VERBS[clause.verb]
    if asked is Asked.PERSON:
        return join(verb.preposition, _WHO[verb.case]), clause
    if asked is Asked.WHICH:
        return _which(clause.object, verb), replace(clause, object=None)
    if asked is Asked.HOW_MANY:
        noun = _decline(clause.object.noun, PLURAL, verb.case)
        return f"wie viele {noun}", replace(clause, object=None)
    return _ASKING[asked], clause


def _which(phrase: NounPhrase, verb: words.Verb) -> str:
    ending = _STRONG[verb.case][_column(phrase)]
    noun = _decline(phrase.noun, phrase.number, verb.case)
    return join(verb.preposition, f"welch{ending}", noun)


# The middle of a clause


def _is_pronoun(who: Participant | None) -> bool:
    return isinstance(who, Pronoun)


def _negates_noun(clause: Clause) -> bool:
    """Whether "kein" at an indefinite object or occupation does the negating."""
    thing = clause.object
    if isinstance(clause.predicate, Job):
        return True
    if not isinstance(thing, NounPhrase) or thing.is_definite or clause.manner:
        return False
    return not (thing.determiner is Determiner.BARE and thing.noun in words.FUSED)


def _middle(clause: Clause, person: Person) -> list[str]:
    """What stands between the finite verb (or the subject) and the end, in order."""
    verb = words.VERBS[clause.verb]
    no = clause.negative and _negates_noun(clause)
    nicht = "nicht" if clause.negative and not no else ""
    gern = "gern" if clause.modal is Modal.LIKE else ""
    parts = [_reflexive(verb, person), _recipient(clause, pronoun=True)]
    obj = _object(clause, verb, no)
    pronoun = definite = indefinite = complement = ""
    if verb.preposition:
        complement = obj
    elif _is_pronoun(clause.object):
        pronoun = obj
    elif _is_definite(clause.object):
        definite = obj
    else:
        indefinite = obj
    parts += [pronoun, _times(clause), words.FREQUENCIES.get(clause.frequency, "")]
    parts += [_recipient(clause, pronoun=False), "" if nicht else gern, definite]
    parts += [nicht, gern if nicht else "", *_circumstances(clause), indefinite, complement]
    if clause.beneficiary:
        parts.append(f"für {participant(clause.beneficiary, ACC)}")
    if clause.goal:
        parts.append(_place(clause.goal, goal=True))
    if clause.predicate:
        parts.append(_predicate(clause, no))
    return parts


def _is_definite(who: Participant | None) -> bool:
    return not isinstance(who, NounPhrase) or who.is_definite


def _reflexive(verb: words.Verb, person: Person) -> str:
    return _REFLEXIVES.get(person, "sich") if verb.reflexive else ""


def _recipient(clause: Clause, pronoun: bool) -> str:
    if not clause.recipient or _is_pronoun(clause.recipient) != pronoun:
        return ""
    return participant(clause.recipient, DAT)


def _object(clause: Clause, verb: words.Verb, no: bool) -> str:
    if not clause.object:
        return ""
    return join(verb.preposition, participant(clause.object, verb.case, no))


def _circumstances(clause: Clause) -> list[str]:
    parts = []
    if clause.companion:
        parts.append(f"mit {participant(clause.companion, DAT)}")
    if clause.vehicle:
        parts.append(words.VEHICLES[clause.vehicle])
    if clause.duration:
        parts.append(noun_phrase(clause.duration, ACC))
    if clause.place:
        parts.append(_place(clause.place, goal=False))
    if clause.manner:
        parts.append(words.MANNERS[clause.manner])
    return parts


def _predicate(clause: Clause, no: bool) -> str:
    match clause.predicate:
        case Quality(adjective, very):
            return join("sehr" if very else "", words.ADJECTIVES[adjective][1])
        case Job(noun):
            return join("kein" + _job_ending(clause.subject) if no else "", _job(noun, clause))
        case Identity(phrase):
            return noun_phrase(phrase, NOM)
        case Comparison(adjective, than):
            return f"{words.COMPARATIVES[adjective]} als {participant(than, NOM)}"
        case Age(years):
            return f"{number(years, final=False)} Jahre alt"
    raise TypeError(f"not a predicate: {clause.predicate!r}")


def natural_gender(who: Participant | None) -> str:
    """Of people; "m" where nothing else is known."""
    match who:
        case Pronoun(person):
            return person.gender or MALE
        case Name(name):
            return NAMES[name]
        case NounPhrase(noun=noun):
            return FEMALE if words.NOUNS[noun].gender == "f" else MALE
    return MALE


def _job(noun: str, clause: Clause) -> str:
    return words.JOBS[noun][natural_gender(clause.subject)]


def _job_ending(subject: Participant | None) -> str:
    return "e" if natural_gender(subject) == FEMALE else ""


# Places and times


def _place(place: Place, goal: bool) -> str:
    if not isinstance(place, Spot):
        return words.PLACES[place][1 if goal else 0]
    phrase = noun_phrase(place.thing, ACC if goal else DAT)
    text = f"{words.RELATIONS[place.relation]} {phrase}"
    for long, short in _CONTRACTIONS.items():
        if text.startswith(f"{long} "):
            return short + text.removeprefix(long)
    return text


def _times(clause: Clause) -> str:
    return " ".join(_time(time) for time in clause.times)


def _time(time: Time) -> str:
    match time:
        case Moment(key):
            return words.MOMENTS[key]
        case Weekday(day, part, every):
            name = words.DAYS[day] + (words.DAY_PARTS[part] if part else "")
            return f"{'jeden' if every else 'am'} {name}"
        case Date(month, 0):
            return f"im {words.MONTHS[month]}"
        case Date(month, day):
            return f"am {words.ORDINALS[day]} {words.MONTHS[month]}"
        case Clock():
            return f"um {_clock(time)}"
        case Ago(count, unit):
            return f"vor {_amount(count, unit)}"
        case Later(count, unit):
            return f"in {_amount(count, unit)}"
    raise TypeError(f"not a time: {time!r}")


def _amount(count: int, unit: str) -> str:
    if count == 1:
        return noun_phrase(NounPhrase(unit, determiner=Determiner.A), DAT)
    return noun_phrase(NounPhrase(unit, PLURAL, count=count), DAT)


def _clock(clock: Clock) -> str:
    hour, following = number(clock.hour), number(clock.hour % 12 + 1)
    match clock.minute:
        case 0:
            return f"{number(clock.hour, final=False)} Uhr"
        case 15:
            return f"Viertel nach {hour}"
        case 30:
            return f"halb {following}"
        case 45:
            return f"Viertel vor {following}"
        case early if early < 30:
            return f"{number(early)} nach {hour}"
    return f"{number(60 - clock.minute)} vor {following}"
