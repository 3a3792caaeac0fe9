"""What there is to talk about: concepts, and what goes with what.

Nothing here belongs to one language.  The tables keep the sentences sensible: one drinks water
and not a table, a book is long or boring and not tired, a coat costs more than an apple.
A *selection* is a string of concepts and kinds ("food gift book"); ``nouns_of`` spells it out.
"""

from dataclasses import dataclass
from functools import cache

from cress_svcd.data.everyday.meaning import FEMALE, MALE
from cress_svcd.data.everyday.tables import keyed, mapping


@dataclass(frozen=True)
class NounConcept:
    """``numbers``: which of "sg", "pl" and "mass" the noun is used in."""

    numbers: tuple[str, ...]
    kinds: tuple[str, ...]


_NOUNS = """
# concept      numbers  kinds
mother         sg       kin female adult
father         sg       kin male adult
sister         sg pl    kin female
brother        sg pl    kin male
daughter       sg       kin female
son            sg       kin male
grandmother    sg       kin female elder
parents        pl       kin adult
friend         sg pl    kin
neighbor       sg       kin
teacher        sg       role
doctor         sg       role
woman          sg       role female
man            sg       role male
girl           sg       role young
boy            sg       role male young
child          pl       role young

dog            sg pl    animal
cat            sg pl    animal
horse          sg       animal
bird           pl       animal

apple          sg pl    food fruit fresh
orange         sg       food fruit fresh
egg            sg pl    food fresh
potato         pl       food cookable
cake           sg       food baked
bread          mass     food baked fresh
cheese         mass     food
fish           mass     food cookable fresh
rice           mass     food cookable
soup           mass     food cookable
chocolate      mass     food
water          mass     drink
milk           mass     drink
coffee         mass     drink
tea            mass     drink
juice          mass     drink

coat           sg       clothes
shirt          sg       clothes
dress          sg       clothes
hat            sg       clothes
shoe           pl       clothes

book           sg pl    thing reading
newspaper      sg       thing reading
letter         sg       thing reading
key            pl       thing
phone          sg       thing machine
bag            sg       thing
umbrella       sg       thing
photo          sg       thing
cup            sg pl    dishes
glass          sg pl    dishes
bottle         sg pl    dishes
plate          sg       dishes
ball           sg       thing
gift           sg       thing
ticket         sg pl    thing
flower         pl       plant
box            sg       box
lamp           sg       furniture light
table          sg       furniture
chair          sg       furniture
bed            sg       furniture
computer       sg       machine
radio          sg       machine
piano          sg mass  instrument
guitar         sg mass  instrument
light          sg       light
door           sg       opening
window         sg pl    opening

car            sg       vehicle
bike           sg       vehicle
bus            sg       transport
train          sg       transport

house          sg       building
room           sg pl    inside
kitchen        sg       inside
garden         sg       outside
hotel          sg       building sight
restaurant     sg       building sight opens
library        sg       building sight opens
school         sg       building sight
station        sg       building sight
market         sg       outside sight opens
hospital       sg       building sight
cinema         sg       building sight opens
park           sg       outside sight

movie          sg pl    show
concert        sg       show event
party          sg       event
course         sg       event
birthday       sg       occasion
song           sg       sound
music          mass     sound
football       mass     game
tennis         mass     game
english        mass     language
german         mass     language
french         mass     language
time           mass     time

page           pl       unit
euro           pl       unit
kilo           pl       unit
minute         pl       unit
day            pl       unit
week           sg pl    unit
year           pl       unit
"""

NOUNS = {
    key: NounConcept(tuple(numbers.split()), tuple(kinds.split()))
    for key, (numbers, kinds) in keyed(_NOUNS).items()
}


@cache
def nouns_of(selection: str) -> tuple[str, ...]:
    """The nouns that ``selection`` names, singly or by kind, in the order of the table."""
    wanted = set(selection.split())
    unknown = wanted - NOUNS.keys() - {kind for noun in NOUNS.values() for kind in noun.kinds}
    if unknown:
        raise ValueError(f"no noun and no kind of noun: {sorted(unknown)}")
    return tuple(k for k, noun in NOUNS.items() if k in wanted or wanted & set(noun.kinds))


NAMES = {
    "Anna": FEMALE,
    "Maria": FEMALE,
    "Emma": FEMALE,
    "Peter": MALE,
    "Paul": MALE,
    "Tom": MALE,
}

CITIES = ("berlin", "london", "paris", "vienna")

PLACES = (
    "home",
    "school",
    "office",
    "market",
    "station",
    "park",
    "beach",
    "cinema",
    "restaurant",
    "library",
    "hospital",
    "hotel",
    "city",
    "village",
    "kitchen",
    "garden",
    "party",
    "concert",
) + CITIES

# Which nouns an adjective may go with.
ADJECTIVES = mapping("""
red           car bike clothes bag umbrella flower ball cup chair door lamp box apple
blue          car bike clothes bag umbrella ball cup plate chair door box
green         car bike clothes bag umbrella ball cup bottle door apple
white         clothes flower cup plate horse cat dog door
black         clothes bag umbrella car bike cat dog horse piano
big           dog house room kitchen garden table bed car window bag box hotel cake park fish
small         dog cat house room kitchen garden table bed car window bag box hotel lamp
new           car bike clothes phone computer radio house table chair bag key lamp book guitar
old           car bike clothes phone computer radio house table chair bag umbrella piano hotel bed
expensive     car bike clothes phone computer bag lamp hotel restaurant ticket guitar gift
cheap         car bike clothes phone computer bag lamp hotel restaurant ticket table
beautiful     flower dress house garden horse song park photo bird
heavy         bag box table bed
dirty         clothes cup glass plate car window kitchen room
empty         bottle glass box room bag
fresh         fresh flower milk juice
cold          water milk tea coffee juice soup
hot           tea coffee milk soup water
good          book movie song restaurant hotel doctor teacher cake coffee soup cheese bread
interesting   book movie newspaper letter course concert
boring        book movie newspaper course concert
long          letter movie dress coat song course
short         letter movie dress song
broken        phone computer radio lamp bike car umbrella
fast          car bike train bus computer horse
slow          car bike train bus computer
friendly      role kin
young_person  teacher doctor woman man girl boy neighbor
old_person    woman man doctor teacher neighbor
tall          teacher doctor woman man girl boy brother sister son daughter father
""")

# Of each group a thing has one quality at most.
ALTERNATIVES = (
    "red blue green white black",
    "big small",
    "new old fresh",
    "expensive cheap",
    "cold hot",
    "long short",
    "good interesting boring",
    "fast slow",
    "old_person young_person",
)

# There is no "very" with these.
ABSOLUTE = ("red", "blue", "green", "white", "black", "empty", "broken", "fresh")

# How people are at times.  These are said of subjects only ("Anna is tired").
STATES = ("tired", "happy", "sad", "sick", "hungry", "thirsty")
FEELINGS = ("tired", "happy", "sad", "sick")  # what goes with "feel"

# Adjectives that compare, and the groups of nouns within which they do.
_SOLD = ("car", "bike", "coat dress hat", "phone computer lamp", "hotel restaurant")
PEERS = "sister brother friend neighbor son daughter"
_ROOMY = ("room kitchen", "house hotel", "garden park", "table", "car")
COMPARABLE = {
    "fast": ("car bike train bus",),
    "expensive": _SOLD,
    "cheap": _SOLD,
    "big": _ROOMY,
    "small": _ROOMY,
    "old_person": (PEERS,),
    "young_person": (PEERS,),
    "tall": (PEERS,),
}

# What a thing costs in euros, how many pages or rooms it has, how old people are: from, to.
PRICES = {
    "book": (5, 40),
    "ticket": (3, 120),
    "coat": (60, 350),
    "dress": (30, 300),
    "hat": (15, 90),
    "shirt": (12, 80),
    "shoe": (40, 240),
    "bag": (20, 280),
    "umbrella": (8, 45),
    "phone": (90, 990),
    "computer": (250, 990),
    "lamp": (15, 220),
    "bike": (120, 990),
    "table": (60, 850),
    "chair": (25, 260),
    "bed": (150, 950),
    "guitar": (80, 900),
    "cake": (3, 40),
    "radio": (20, 190),
    "room": (40, 260),
    "course": (50, 600),
}
PARTS = {
    ("book", "page"): (60, 900),
    ("hotel", "room"): (12, 480),
    ("house", "room"): (3, 14),
    ("house", "window"): (4, 32),
    ("school", "room"): (10, 90),
    ("library", "book"): (100, 990),
}
CROWDS = {"child": (2, 300), "bird": (2, 60), "dog": (2, 9), "cat": (2, 12)}
AGES = {
    "mother": (25, 70),
    "father": (25, 75),
    "sister": (2, 60),
    "brother": (2, 60),
    "daughter": (2, 35),
    "son": (2, 35),
    "grandmother": (60, 99),
    "friend": (10, 70),
    "neighbor": (20, 90),
    "car": (2, 30),
    "house": (5, 250),
    "school": (5, 180),
    "dog": (2, 14),
    "cat": (2, 15),
    "horse": (2, 25),
    "piano": (5, 120),
}
NAME_AGE = (4, 80)
GETTING_UP = (5, 10)  # hours
NOT_FOR_HIM = ("dress",)

# What one names in the plural without a number, and what one counts.
IN_GENERAL = "food animal flower shoe book ticket gift letter photo movie song"
COUNTED = (
    "food animal brother sister friend shirt flower book ticket gift letter photo key lamp"
    " cup glass bottle plate box bike"
)
COUNTS = {
    "egg": (2, 30),
    "apple": (2, 20),
    "potato": (2, 20),
    "brother": (2, 4),
    "sister": (2, 4),
    "dog": (2, 6),
    "cat": (2, 6),
}
DEFAULT_COUNT = (2, 12)

# Measures: what holds what.
CONTENTS = {
    "cup": ("coffee", "tea"),
    "glass": ("water", "milk", "juice"),
    "bottle": ("water", "milk", "juice"),
    "kilo": ("apple", "potato", "cheese", "rice", "fish"),
}

# Where things are found: the relation, and the things that have it.
SPOTS = {
    "on": "table chair bed",
    "under": "table chair bed",
    "next_to": "lamp door window bed computer table",
    "in": "bag box room",
    "behind": "door lamp box",
}
OUTDOOR_SPOTS = {
    "in_front_of": "house hotel station school library restaurant cinema",
    "behind": "house hotel station school library car",
    "next_to": "house hotel station school car park",
}
SMALL_THINGS = (
    "book newspaper letter key phone bag umbrella photo cup glass bottle plate ball gift ticket hat"
)

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY_PARTS = ("morning", "afternoon", "evening")
MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
LAST_DATE = 10  # first to tenth: every ordinal is then heard often enough to be learnt
# German counts 25 and 35 from the half hour ("fünf vor halb neun"); they are left out.
MINUTES = (0, 15, 30, 45, 5, 10, 20, 40, 50, 55)

PAST_MOMENTS = ("yesterday", "yesterday_evening", "this_morning")
FUTURE_MOMENTS = ("tomorrow", "this_evening", "today")
HABIT_MOMENTS = (
    "every_day",
    "every_morning",
    "every_evening",
    "every_week",
    "in_the_morning",
    "in_the_evening",
    "in_summer",
    "in_winter",
)
MANNERS = ("well", "quickly", "slowly", "together", "early")
VEHICLES = ("train", "bus", "bike", "car")
FREQUENCIES = ("always", "often", "usually", "sometimes", "never")


@dataclass(frozen=True)
class Frame:
    """How people use a verb.

    ``tenses``: h(abit or state), g (in progress), p(ast); modals and the future need no mention.
    ``objects``: a selection, or "people"; ``bare_too``: the object may be absent.
    ``forms``: how a thing may be introduced: a, the, own, this, bare, count, measure.
    ``places``: where it is done ("room": in one's room); ``goals``: where it leads.
    ``extras`` names what may be added: companion, together, beneficiary, vehicle, duration,
    clock, well, slowly, quickly, early, found (a thing is, at a spot); what must be: place, goal,
    recipient, spot (where the thing is put), feeling; and remarks: plan (one says it of
    tomorrow), distant (one still speaks of it after months), timeless (one does not say when),
    morning (one says at what hour), static (neither planned nor wanted), must (only that),
    can (an ability), enjoyed ("likes to"), request, positive (never denied), stranger (the person
    is not of one's family).
    ``asks``: questions for the object: what, who, which, howmany.
    """

    tenses: str
    objects: str = ""
    forms: str = ""
    places: str = ""
    goals: str = ""
    extras: str = ""
    asks: str = ""
    bare_too: bool = False

    def allows(self, extra: str) -> bool:
        return extra in self.extras.split()


# Where the object decides about the place.
PLACES_OF_OBJECTS = {"bus": "station", "train": "station"}

FRAMES = {
    # what one does with things
    "buy": Frame(
        "gp",
        "food drink gift ticket flower book newspaper clothes phone umbrella lamp"
        " car bike table chair",
        "a bare count measure",
        "market city",
        extras="distant beneficiary plan request",
        asks="what howmany which",
    ),
    "sell": Frame(
        "p",
        "car bike house piano guitar computer table bed",
        "own the",
        extras="distant plan",
        asks="what",
    ),
    "eat": Frame(
        "hgp",
        "food",
        "a bare",
        "home restaurant kitchen garden school office",
        extras="companion slowly enjoyed",
        asks="what howmany",
    ),
    "drink": Frame(
        "hgp",
        "drink",
        "bare measure",
        "home restaurant kitchen garden office",
        extras="enjoyed",
        asks="what",
    ),
    "read": Frame(
        "hg",
        "reading",
        "a the own this bare",
        "home library park garden room",
        extras="slowly enjoyed",
        asks="what which",
        bare_too=True,
    ),
    "write": Frame("gp", "letter book", "a the", "home office library", asks="what"),
    "open": Frame("p", "door window bottle box letter", "the this", extras="request"),
    "close": Frame("p", "door window box bag", "the this", extras="request"),
    "clean": Frame("p", "kitchen room window shoe", "the own", extras="plan request"),
    "wash": Frame("p", "car clothes dishes dog", "the own", extras="plan request"),
    "cook": Frame(
        "p",
        "cookable",
        "bare",
        "home kitchen",
        extras="beneficiary plan well enjoyed together",
        asks="what",
        bare_too=True,
    ),
    "bake": Frame("p", "baked", "a bare", "home kitchen", extras="beneficiary plan"),
    "look_for": Frame(
        "gp", "key phone bag book hat ticket umbrella cat dog ball letter", "own the", asks="what"
    ),
    "find": Frame(
        "p",
        "key phone bag book hat ticket umbrella cat ball letter",
        "own the a",
        extras="found static",
        asks="what",
    ),
    "lose": Frame(
        "p",
        "key phone bag ticket umbrella hat",
        "own the",
        "station park cinema market",
        extras="static positive",
        asks="what",
    ),
    "need": Frame(
        "h",
        "key umbrella egg potato chair lamp table computer phone bike coat ticket",
        "a count this",
        extras="static",
        asks="howmany",
    ),
    "have": Frame(
        "h",
        "animal brother sister car bike house garden guitar piano computer book lamp coat",
        "a count",
        extras="static",
        asks="howmany",
    ),
    "like": Frame(
        "h",
        "food drink animal flower music tennis football book song",
        "bare this",
        extras="static",
    ),
    "wear": Frame("g", "clothes", "a own", extras="static", asks="what"),
    "repair": Frame(
        "p", "machine car bike lamp door", "own the this", extras="distant plan", asks="what"
    ),
    "watch": Frame(
        "gp",
        "movie",
        "a the this bare",
        "home cinema",
        extras="companion plan enjoyed together",
        asks="which",
    ),
    "listen_to": Frame(
        "g", "sound", "bare this", "home kitchen park garden room", extras="companion enjoyed"
    ),
    "play_game": Frame(
        "hgp",
        "game",
        "bare",
        "park garden school beach",
        extras="companion plan can well enjoyed together",
    ),
    "play_music": Frame("hg", "instrument", "bare", extras="can well enjoyed"),
    "sing": Frame(
        "hg",
        "song",
        "a this",
        "home kitchen garden park",
        extras="companion well can together enjoyed",
        bare_too=True,
    ),
    "speak": Frame("h", "language", "bare", "home office school", extras="well can slowly static"),
    "learn": Frame("g", "language tennis", "bare", "home school", extras="distant companion plan"),
    "take": Frame("hp", "bus train", "the", extras="plan"),
    "turn_on_light": Frame("p", "light", "the", extras="request"),
    "turn_off_light": Frame("p", "light", "the", extras="request"),
    "turn_on_machine": Frame("p", "computer radio", "the own", extras="request"),
    "turn_off_machine": Frame("p", "computer radio", "the own", extras="request"),
    "put_flat": Frame(
        "g", "book newspaper letter key phone bag photo", "the own", extras="spot request"
    ),
    "put_upright": Frame("g", "cup glass bottle plate lamp", "the own", extras="spot request"),
    # what one does with people
    "see": Frame(
        "p",
        "people",
        "",
        "park station market cinema restaurant beach",
        extras="can static",
        asks="who",
    ),
    "visit": Frame("gp", "people", extras="distant plan enjoyed clock", asks="who"),
    "help": Frame(
        "p", "people", "", "kitchen garden school office", extras="plan request enjoyed", asks="who"
    ),
    "call": Frame("gp", "people", extras="plan request clock", asks="who"),
    "invite": Frame(
        "p", "people", goals="party concert restaurant cinema", extras="plan", asks="who"
    ),
    "know": Frame("h", "people", extras="static stranger"),
    "meet": Frame(
        "gp",
        "people",
        "",
        "station park cinema restaurant city market beach",
        extras="distant plan clock",
        asks="who",
    ),
    "remember": Frame("h", "people concert party song", "the this", extras="static"),
    "wait_for": Frame(
        "g", "people bus train", "the", "station school cinema hotel", extras="request", asks="who"
    ),
    "give": Frame(
        "p",
        "gift book flower apple ticket photo ball key cake hat",
        "a own count",
        extras="recipient plan request",
    ),
    "show": Frame(
        "p", "photo letter house room ticket garden book", "the own", extras="recipient request"
    ),
    # what one does
    "sleep": Frame("gp", places="home garden hotel room", extras="well"),
    "work": Frame(
        "hp",
        places="office hospital restaurant home library garden hotel",
        extras="companion plan quickly together slowly enjoyed",
    ),
    "dance": Frame(
        "p", places="party park home beach", extras="companion can well together enjoyed"
    ),
    "swim": Frame("hg", extras="companion can well enjoyed quickly"),
    "get_up": Frame("hp", extras="early clock plan morning"),
    "go_shopping": Frame("hgp", places="city market", extras="companion plan enjoyed together"),
    "watch_television": Frame(
        "hgp", places="home kitchen room", extras="companion plan together enjoyed"
    ),
    "come_back": Frame("p", extras="distant plan quickly clock"),
    "hurry": Frame("", extras="must positive"),
    "rest": Frame("g", places="home garden park beach room", extras="plan"),
    "sit_down": Frame("p", extras="request must timeless"),
    "feel": Frame("h", extras="feeling static"),
    "live": Frame("h", places="city village berlin london paris vienna", extras="place static"),
    "stay": Frame(
        "p",
        places="home hotel berlin london paris vienna village",
        extras="distant place companion duration plan",
    ),
    "go": Frame(
        "hgp",
        goals="school office market station park beach cinema library home party"
        " concert restaurant",
        extras="goal companion plan enjoyed clock",
    ),
    "drive": Frame(
        "p",
        goals="beach office station city village berlin vienna home hospital",
        extras="goal plan clock",
    ),
    "travel": Frame(
        "p",
        goals="berlin london paris vienna",
        extras="distant goal companion plan vehicle enjoyed",
    ),
    "come": Frame(
        "p",
        goals="party concert restaurant park home",
        extras="goal companion plan vehicle request clock",
    ),
}


@dataclass(frozen=True)
class Deed:
    """One use of a frame, narrowed down, for sentences that must make sense together."""

    verb: str
    objects: str = ""
    place: str = ""
    goal: str = ""
    forms: str = ""


# Why one does something and why one does not: cause, deeds it leads to, deeds it prevents.
# A state of the subject, the weather, or a circumstance that the composer spells out.
REASONS: dict[str, tuple[tuple[Deed, ...], tuple[Deed, ...]]] = {
    "tired": (
        (
            Deed("stay", place="home"),
            Deed("sleep"),
            Deed("drink", "coffee"),
            Deed("rest"),
            Deed("go", goal="home"),
        ),
        (
            Deed("work"),
            Deed("dance"),
            Deed("cook"),
            Deed("come", goal="party"),
            Deed("go", goal="cinema"),
            Deed("read", "reading"),
            Deed("write", "letter"),
            Deed("go_shopping"),
        ),
    ),
    "sick": (
        (
            Deed("stay", place="home"),
            Deed("drink", "tea"),
            Deed("sleep"),
            Deed("go", goal="home"),
            Deed("rest"),
        ),
        (
            Deed("work"),
            Deed("go", goal="school"),
            Deed("go", goal="office"),
            Deed("swim"),
            Deed("come", goal="concert"),
            Deed("play_game", "football tennis"),
            Deed("dance"),
            Deed("travel", goal="paris"),
        ),
    ),
    "hungry": (
        (
            Deed("eat", "apple bread cheese egg soup"),
            Deed("cook", "soup potato rice fish"),
            Deed("buy", "bread cheese apple orange egg cake"),
            Deed("go", goal="restaurant"),
        ),
        (Deed("sleep"), Deed("work"), Deed("learn", "language")),
    ),
    "thirsty": (
        (Deed("drink", "water juice milk tea"), Deed("buy", "water juice milk")),
        (Deed("sleep"), Deed("work"), Deed("sing")),
    ),
    "happy": (
        (
            Deed("sing"),
            Deed("dance"),
            Deed("buy", "flower cake"),
            Deed("bake", "cake"),
            Deed("play_music", "piano guitar"),
        ),
        (),
    ),
    "sad": (
        (
            Deed("stay", place="home"),
            Deed("go", goal="home"),
            Deed("listen_to", "music"),
            Deed("write", "letter"),
        ),
        (Deed("sing"), Deed("dance"), Deed("eat", "cake"), Deed("come", goal="party")),
    ),
    "rain": (
        (
            Deed("stay", place="home"),
            Deed("take", "bus train"),
            Deed("watch_television"),
            Deed("read", "book"),
            Deed("watch", "movie"),
            Deed("close", "window"),
            Deed("go", goal="cinema"),
            Deed("need", "umbrella"),
        ),
        (
            Deed("go", goal="park"),
            Deed("go", goal="beach"),
            Deed("swim"),
            Deed("play_game", "football tennis"),
            Deed("wash", "car"),
            Deed("work", place="garden"),
        ),
    ),
    "cold": (
        (
            Deed("stay", place="home"),
            Deed("wear", "coat hat"),
            Deed("drink", "tea coffee"),
            Deed("cook", "soup"),
            Deed("close", "door window"),
        ),
        (
            Deed("swim"),
            Deed("go", goal="beach"),
            Deed("eat", place="garden"),
            Deed("sleep", place="garden"),
            Deed("open", "window"),
        ),
    ),
    "warm": (
        (
            Deed("swim"),
            Deed("go", goal="beach"),
            Deed("go", goal="park"),
            Deed("open", "window door"),
            Deed("drink", "water juice"),
            Deed("eat", place="garden"),
            Deed("sleep", place="garden"),
        ),
        (Deed("wear", "coat hat"), Deed("work"), Deed("drink", "coffee tea")),
    ),
    "no_time": (
        (Deed("hurry"), Deed("take", "bus train")),
        (
            Deed("cook"),
            Deed("read", "newspaper book"),
            Deed("clean", "kitchen room"),
            Deed("come", goal="party"),
            Deed("watch", "movie"),
            Deed("go_shopping"),
            Deed("write", "letter"),
            Deed("bake", "cake"),
            Deed("visit", "people"),
            Deed("call", "people"),
            Deed("help", "people"),
        ),
    ),
    "must_work": (
        (
            Deed("drink", "coffee"),
            Deed("stay", place="office"),
            Deed("drive", goal="office"),
            Deed("go", goal="office"),
            Deed("get_up"),
        ),
        (
            Deed("come", goal="party"),
            Deed("go", goal="cinema"),
            Deed("go", goal="beach"),
            Deed("visit", "people"),
            Deed("watch_television"),
            Deed("sleep"),
            Deed("come", goal="concert"),
            Deed("meet", "people"),
        ),
    ),
    "broken_car": (
        (Deed("take", "bus train"), Deed("stay", place="home"), Deed("come_back")),
        (
            Deed("drive", goal="office"),
            Deed("drive", goal="beach"),
            Deed("drive", goal="city"),
            Deed("drive", goal="vienna"),
            Deed("visit", "people"),
        ),
    ),
}


WEATHER = ("rain", "cold", "warm")
INEVITABLE = ("broken_car",)  # nothing is done although
MOODS = ("happy", "sad")  # one need not act on them

# What fills a day, one thing after the other.
ROUTINE = (
    Deed("get_up"),
    Deed("eat", "bread egg soup apple cheese"),
    Deed("drink", "drink"),
    Deed("read", "newspaper book"),
    Deed("go", goal="school"),
    Deed("go", goal="office"),
    Deed("go", goal="market"),
    Deed("go", goal="park"),
    Deed("work"),
    Deed("sleep"),
    Deed("clean", "kitchen room window shoe"),
    Deed("wash", "car dishes"),
    Deed("call", "people"),
    Deed("visit", "people"),
    Deed("cook", "cookable"),
    Deed("watch_television"),
    Deed("write", "letter"),
    Deed("go_shopping"),
    Deed("listen_to", "music"),
    Deed("bake", "cake bread"),
    Deed("play_game", "game"),
    Deed("drive", goal="office"),
    Deed("drive", goal="beach"),
    Deed("turn_off_light", "light lamp"),
    Deed("meet", "people"),
    Deed("repair", "bike lamp radio"),
    Deed("swim"),
    Deed("rest"),
)
