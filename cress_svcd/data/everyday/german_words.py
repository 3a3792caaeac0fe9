"""German words for the concepts."""

from dataclasses import dataclass

from cress_svcd.data.everyday.tables import keyed, mapping


@dataclass(frozen=True)
class Noun:
    gender: str  # m, f, n
    singular: str
    plural: str
    weak: bool = False  # "-(e)n" outside the nominative: den Jungen


@dataclass(frozen=True)
class Verb:
    """``prefix`` is separable; ``case`` and ``preposition`` are what the object takes."""

    prefix: str
    infinitive: str  # without the prefix
    second: str
    third: str
    participle: str  # without the prefix
    auxiliary: str = "have"
    reflexive: bool = False
    case: str = "acc"
    preposition: str = ""

    @property
    def first(self) -> str:
        stem = self.infinitive.removesuffix("n").removesuffix("e")
        return _MODAL_LIKE.get(self.infinitive, f"{stem}e")


_MODAL_LIKE = {"wissen": "weiß", "mögen": "mag"}  # no "-e" in the first person


def _noun(article: str, singular: str, plural: str = "", weak: str = "") -> Noun:
    gender = {"der": "m", "die": "f", "das": "n"}[article]
    return Noun(gender, singular, plural, weak == "weak")


# concept, article, singular, plural (and "weak")
NOUNS = {
    key: _noun(*columns[0].split())
    for key, columns in keyed("""
mother         die Mutter
father         der Vater
sister         die Schwester Schwestern
brother        der Bruder Brüder
daughter       die Tochter
son            der Sohn
grandmother    die Großmutter
parents        die Eltern Eltern
friend         der Freund Freunde
neighbor       der Nachbar Nachbarn weak
teacher        der Lehrer
doctor         der Arzt
woman          die Frau
man            der Mann
girl           das Mädchen
boy            der Junge Jungen weak
child          das Kind Kinder
dog            der Hund Hunde
cat            die Katze Katzen
horse          das Pferd Pferde
bird           der Vogel Vögel
apple          der Apfel Äpfel
orange         die Orange Orangen
egg            das Ei Eier
potato         die Kartoffel Kartoffeln
cake           der Kuchen Kuchen
bread          das Brot
cheese         der Käse
fish           der Fisch
rice           der Reis
soup           die Suppe
chocolate      die Schokolade
water          das Wasser
milk           die Milch
coffee         der Kaffee
tea            der Tee
juice          der Saft
coat           der Mantel
shirt          das Hemd Hemden
dress          das Kleid
hat            der Hut
shoe           der Schuh Schuhe
book           das Buch Bücher
newspaper      die Zeitung
letter         der Brief Briefe
key            der Schlüssel Schlüssel
phone          das Telefon
bag            die Tasche Taschen
umbrella       der Regenschirm
photo          das Foto Fotos
cup            die Tasse Tassen
glass          das Glas Gläser
bottle         die Flasche Flaschen
plate          der Teller Teller
ball           der Ball
gift           das Geschenk Geschenke
ticket         das Ticket Tickets
flower         die Blume Blumen
box            die Kiste Kisten
lamp           die Lampe Lampen
table          der Tisch
chair          der Stuhl Stühle
bed            das Bett
computer       der Computer
radio          das Radio
piano          das Klavier
guitar         die Gitarre
light          das Licht
door           die Tür
window         das Fenster Fenster
car            das Auto Autos
bike           das Fahrrad Fahrräder
bus            der Bus
train          der Zug
house          das Haus Häuser
room           das Zimmer Zimmer
kitchen        die Küche
garden         der Garten
hotel          das Hotel Hotels
restaurant     das Restaurant Restaurants
library        die Bibliothek
school         die Schule
station        der Bahnhof
market         der Markt
hospital       das Krankenhaus
cinema         das Kino
park           der Park
movie          der Film Filme
concert        das Konzert
party          die Party
course         der Kurs
birthday       der Geburtstag
song           das Lied Lieder
music          die Musik
football       der Fußball
tennis         das Tennis
english        das Englisch
german         das Deutsch
french         das Französisch
time           die Zeit
page           die Seite Seiten
euro           der Euro Euro
kilo           das Kilo Kilo
minute         die Minute Minuten
day            der Tag Tage
week           die Woche Wochen
year           das Jahr Jahre
""").items()
}
# A bare mass noun with the verb makes one idea: "nicht Klavier spielen", not "kein Klavier".
FUSED = ("football", "tennis", "piano", "guitar")

JOBS = {"teacher": {"m": "Lehrer", "f": "Lehrerin"}, "doctor": {"m": "Arzt", "f": "Ärztin"}}


def _verb(forms: str, *features: str) -> Verb:
    """``forms``: prefix|infinitive, second and third person, participle.

    ``features``: sein, sich, and the case or "preposition+case" of the object.
    """
    infinitive, second, third, participle = forms.split()
    prefix, _, infinitive = infinitive.rpartition("|")
    words = [word for feature in features for word in feature.split()]
    government = [word for word in words if word not in ("sein", "sich")]
    preposition, _, case = (government[0] if government else "acc").rpartition("+")
    return Verb(
        prefix,
        infinitive,
        second,
        third,
        participle,
        "be" if "sein" in words else "have",
        "sich" in words,
        case,
        preposition,
    )


VERBS = {
    key: _verb(*columns)
    for key, columns in keyed("""
buy               kaufen kaufst kauft gekauft
sell              verkaufen verkaufst verkauft verkauft
eat               essen isst isst gegessen
drink             trinken trinkst trinkt getrunken
read              lesen liest liest gelesen
write             schreiben schreibst schreibt geschrieben
open              öffnen öffnest öffnet geöffnet
open_up           öffnen öffnest öffnet geöffnet
close             schließen schließt schließt geschlossen
close_down        schließen schließt schließt geschlossen
clean             putzen putzt putzt geputzt
wash              waschen wäschst wäscht gewaschen
cook              kochen kochst kocht gekocht
bake              backen backst backt gebacken
look_for          suchen suchst sucht gesucht
find              finden findest findet gefunden
lose              verlieren verlierst verliert verloren
need              brauchen brauchst braucht gebraucht
have              haben hast hat gehabt
like              mögen magst mag gemocht
wear              tragen trägst trägt getragen
repair            reparieren reparierst repariert repariert
watch             sehen siehst sieht gesehen
listen_to         hören hörst hört gehört
play_game         spielen spielst spielt gespielt
play_music        spielen spielst spielt gespielt
sing              singen singst singt gesungen
speak             sprechen sprichst spricht gesprochen
learn             lernen lernst lernt gelernt
take              nehmen nimmst nimmt genommen
turn_on_light     ein|schalten schaltest schaltet geschaltet
turn_off_light    aus|schalten schaltest schaltet geschaltet
turn_on_machine   ein|schalten schaltest schaltet geschaltet
turn_off_machine  aus|schalten schaltest schaltet geschaltet
put_flat          legen legst legt gelegt
put_upright       stellen stellst stellt gestellt
see               sehen siehst sieht gesehen
visit             besuchen besuchst besucht besucht
help              helfen hilfst hilft geholfen                  dat
call              an|rufen rufst ruft gerufen
invite            ein|laden lädst lädt geladen
know              kennen kennst kennt gekannt
meet              treffen triffst trifft getroffen
remember          erinnern erinnerst erinnert erinnert          sich an+acc
wait_for          warten wartest wartet gewartet                auf+acc
give              geben gibst gibt gegeben
show              zeigen zeigst zeigt gezeigt
sleep             schlafen schläfst schläft geschlafen
work              arbeiten arbeitest arbeitet gearbeitet
dance             tanzen tanzt tanzt getanzt
swim              schwimmen schwimmst schwimmt geschwommen      sein
get_up            auf|stehen stehst steht gestanden             sein
go_shopping       ein|kaufen kaufst kauft gekauft
watch_television  fern|sehen siehst sieht gesehen
come_back         zurück|kommen kommst kommt gekommen           sein
hurry             beeilen beeilst beeilt beeilt                 sich
rest              aus|ruhen ruhst ruht geruht                   sich
sit_down          setzen setzt setzt gesetzt                    sich
feel              fühlen fühlst fühlt gefühlt                   sich
live              wohnen wohnst wohnt gewohnt
stay              bleiben bleibst bleibt geblieben              sein
go                gehen gehst geht gegangen                     sein
drive             fahren fährst fährt gefahren                  sein
travel            reisen reist reist gereist                    sein
come              kommen kommst kommt gekommen                  sein
arrive            an|kommen kommst kommt gekommen               sein
leave             ab|fahren fährst fährt gefahren               sein
begin             an|fangen fängst fängt gefangen
cost              kosten kostest kostet gekostet
rain              regnen regnest regnet geregnet
think             glauben glaubst glaubt geglaubt
hope              hoffen hoffst hofft gehofft
say               sagen sagst sagt gesagt
know_fact         wissen weißt weiß gewusst
be                sein bist ist gewesen                         sein
""").items()
}

# Requests to a friend; separable verbs without their prefix.
IMPERATIVES = mapping("""
buy               kauf
open              öffne
close             schließ
clean             putz
wash              wasch
turn_on_light     schalte
turn_off_light    schalte
turn_on_machine   schalte
turn_off_machine  schalte
put_flat          leg
put_upright       stell
help              hilf
call              ruf
wait_for          warte
give              gib
show              zeig
sit_down          setz
come              komm
""")

# concept, stem before endings, predicate where it differs
ADJECTIVES = {
    key: (columns[0], columns[-1])
    for key, columns in keyed("""
red             rot
blue            blau
green           grün
white           weiß
black           schwarz
big             groß
small           klein
new             neu
old             alt
old_person      alt
young_person    jung
tall            groß
expensive       teur       teuer
cheap           billig
beautiful       schön
heavy           schwer
dirty           schmutzig
empty           leer
fresh           frisch
cold            kalt
hot             heiß
warm            warm
good            gut
interesting     interessant
boring          langweilig
long            lang
short           kurz
broken          kaputt
fast            schnell
slow            langsam
friendly        freundlich
tired           müde
happy           glücklich
sad             traurig
sick            krank
hungry          hungrig
thirsty         durstig
""").items()
}
COMPARATIVES = mapping("""
fast            schneller
expensive       teurer
cheap           billiger
big             größer
small           kleiner
old_person      älter
young_person    jünger
tall            größer
""")
MANNERS = mapping("""
well            gut
quickly         schnell
slowly          langsam
together        zusammen
early           früh
""")
FREQUENCIES = mapping("""
always          immer
often           oft
usually         normalerweise
sometimes       manchmal
never           nie
""")

# concept, where one is, where one goes
PLACES = {
    key: tuple(phrases)
    for key, phrases in keyed("""
home          zu Hause             nach Hause
school        in der Schule        zur Schule
office        im Büro              ins Büro
market        auf dem Markt        zum Markt
station       am Bahnhof           zum Bahnhof
park          im Park              in den Park
beach         am Strand            zum Strand
cinema        im Kino              ins Kino
restaurant    im Restaurant        ins Restaurant
library       in der Bibliothek    in die Bibliothek
hospital      im Krankenhaus       ins Krankenhaus
hotel         im Hotel             ins Hotel
city          in der Stadt         in die Stadt
village       im Dorf              ins Dorf
kitchen       in der Küche         in die Küche
garden        im Garten            in den Garten
party         auf der Party        zur Party
concert       im Konzert           ins Konzert
berlin        in Berlin            nach Berlin
london        in London            nach London
paris         in Paris             nach Paris
vienna        in Wien              nach Wien
""").items()
}
VEHICLES = mapping("""
train    mit dem Zug
bus      mit dem Bus
bike     mit dem Fahrrad
car      mit dem Auto
""")
RELATIONS = mapping("""
on              auf
under           unter
next_to         neben
in              in
behind          hinter
in_front_of     vor
""")

MOMENTS = mapping("""
now                 jetzt
today               heute
tomorrow            morgen
yesterday           gestern
this_morning        heute Morgen
this_evening        heute Abend
yesterday_evening   gestern Abend
last_week           letzte Woche
next_week           nächste Woche
every_day           jeden Tag
every_morning       jeden Morgen
every_evening       jeden Abend
every_week          jede Woche
in_the_morning      am Morgen
in_the_evening      am Abend
in_summer           im Sommer
in_winter           im Winter
""")
DAYS = mapping("""
monday       Montag
tuesday      Dienstag
wednesday    Mittwoch
thursday     Donnerstag
friday       Freitag
saturday     Samstag
sunday       Sonntag
""")
DAY_PARTS = mapping("""
morning      morgen
afternoon    nachmittag
evening      abend
""")
MONTHS = mapping("""
january      Januar
february     Februar
march        März
april        April
may          Mai
june         Juni
july         Juli
august       August
september    September
october      Oktober
november     November
december     Dezember
""")

ONES = [
    "null",
    "eins",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
]
TENS = [
    "-",
    "-",
    "zwanzig",
    "dreißig",
    "vierzig",
    "fünfzig",
    "sechzig",
    "siebzig",
    "achtzig",
    "neunzig",
]
ORDINALS = [
    "-",
    "ersten",
    "zweiten",
    "dritten",
    "vierten",
    "fünften",
    "sechsten",
    "siebten",
    "achten",
    "neunten",
    "zehnten",
]
