"""Romanian.

The verb shows the subject: "I", "you" and "we" are dropped, "he", "she" and "they" where the
neighbouring clause names them.  Persons that are definite objects take "pe" and a clitic ("o văd
pe Anna"), recipients a clitic beside their dative; after most prepositions a noun without company
loses its article ("pe masă").  Modals govern the subjunctive with "să".
"""

from dataclasses import replace

from cress_svcd.data.everyday import romanian_words as words
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

_STRONG = {I: "eu", YOU: "tu", HE: "el", SHE: "ea", WE: "noi", THEY: "ei"}
_STRONG_OBLIQUE = {**_STRONG, I: "mine", YOU: "tine"}  # after prepositions
_STRESSED_DATIVE = {I: "mie", YOU: "ție", WE: "nouă"}
_STRONG_DATIVE = {HE: "lui", SHE: "ei", THEY: "lor"}
_DATIVE = {I: "îmi", YOU: "îți", WE: "ne", THEY: "le"}
_ACCUSATIVE = {I: "mă", YOU: "te", HE: "îl", SHE: "o", WE: "ne", THEY: "îi"}
_REFLEXIVE = {I: "mă", YOU: "te", WE: "ne"}
# The form before the auxiliary of the perfect; "o" follows the participle instead.
_BEFORE_PERFECT = {
    "mă": "m-",
    "te": "te-",
    "îl": "l-",
    "ne": "ne-",
    "îi": "i-",
    "le": "le-",
    "îmi": "mi-",
    "îți": "ți-",
    "își": "și-",
    "se": "s-",
}

_OWNERS = {  # like adjectives: masculine, feminine; singular, plural
    I: ("meu", "mea", "mei", "mele"),
    YOU: ("tău", "ta", "tăi", "tale"),
    WE: ("nostru", "noastră", "noștri", "noastre"),
    HE: ("lui",) * 4,
    SHE: ("ei",) * 4,
    THEY: ("lor",) * 4,
}
_THIS = ("acest", "această", "acești", "aceste")

# I, you, he, we, they
_PERFECT = ("am", "ai", "a", "am", "au")
_FUTURE = ("voi", "vei", "va", "vom", "vor")
_CONDITIONAL = ("aș", "ai", "ar", "am", "ar")
_IMPERFECT = {
    "be": ("eram", "erai", "era", "eram", "erau"),
    "have": ("aveam", "aveai", "avea", "aveam", "aveau"),
}
_SUBJUNCTIVE_BE = ("fiu", "fii", "fie", "fim", "fie")
_CAN = ("pot", "poți", "poate", "putem", "pot")
_WANT = ("vreau", "vrei", "vrea", "vrem", "vor")

_LINKS = {
    Link.BECAUSE: "pentru că",
    Link.ALTHOUGH: "deși",
    Link.WHEN: "când",
    Link.IF: "dacă",
    Link.BEFORE: "înainte să",
    Link.AFTER: "după ce",
    Link.THAT: "că",
}
_WITH_COMMA = (Link.BECAUSE, Link.ALTHOUGH)
_ASKING = {
    Asked.PRICE: "cât",
    Asked.AGE: "câți ani",
    Asked.PLACE: "unde",
    Asked.GOAL: "unde",
    Asked.TIME: "când",
    Asked.REASON: "de ce",
}


def linearize(sentence: Sentence) -> str:
    """The sentence in Romanian, with capitals and punctuation."""
    match sentence:
        case Statement(clause, front):
            return sentence_case(_statement(clause, front), ".")
        case Question(clause, asked):
            return sentence_case(_question(clause, asked), "?")
        case Complex():
            return sentence_case(_complex(sentence), ".")
        case Indirect(main, question, is_question):
            asking = _indirect(question.clause, question.asked)
            return sentence_case(f"{_statement(main)} {asking}", "?" if is_question else ".")
        case Contrast(first, second):
            return sentence_case(_contrast(first, second), ".")
        case Request(clause):
            clause = replace(clause, subject=Pronoun(YOU))
            return sentence_case(f"te rog să {_subjunctive_clause(clause)}", ".")
        case Existence(thing, place, negative):
            verb = "sunt" if thing.number == PLURAL else "este"
            no = "nu" if negative else ""
            return sentence_case(join(_place(place, False), no, verb, noun_phrase(thing)), ".")
        case HourIs(clock):
            return sentence_case(f"este {_clock(clock)}", ".")
    raise TypeError(f"not a sentence: {sentence!r}")


def number(value: int, feminine: bool = False) -> str:
    """``value`` from 1 to 999 in words."""
    if value >= 100:
        hundreds = value // 100
        text = "o sută" if hundreds == 1 else f"{number(hundreds, feminine=True)} sute"
        return join(text, number(value % 100, feminine) if value % 100 else "")
    if value < 20:
        return words.FEMININE_ONES.get(value, words.ONES[value]) if feminine else words.ONES[value]
    tens, ones = words.TENS[value // 10], value % 10
    return f"{tens} și {number(ones, feminine)}" if ones else tens


def counted(value: int, feminine: bool, noun: str) -> str:
    """Number and plural noun; "de" stands between them from twenty on ("douăzeci de ani")."""
    de = "de" if value % 100 == 0 or value % 100 >= 20 else ""
    return join(number(value, feminine), de, noun)


# Nouns


def definite(noun: words.Noun, grammatical_number: str) -> str:
    """The noun with its article."""
    if grammatical_number == PLURAL:
        return noun.plural + ("i" if noun.gender == "m" else "le")
    singular = noun.singular
    if noun.definite:
        return noun.definite
    if noun.gender != "f":
        if singular.endswith("e"):
            return f"{singular}le"
        return f"{singular}l" if singular.endswith("u") else f"{singular}ul"
    if singular.endswith("ă"):
        return f"{singular[:-1]}a"
    if singular.endswith("ie"):
        return f"{singular[:-1]}a"
    return f"{singular}ua" if singular.endswith("ea") else f"{singular}a"


def dative(noun: words.Noun, grammatical_number: str) -> str:
    """The definite dative, which is the genitive too: "fratelui", "surorii", "copiilor"."""
    if grammatical_number == PLURAL:
        return f"{noun.plural}lor"
    if noun.gender == "f":  # "surorii", but "cutiei"
        return f"{noun.singular if noun.plural.endswith('ii') else noun.plural}i"
    form = definite(noun, SINGULAR)
    return form.removesuffix("le") + "lui" if form.endswith("le") else f"{form}ui"


def _form(gender: str, grammatical_number: str) -> int:
    """The index into the four forms of an adjective."""
    plural = grammatical_number == PLURAL
    feminine = gender == "f" or (gender == "n" and plural)
    return 2 * plural + feminine


def _phrase_form(phrase: NounPhrase) -> int:
    return _form(words.NOUNS[phrase.noun].gender, phrase.number)


def noun_phrase(phrase: NounPhrase, keeps_article: bool = True) -> str:
    """``keeps_article`` is False after prepositions that drop it from a noun without company."""
    noun, form = words.NOUNS[phrase.noun], _phrase_form(phrase)
    plain = noun.plural if phrase.number == PLURAL else noun.singular
    adjective = words.ADJECTIVES[phrase.adjective][form] if phrase.adjective else ""
    toward = f"spre {_city(phrase.toward)}" if phrase.toward else ""
    content = f"de {_content(phrase.content)}" if phrase.content else ""
    company = join(adjective, toward, content, _relative(phrase))
    if phrase.owner:
        return join(definite(noun, phrase.number), _OWNERS[phrase.owner][form], company)
    if phrase.count is not None:
        return join(counted(phrase.count, form % 2 == 1, plain), company)
    match phrase.determiner:
        case Determiner.THE:
            bare = not keeps_article and not company
            return join(plain if bare else definite(noun, phrase.number), company)
        case Determiner.A:
            return join("o" if noun.gender == "f" else "un", plain, company)
        case Determiner.THIS:
            return join(_THIS[form], plain, company)
    return join(plain, company)


def _content(concept: str) -> str:
    noun = words.NOUNS[concept]
    return noun.singular if "mass" in NOUNS[concept].numbers else noun.plural


def _city(concept: str) -> str:
    return words.PLACES[concept][1].split()[-1]


def _relative(phrase: NounPhrase) -> str:
    if not phrase.relative:
        return ""
    clause = phrase.relative.clause
    if phrase.relative.of_subject:
        return f"care {_clause(clause, person=Person(3, phrase.number))}"
    preposition = words.VERBS[clause.verb].preposition
    if preposition:
        return f"{preposition} care {_clause(clause)}"
    clitic = _ACCUSATIVE_BY_FORM[_phrase_form(phrase)]
    return f"pe care {_clause(clause, resumed=clitic)}"


_ACCUSATIVE_BY_FORM = ("îl", "o", "îi", "le")


# Participants


def participant(who: Participant) -> str:
    """As a subject or a thing that is an object."""
    match who:
        case Pronoun(person, bound):
            return "" if bound or person.person != 3 else _STRONG[person]
        case Name(name):
            return name
        case Pair(first, second):
            return f"{participant(first)} și {participant(second)}"
    return noun_phrase(who)


def _after(preposition: str, who: Participant) -> str:
    """The participant with a preposition, or without one where ``preposition`` is empty."""
    match who:
        case Pronoun(person):
            text = _STRONG_OBLIQUE[person]
        case Pair(first, second):
            return f"{_after(preposition, first)} și {_after(preposition, second)}"
        case NounPhrase():
            # "cu" alone leaves the article: "cu profesorul"
            text = noun_phrase(who, keeps_article=preposition in ("", "cu"))
        case _:
            text = participant(who)
    return join(preposition, text)


def _in_dative(who: Participant | None) -> str:
    match who:
        case None:
            return "cui"
        case Pronoun(person, bound):
            return "" if bound else _STRONG_DATIVE.get(person, "")
        case Name(name):
            return f"{name[:-1]}ei" if NAMES[name] == FEMALE else f"lui {name}"
        case Pair(first, second):
            return f"{_in_dative(first)} și {_in_dative(second)}"
    noun = words.NOUNS[who.noun]
    if not who.owner:
        return dative(noun, who.number)
    form = _phrase_form(who)
    owner = _OWNERS[who.owner][3 if form == 1 else form]  # "mamei mele": like the plural
    return join(dative(noun, who.number), owner)


def _gender(who: Participant | None) -> str:
    match who:
        case Pronoun(person):
            return person.gender or MALE
        case Name(name):
            return NAMES[name]
        case Pair(first, second):
            both = _gender(first) == _gender(second) == FEMALE
            return FEMALE if both else MALE
        case NounPhrase(noun=noun):
            return words.NOUNS[noun].gender
    return MALE


def _subject_form(clause: Clause) -> int:
    """Which form of an adjective agrees with the subject."""
    return _form(_gender(clause.subject), agreement(clause.subject).number)


def _is_specific_person(who: Participant | None) -> bool:
    match who:
        case Name():
            return True
        case Pair(first, second):
            return _is_specific_person(first) and _is_specific_person(second)
        case NounPhrase(noun=noun):
            return who.is_definite and bool({"kin", "role"} & set(NOUNS[noun].kinds))
    return False


# Verbs


def _index(person: Person) -> int:
    if person.number == PLURAL:
        return 3 if person.person == 1 else 4
    return person.person - 1


def _is_experience(clause: Clause) -> bool:
    """Whether the English subject is a dative here: "lui Peter îi place", "îi este foame"."""
    if clause.verb == "like" or clause.modal is Modal.LIKE:
        return True
    predicate = clause.predicate
    return isinstance(predicate, Quality) and predicate.adjective in words.SENSATIONS


def _clitic(clause: Clause, person: Person) -> str:
    """The clitic that goes with the verb itself (not with a modal)."""
    verb = words.VERBS[clause.verb]
    if verb.reflexive == "se":
        return _REFLEXIVE.get(person, "se")
    if verb.reflexive == "își":
        return {**_DATIVE, THEY: "își"}.get(person, "își")
    if clause.recipient:
        return _DATIVE.get(agreement(clause.recipient), "îi")
    if verb.preposition:
        return ""
    match clause.object:
        case Pronoun(who):
            return _ACCUSATIVE[who]
        case who if _is_specific_person(who):
            return _ACCUSATIVE_BY_FORM[_form(_gender(who), agreement(who).number)]
    return ""


def _perfect(participle: str, index: int, clitic: str) -> str:
    if clitic == "o":
        return f"{_PERFECT[index]} {participle}-o"
    return f"{_BEFORE_PERFECT.get(clitic, '')}{_PERFECT[index]} {participle}"


def _verb_concept(clause: Clause) -> str:
    return "have" if isinstance(clause.predicate, Age) else clause.verb


def _subjunctive(clause: Clause, person: Person, clitic: str) -> str:
    """The verb as it follows "să"."""
    concept, index = _verb_concept(clause), _index(person)
    verb = words.VERBS[concept]
    if concept == "be":
        form = _SUBJUNCTIVE_BE[index]
    else:
        form = verb.subjunctive if person.person == 3 else verb.present[index]
    return join(clitic, form)


def _verbs(clause: Clause, person: Person, resumed: str = "") -> str:
    """Negation, clitics, auxiliaries and the verb; ``resumed``: a clitic for "pe care"."""
    no = "nu" if clause.negative or clause.frequency == "never" else ""
    clitic = resumed or _clitic(clause, person)
    index = _index(person)
    if clause.modal:
        governing = _modal(clause, index)
        if clause.modal is Modal.LIKE:
            governing = f"{_DATIVE.get(person, 'îi')} {governing}"
        return join(no, governing, "să", _subjunctive(clause, person, clitic))
    if _is_experience(clause):
        return join(no, _DATIVE.get(person, "îi"), _experience(clause))
    concept = _verb_concept(clause)
    verb = words.VERBS[concept]
    past = _IMPERFECT.get("have" if verb.infinitive == "avea" else concept)
    if clause.tense is Tense.FUTURE:
        text = join(clitic, _FUTURE[index], verb.infinitive)
    elif clause.tense is Tense.PAST and past:
        text = past[index]
    elif clause.tense is Tense.PAST:
        text = _perfect(verb.participle, index, clitic)
    else:
        text = join(clitic, verb.present[index])
    return join(no, text)


def _modal(clause: Clause, index: int) -> str:
    past = clause.tense is Tense.PAST
    match clause.modal:
        case Modal.CAN:
            return _CAN[index]
        case Modal.WANT:
            return _perfect("vrut", index, "") if past else _WANT[index]
        case Modal.MUST:
            return f"{'au' if index == 4 else 'a'} trebuit" if past else "trebuie"
        case Modal.SHOULD:
            return "ar trebui"
        case Modal.WOULD_LIKE:
            return f"{_CONDITIONAL[index]} vrea"
    return "place"


def _experience(clause: Clause) -> str:
    if clause.verb == "like":
        return "plac" if agreement(clause.object).number == PLURAL else "place"
    return "era" if clause.tense is Tense.PAST else "este"


# Clauses


def _statement(clause: Clause, front: Front = Front.SUBJECT) -> str:
    first = ""
    if front is Front.TIME:
        first, clause = _times(clause), replace(clause, times=())
    elif front is Front.FREQUENCY:
        first, clause = words.FREQUENCIES[clause.frequency], replace(clause, frequency="")
    return join(first, _clause(clause))


def _clause(clause: Clause, person: Person | None = None, resumed: str = "") -> str:
    """Subject first; ``person`` stands in for an absent subject."""
    subject = _subject(clause) if person is None else ""
    person = person or agreement(clause.subject)
    return join(subject, _verbs(clause, person, resumed), *_rest(clause))


def _subject(clause: Clause) -> str:
    if clause.subject is None:  # the weather
        return ""
    return _in_dative(clause.subject) if _is_experience(clause) else participant(clause.subject)


def _subjunctive_clause(clause: Clause) -> str:
    """The clause after "să"; its subject follows the verb."""
    person = agreement(clause.subject)
    verb = _subjunctive(clause, person, _clitic(clause, person))
    return join(verb, participant(clause.subject), *_rest(clause))


def _complex(sentence: Complex) -> str:
    before = sentence.link is Link.BEFORE
    clause = _subjunctive_clause(sentence.sub) if before else _clause(sentence.sub)
    subordinate = f"{_LINKS[sentence.link]} {clause}"
    if sentence.sub_first:
        return f"{subordinate}, {_clause(sentence.main)}"
    comma = "," if sentence.link in _WITH_COMMA else ""
    return f"{_clause(sentence.main)}{comma} {subordinate}"


def _contrast(first: Clause, second: Clause) -> str:
    """Subjects that are set against each other are named: "dar eu cânt", "dar mie îmi place"."""
    if isinstance(second.subject, Pronoun) and second.subject.bound:
        return f"{_clause(first)}, dar {_clause(second)}"
    clauses = (join(_stressed(clause), _clause(clause)) for clause in (first, second))
    return ", dar ".join(clauses)


def _stressed(clause: Clause) -> str:
    """The pronoun that is dropped elsewhere."""
    match clause.subject:
        case Pronoun(who) if who.person != 3:
            return _STRESSED_DATIVE[who] if _is_experience(clause) else _STRONG[who]
    return ""


def _question(clause: Clause, asked: Asked) -> str:
    if asked is Asked.WHETHER:
        return _clause(clause)
    if asked is Asked.SUBJECT:
        asking = "cui" if _is_experience(clause) else "cine"
        return f"{asking} {_clause(clause, person=IT)}"
    asking, clause = _asking(clause, asked)
    person = agreement(clause.subject)
    subject, verbs = _subject(clause), _verbs(clause, person)
    order = (subject, verbs) if _is_experience(clause) else (verbs, subject)
    return join(asking, *order, *_rest(clause))


def _indirect(clause: Clause, asked: Asked) -> str:
    if asked is Asked.WHETHER:
        return f"dacă {_clause(clause)}"
    return _question(clause, asked)


def _asking(clause: Clause, asked: Asked) -> tuple[str, Clause]:
    """The question word and what is left of the clause."""
    preposition = words.VERBS[clause.verb].preposition
    match asked:
        case Asked.PERSON:
            return join(preposition or "pe", "cine"), clause
        case Asked.THING:
            return join(preposition, "ce"), clause
        case Asked.WHICH:
            noun = words.NOUNS[clause.object.noun].singular
            return join(preposition, "ce", noun), replace(clause, object=None)
        case Asked.HOW_MANY:
            noun = words.NOUNS[clause.object.noun]
            many = "câți" if noun.gender == "m" else "câte"
            return join(preposition, many, noun.plural), replace(clause, object=None)
        case Asked.AGE:
            return _ASKING[asked], replace(clause, verb="have")
    return _ASKING[asked], clause


def _rest(clause: Clause) -> list[str]:
    """What follows the verb, in order."""
    texts = [words.FREQUENCIES.get(clause.frequency, ""), words.MANNERS.get(clause.manner, "")]
    texts.append(words.VERBS[clause.verb].after)
    if clause.recipient and not isinstance(clause.recipient, Pronoun):
        texts.append(_in_dative(clause.recipient))
    if clause.object:
        texts.append(_object(clause))
    if clause.predicate:
        texts.append(_predicate(clause))
    if clause.goal:
        texts.append(_place(clause.goal, goal=True))
    if clause.vehicle:
        texts.append(words.VEHICLES[clause.vehicle])
    if clause.companion:
        texts.append(_after("cu", clause.companion))
    if clause.beneficiary:
        texts.append(_after("pentru", clause.beneficiary))
    if clause.place:
        texts.append(_place(clause.place, goal=False))
    if clause.duration:
        texts.append(noun_phrase(clause.duration))
    texts.append(_times(clause))
    return texts


def _object(clause: Clause) -> str:
    thing, verb = clause.object, words.VERBS[clause.verb]
    if isinstance(thing, NounPhrase):
        thing = _articled(clause, thing)
    if verb.preposition:
        return _after(verb.preposition, thing)
    if isinstance(thing, Pronoun):
        return ""  # the clitic says it
    if _is_specific_person(thing):
        return _after("pe", thing)
    return participant(thing)


def _articled(clause: Clause, thing: NounPhrase) -> NounPhrase:
    """What is liked or spoken takes the article; what one does not have goes without "un"."""
    bare = thing.determiner is Determiner.BARE and not thing.owner and thing.count is None
    if bare and (clause.verb == "like" or "language" in NOUNS[thing.noun].kinds):
        return replace(thing, determiner=Determiner.THE)
    indefinite = thing.determiner is Determiner.A and not thing.adjective and not thing.content
    if clause.negative and clause.verb in ("have", "need") and indefinite:
        return replace(thing, determiner=Determiner.BARE)
    return thing


def _predicate(clause: Clause) -> str:
    match clause.predicate:
        case Quality(adjective, very):
            return join("foarte" if very else "", _adjective(adjective, clause))
        case Job(noun):
            female = _gender(clause.subject) == FEMALE
            return words.JOBS[noun][FEMALE if female else MALE]
        case Identity(phrase):
            return noun_phrase(phrase)
        case Comparison(adjective, than):
            comparative = words.COMPARATIVES.get(adjective) or _adjective(adjective, clause)
            return f"mai {comparative} decât {participant(than)}"
        case Age(years):
            return counted(years, False, words.NOUNS["year"].plural)
    raise TypeError(f"not a predicate: {clause.predicate!r}")


def _adjective(adjective: str, clause: Clause) -> str:
    if clause.subject is None and adjective in words.WEATHER:
        return words.WEATHER[adjective]
    if adjective in words.SENSATIONS:
        return words.SENSATIONS[adjective]
    return words.ADJECTIVES[adjective][_subject_form(clause)]


# Places and times


def _place(place: Place, goal: bool) -> str:
    if not isinstance(place, Spot):
        return words.PLACES[place][1 if goal else 0]
    relation = words.RELATIONS[place.relation]
    if place.relation in words.WITH_GENITIVE:
        return f"{relation} {_in_dative(place.thing)}"
    return _after(relation, place.thing)


def _times(clause: Clause) -> str:
    return " ".join(_time(time) for time in clause.times)


def _time(time: Time) -> str:
    match time:
        case Moment(key):
            return words.MOMENTS[key]
        case Weekday(day, part, every):
            every_day = "în fiecare" if every else ""
            return join(every_day, words.DAYS[day], words.DAY_PARTS.get(part, ""))
        case Date(month, 0):
            return f"în {words.MONTHS[month]}"
        case Date(month, day):
            return f"pe {'întâi' if day == 1 else number(day)} {words.MONTHS[month]}"
        case Clock():
            return f"la {_clock(time)}"
        case Ago(count, unit):
            return f"acum {_amount(count, unit)}"
        case Later(count, unit):
            return f"peste {_amount(count, unit)}"
    raise TypeError(f"not a time: {time!r}")


def _amount(count: int, unit: str) -> str:
    if count == 1:
        return noun_phrase(NounPhrase(unit, determiner=Determiner.A))
    return noun_phrase(NounPhrase(unit, PLURAL, count=count))


def _hour(value: int) -> str:
    return words.ONES[1] if value == 1 else number(value, feminine=True)


def _clock(clock: Clock) -> str:
    hour, following = f"ora {_hour(clock.hour)}", f"ora {_hour(clock.hour % 12 + 1)}"
    match clock.minute:
        case 0:
            return hour
        case 15:
            return f"{hour} și un sfert"
        case 30:
            return f"{hour} și jumătate"
        case 45:
            return f"{following} fără un sfert"
        case early if early < 30:
            return f"{hour} și {number(early)}"
    return f"{following} fără {number(60 - clock.minute)}"
