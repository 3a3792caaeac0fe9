"""Draws sentences of one clause that say something, and requests."""

from dataclasses import replace

from cress_svcd.data.everyday import concepts
from cress_svcd.data.everyday.activities import FUTURE, HABIT, NOW, PAST, Mode, modal
from cress_svcd.data.everyday.concepts import FRAMES, NOUNS, Deed, nouns_of
from cress_svcd.data.everyday.material import Material
from cress_svcd.data.everyday.meaning import (
    HE,
    PLURAL,
    SHE,
    SINGULAR,
    THEY,
    WE,
    YOU,
    Age,
    Clause,
    Comparison,
    Determiner,
    Existence,
    Front,
    HourIs,
    I,
    Job,
    Modal,
    Moment,
    NounPhrase,
    Participant,
    Pronoun,
    Quality,
    Request,
    Spot,
    Statement,
    Tense,
)
from cress_svcd.data.everyday.participants import adjectives_of, person_of, suitable
from cress_svcd.data.everyday.times import Times

_DESCRIBED = (
    "clothes reading thing machine vehicle transport furniture building show dishes drink food"
    " event"
)
_GROWN = ("mother", "father", "sister", "brother", "daughter", "son")
_DENIED = 0.2


class Statements:
    """One method a kind of sentence; the docstrings give examples."""

    def __init__(self, material: Material):
        self._material = material
        self._dice = material.dice
        self._people = material.people
        self._calendar = material.calendar
        self._activities = material.activities

    def stated(self, clause: Clause) -> Statement:
        """``clause`` as a statement that begins with its subject or with the time."""
        is_when = clause.verb == "be" and not (clause.predicate or clause.place)
        if clause.times and not is_when and self._dice.chance(0.35):
            return Statement(clause, Front.TIME)
        if clause.frequency in ("sometimes", "usually") and self._dice.chance(0.4):
            return Statement(clause, Front.FREQUENCY)
        return Statement(clause)

    def doing(self) -> Statement:
        """ "Yesterday Anna bought a red coat." """
        subject = Pronoun(YOU) if self._dice.chance(0.06) else self._people.subject()
        return self.stated(self._activities.activity(subject))

    def being(self) -> Statement:
        """ "The red coat is very expensive.", "My sister is a teacher." """
        return self.stated(self.state())

    def state(self, asking: bool = False) -> Clause:
        """How something or somebody is, and where."""
        if self._dice.chance(0.45):
            return self.state_of_thing(asking)
        return self.state_of_person(self._people.subject(asking=asking))

    def state_of_thing(self, asking: bool = False) -> Clause:
        describe = self._dice.weighted([(self._thing_described, 5.0), (self._thing_at_spot, 4.0)])
        return describe(asking)

    def state_of_person(self, subject: Participant) -> Clause:
        describe = self._dice.weighted(
            [
                (self._feeling, 5.0),
                (self._nature, 2.0),
                (self._occupation, 1.5),
                (self._stay, 3.0),
            ]
        )
        return describe(subject)

    def _denied(self, clause: Clause) -> Clause:
        return replace(clause, negative=self._dice.chance(_DENIED))

    def _thing_described(self, asking: bool) -> Clause:
        nouns = [noun for noun in nouns_of(_DESCRIBED) if adjectives_of(noun)]
        owner = self._material.owner(asking)
        noun = self._dice.usual(suitable(tuple(nouns), owner))
        thing = self._people.thing(noun, "the own this", owner)
        qualities = adjectives_of(thing.noun, besides=thing.adjective)
        served = {"food", "drink"} & set(NOUNS[thing.noun].kinds)
        if served or not qualities or self._dice.chance(0.5):
            thing, qualities = replace(thing, adjective=""), adjectives_of(thing.noun)
        tense = Tense.PAST if self._dice.chance(0.3) else Tense.PRESENT
        predicate = self._material.quality(qualities)
        return self._denied(Clause(thing, "be", tense, predicate=predicate))

    def _thing_at_spot(self, asking: bool) -> Clause:
        owner = self._material.owner(asking)
        thing = self._people.thing(concepts.SMALL_THINGS, "the own", owner)
        if self._dice.chance(0.2):
            thing = NounPhrase(self._dice.pick(("cat", "dog")), owner=owner)
        spot = self._people.spot(besides=thing.noun)
        tense = Tense.PAST if self._dice.chance(0.15) else Tense.PRESENT
        return self._denied(Clause(thing, "be", tense, place=spot))

    def _feeling(self, subject: Participant) -> Clause:
        predicate = self._material.quality(list(concepts.STATES), very=0.2)
        clause = Clause(subject, "be", predicate=predicate)
        time = self._dice.weighted([("", 5.0), ("today", 2.0), ("now", 1.0), ("past", 3.0)])
        if time == "past":
            moment = self._dice.usual(concepts.PAST_MOMENTS)
            clause = replace(clause, tense=Tense.PAST, times=(Moment(moment),))
        elif time:
            clause = replace(clause, times=(Moment(time),))
        return self._denied(clause)

    def _nature(self, subject: Participant) -> Clause:
        """What somebody is like at all times: "My brother is very tall." """
        while not isinstance(subject, NounPhrase) or not adjectives_of(subject.noun):
            subject = self._people.kin(self._material.owner())
        predicate = self._material.quality(adjectives_of(subject.noun))
        return self._denied(Clause(subject, "be", predicate=predicate))

    def _occupation(self, subject: Participant) -> Clause:
        if person_of(subject) not in (HE, SHE) or isinstance(subject, NounPhrase):
            kin = NounPhrase(self._dice.usual(_GROWN), owner=self._material.owner())
            subject = self._dice.pick((kin, self._people.name()))
        job = Job(self._dice.usual(("teacher", "doctor")))
        return self._denied(Clause(subject, "be", predicate=job))

    def _stay(self, subject: Participant) -> Clause:
        clause = Clause(subject, "be", place=self._dice.usual(concepts.PLACES))
        time = self._dice.weighted([("", 4.0), ("today", 2.0), ("now", 2.0), ("past", 4.0)])
        if time == "past":
            return self._denied(replace(clause, tense=Tense.PAST, times=self._calendar.past()))
        return self._denied(replace(clause, times=(Moment(time),) if time else ()))

    def animal(self) -> Statement:
        """ "The dog is sleeping under the table." """
        noun = self._dice.usual(("dog", "cat", "horse", "bird"))
        numbers = NOUNS[noun].numbers
        number = PLURAL if PLURAL in numbers and self._dice.chance(0.4) else numbers[0]
        animal = self._people.adorned(NounPhrase(noun, number), share=0.4)
        wild = noun in ("horse", "bird")
        if self._dice.chance(0.35):
            place = "garden" if not wild else self._dice.pick(("garden", "park", "village"))
        else:
            place = self._people.spot(outdoors=wild)
        tense = self._dice.pick((Tense.PROGRESSIVE, Tense.PAST))
        clause = Clause(animal, "sleep", tense, place=place)
        if self._dice.chance(0.4):
            drink = "milk" if noun == "cat" and self._dice.chance(0.5) else "water"
            drink_phrase = NounPhrase(drink, determiner=Determiner.BARE)
            place = "garden" if wild else self._dice.pick(("garden", "kitchen"))
            clause = replace(clause, verb="drink", object=drink_phrase, place=place)
        return Statement(self._denied(clause))

    def weather(self) -> Statement:
        """ "It will rain tomorrow." """
        clause = self.weather_clause(self._dice.usual(concepts.WEATHER))
        tense = self._dice.pick(tuple(Tense))
        if tense is Tense.PRESENT:
            season = Moment(self._dice.usual(("in_summer", "in_winter")))
            frequency = self._dice.pick(("", "often", "sometimes", "always", "never"))
            clause = replace(clause, tense=tense, times=(season,), frequency=frequency)
            return Statement(clause, self._dice.pick((Front.SUBJECT, Front.TIME)))
        if tense is Tense.PAST:
            clause = replace(clause, tense=tense, times=self._calendar.past())
        elif tense is Tense.FUTURE:
            clause = replace(clause, tense=tense, times=self._calendar.future())
        else:
            clause = replace(clause, times=(Moment(self._dice.pick(("today", "now"))),))
        return Statement(self._denied(clause), self._dice.pick((Front.SUBJECT, Front.TIME)))

    @staticmethod
    def weather_clause(weather: str) -> Clause:
        if weather == "rain":
            return Clause(None, "rain", Tense.PROGRESSIVE)
        return Clause(None, "be", predicate=Quality(weather))

    # Numbers

    def amount(self) -> Statement:
        """ "This book costs twelve euros.", "We need three kilos of apples." """
        compose = self._dice.weighted(
            [(self._price, 4.0), (self._age, 4.0), (self._parts, 2.0), (self._stock, 3.0)]
        )
        return Statement(compose())

    def priced(self) -> NounPhrase:
        """Something that is sold, in the singular but for shoes."""
        thing = self._people.thing(" ".join(concepts.PRICES), "the this")
        return thing if thing.noun == "shoe" else replace(thing, number=SINGULAR)

    def _price(self) -> Clause:
        thing = self.priced()
        euros = self._material.number(*concepts.PRICES[thing.noun])
        # "the shoes cost" may be past or present; "the coat cost" is past
        past = thing.number == SINGULAR and self._dice.chance(0.25)
        tense = Tense.PAST if past else Tense.PRESENT
        return Clause(thing, "cost", tense, object=NounPhrase("euro", PLURAL, count=euros))

    def aged(self, asking: bool = False) -> tuple[Participant, tuple[int, int]]:
        """Somebody or something whose age one tells, and the range of it."""
        if self._dice.chance(0.25):
            return self._people.name(), concepts.NAME_AGE
        noun = self._dice.usual(tuple(concepts.AGES))
        return NounPhrase(noun, owner=self._material.owner(asking)), concepts.AGES[noun]

    def _age(self) -> Clause:
        who, (low, high) = self.aged()
        return Clause(who, "be", predicate=Age(self._material.number(low, high)))

    def _parts(self) -> Clause:
        whole, part = self._dice.usual(tuple(concepts.PARTS))
        count = self._material.number(*concepts.PARTS[whole, part])
        determiner = self._dice.pick((Determiner.THE, Determiner.THIS))
        subject = self._people.adorned(NounPhrase(whole, determiner=determiner))
        return Clause(subject, "have", object=NounPhrase(part, PLURAL, count=count))

    def _stock(self) -> Clause:
        subject = self._people.subject()
        if self._dice.chance(0.5):
            verb, mode = self._dice.pick((("need", HABIT), ("buy", NOW), ("buy", PAST)))
            contents = [noun for held in concepts.CONTENTS.values() for noun in held]
            thing = self._people.measure(self._dice.usual(contents))
        else:
            verb, mode, selection = self._dice.pick(
                (
                    ("have", HABIT, "dog cat brother sister book"),
                    ("need", HABIT, "egg potato ticket apple key"),
                    ("buy", PAST, "egg apple flower ticket book"),
                )
            )
            thing = self._people.thing(selection, "count")
        return Clause(subject, verb, *mode, object=thing)

    def existence(self) -> Existence:
        """ "There are twenty-five children in the park.", "There is no milk in the bottle." """
        compose = self._dice.weighted(
            [(self._crowd, 4.0), (self._sight, 2.0), (self._presence, 5.0), (self._lack, 2.0)]
        )
        return compose()

    def _crowd(self) -> Existence:
        noun = self._dice.usual(tuple(concepts.CROWDS))
        count = self._material.number(*concepts.CROWDS[noun])
        places = ("park", "garden", "village")
        if noun == "child":
            places += ("beach", "school", "city")
        return Existence(NounPhrase(noun, PLURAL, count=count), self._dice.pick(places))

    def _sight(self) -> Existence:
        sight = self._people.thing("sight", "a")
        return Existence(sight, self._dice.usual(("city", "village") + concepts.CITIES))

    def _presence(self) -> Existence:
        thing = self._people.thing(concepts.SMALL_THINGS + " flower shoe", "a count")
        return Existence(thing, self._people.spot(besides=thing.noun))

    def _lack(self) -> Existence:
        if self._dice.chance(0.5):
            vessel = self._dice.pick(("bottle", "glass", "cup"))
            noun, number = self._dice.usual(concepts.CONTENTS[vessel]), SINGULAR
        else:
            noun = self._dice.usual(nouns_of("flower book ticket cup glass egg key"))
            vessel, number = self._dice.pick(("box", "bag", "room")), PLURAL
        lacking = NounPhrase(noun, number, Determiner.BARE)
        return Existence(lacking, Spot("in", NounPhrase(vessel)), negative=True)

    def comparison(self) -> Statement:
        """ "The train is faster than the bus." """
        adjective = self._dice.usual(tuple(concepts.COMPARABLE))
        nouns = nouns_of(self._dice.pick(concepts.COMPARABLE[adjective]))
        owned = [
            noun
            for noun in suitable(nouns, HE)
            if not {"sight", "transport"} & set(NOUNS[noun].kinds)
        ]
        if nouns == nouns_of(concepts.PEERS):
            first, second = self._two_peers()
        elif len(nouns) == 1 or (owned and self._dice.chance(0.5)):
            mine = self._dice.pick(((I, YOU), (YOU, I), (HE, SHE), (WE, THEY), (I, HE), (SHE, I)))
            noun = self._dice.usual(owned)
            first, second = (NounPhrase(noun, owner=owner) for owner in mine)
        else:
            first = NounPhrase(self._dice.usual(nouns))
            second = NounPhrase(self._dice.pick([noun for noun in nouns if noun != first.noun]))
        clause = Clause(first, "be", predicate=Comparison(adjective, second))
        return Statement(self._denied(clause))

    def _two_peers(self) -> tuple[Participant, Participant]:
        first, second = self._peer(), self._peer()
        while first == second:
            second = self._peer()
        return first, second

    def _peer(self) -> Participant:
        if self._dice.chance(0.4):
            return self._people.name()
        noun = self._dice.usual(nouns_of(concepts.PEERS))
        return NounPhrase(noun, owner=self._material.owner())

    # Times

    def hour(self) -> HourIs:
        """ "It is a quarter past seven." """
        return HourIs(self._calendar.clock())

    def schedule(self) -> Statement:
        """ "On Monday the train to Berlin leaves at half past eight." """
        return self.stated(self.scheduled())

    def scheduled(self, asking: bool = False) -> Clause:
        """Something that happens at a time; ``asking``: nothing of the speaker's own."""
        schedule = self._dice.weighted(
            [
                (self._departure, 5.0),
                (self._beginning, 3.0),
                (self._opening, 3.0),
                (self._appointment, 3.0),
                (self._occasion, 3.0),
            ]
        )
        return schedule(asking)

    def _departure(self, _: bool) -> Clause:
        toward = self._dice.usual(concepts.CITIES) if self._dice.chance(0.6) else ""
        transport = NounPhrase(self._dice.usual(nouns_of("transport")), toward=toward)
        return self._timed(Clause(transport, self._dice.usual(("leave", "arrive"))))

    def _beginning(self, _: bool) -> Clause:
        return self._timed(Clause(NounPhrase(self._dice.usual(nouns_of("event movie"))), "begin"))

    def _timed(self, clause: Clause) -> Clause:
        tense = self._dice.weighted([(Tense.PRESENT, 5.0), (Tense.PAST, 2.0), (Tense.FUTURE, 2.0)])
        if tense is Tense.PRESENT:
            return replace(clause, times=self._calendar.scheduled())
        near = Moment("yesterday" if tense is Tense.PAST else "tomorrow")
        day = self._dice.pick((near, self._calendar.weekday()))
        return replace(clause, tense=tense, times=(day, self._calendar.clock()))

    def _opening(self, _: bool) -> Clause:
        house = NounPhrase(self._dice.usual(nouns_of("opens")))
        verb = self._dice.usual(("open_up", "close_down"))
        return Clause(house, verb, times=(self._calendar.clock(),))

    def _occasion(self, asking: bool) -> Clause:
        if self._dice.chance(0.6):
            owners = (YOU, HE, SHE) if asking else (I, YOU, HE, SHE)
            birthday = NounPhrase("birthday", owner=self._dice.usual(owners))
            return Clause(birthday, "be", times=(self._calendar.date(),))
        event = NounPhrase(self._dice.usual(nouns_of("event")))
        return Clause(event, "be", times=self._calendar.scheduled())

    def _appointment(self, asking: bool) -> Clause:
        verb, mode = self._dice.pick(
            (("get_up", HABIT), ("get_up", PAST), ("come_back", FUTURE), ("come_back", PAST))
        )
        subject = self._people.subject(asking=asking)
        clause = self._activities.deed(Deed(verb), subject, mode)
        return replace(clause, times=self._hours(verb, mode))

    def _hours(self, verb: str, mode: Mode) -> Times:
        hours = concepts.GETTING_UP if verb == "get_up" else (1, 12)
        clock, weekday = self._calendar.clock(*hours), self._calendar.weekday()
        if mode == HABIT:
            return (clock,)
        near = Moment("tomorrow" if mode == FUTURE else "yesterday")
        return (self._dice.pick((near, weekday)), clock)

    # Requests

    def request(self) -> Request:
        """ "Please call me tomorrow." """
        verbs = tuple(verb for verb, frame in FRAMES.items() if frame.allows("request"))
        clause = self._activities.activity(
            Pronoun(YOU), verbs, (modal(Modal.MUST), PAST), negative=False, bare=True
        )
        clause = replace(clause, tense=Tense.PRESENT, modal=None)
        if FRAMES[clause.verb].allows("plan") and self._dice.chance(0.5):
            clock = FRAMES[clause.verb].allows("clock")
            clause = replace(clause, times=self._calendar.future(clock))
        return Request(clause)
