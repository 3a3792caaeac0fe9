"""English words for the concepts."""

from dataclasses import dataclass

from cress_svcd.data.everyday.tables import keyed, mapping


@dataclass(frozen=True)
class Verb:
    base: str
    third: str
    gerund: str
    past: str
    after: str = ""  # "up" of "get up", "for" of "look for"


# concept, plural where the concept's name is not the singular or adding "s" is wrong
IRREGULAR_PLURALS = mapping("""
child       children
potato      potatoes
dress       dresses
glass       glasses
box         boxes
bus         buses
""")
PLURAL_ONLY = ("parents",)
NOUN_NAMES = mapping("""
english     English
german      German
french      French
""")

VERBS = {
    key: Verb(*forms[0].split(), after=forms[1] if len(forms) > 1 else "")
    for key, forms in keyed("""
buy               buy buys buying bought
sell              sell sells selling sold
eat               eat eats eating ate
drink             drink drinks drinking drank
read              read reads reading -
write             write writes writing wrote
open              open opens opening opened
open_up           open opens opening opened
close             close closes closing closed
close_down        close closes closing closed
clean             clean cleans cleaning cleaned
wash              wash washes washing washed
cook              cook cooks cooking cooked
bake              bake bakes baking baked
look_for          look looks looking looked              for
find              find finds finding found
lose              lose loses losing lost
need              need needs - needed
have              have has having had
like              like likes - liked
wear              wear wears wearing wore
repair            repair repairs repairing repaired
watch             watch watches watching watched
listen_to         listen listens listening listened      to
play_game         play plays playing played
play_music        play plays playing played              the
sing              sing sings singing sang
speak             speak speaks speaking spoke
learn             learn learns learning learned
take              take takes taking took
turn_on_light     turn turns turning turned              on
turn_off_light    turn turns turning turned              off
turn_on_machine   turn turns turning turned              on
turn_off_machine  turn turns turning turned              off
put_flat          put puts putting -
put_upright       put puts putting -
see               see sees - saw
visit             visit visits visiting visited
help              help helps helping helped
call              call calls calling called
invite            invite invites inviting invited
know              know knows - knew
meet              meet meets meeting met
remember          remember remembers - remembered
wait_for          wait waits waiting waited              for
give              give gives giving gave
show              show shows showing showed
sleep             sleep sleeps sleeping slept
work              work works working worked
dance             dance dances dancing danced
swim              swim swims swimming swam
get_up            get gets getting got                   up
go_shopping       go goes going went                     shopping
watch_television  watch watches watching watched         television
come_back         come comes coming came                 back
hurry             hurry hurries hurrying hurried
rest              rest rests resting rested
sit_down          sit sits sitting sat                   down
feel              feel feels feeling felt
live              live lives living lived
stay              stay stays staying stayed
go                go goes going went
drive             drive drives driving drove
travel            travel travels traveling traveled
come              come comes coming came
arrive            arrive arrives arriving arrived
leave             leave leaves leaving left
begin             begin begins beginning began
cost              cost costs - cost
rain              rain rains raining rained
think             think thinks - thought
hope              hope hopes hoping hoped
say               say says - said
know_fact         know knows - knew
be                be is being was
""").items()
}

ADJECTIVES = mapping("""
young_person    young
old_person      old
""")
COMPARATIVES = mapping("""
fast            faster
expensive       more expensive
cheap           cheaper
big             bigger
small           smaller
old_person      older
young_person    younger
tall            taller
""")
MANNERS = mapping("""
well            well
quickly         quickly
slowly          slowly
together        together
early           early
""")

# concept, where one is, where one goes
PLACES = {
    key: tuple(phrases)
    for key, phrases in keyed("""
home          at home             home
school        at school           to school
office        at the office       to the office
market        at the market       to the market
station       at the station      to the station
park          in the park         to the park
beach         at the beach        to the beach
cinema        at the cinema       to the cinema
restaurant    at the restaurant   to the restaurant
library       in the library      to the library
hospital      in the hospital     to the hospital
hotel         at the hotel        to the hotel
city          in the city         to the city
village       in the village      to the village
kitchen       in the kitchen      to the kitchen
garden        in the garden       to the garden
party         at the party        to the party
concert       at the concert      to the concert
berlin        in Berlin           to Berlin
london        in London           to London
paris         in Paris            to Paris
vienna        in Vienna           to Vienna
""").items()
}
VEHICLES = mapping("""
train    by train
bus      by bus
bike     by bike
car      by car
""")
RELATIONS = mapping("""
on              on
under           under
next_to         next to
in              in
behind          behind
in_front_of     in front of
""")

MOMENTS = mapping("""
now                 now
today               today
tomorrow            tomorrow
yesterday           yesterday
this_morning        this morning
this_evening        this evening
yesterday_evening   yesterday evening
last_week           last week
next_week           next week
every_day           every day
every_morning       every morning
every_evening       every evening
every_week          every week
in_the_morning      in the morning
in_the_evening      in the evening
in_summer           in summer
in_winter           in winter
""")

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = [
    "-",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
]
