"""Romanian words for the concepts."""

from dataclasses import dataclass

from cress_svcd.data.everyday.tables import keyed, mapping


@dataclass(frozen=True)
class Noun:
    """``gender`` is m, f or n; neuters are masculine in the singular, feminine in the plural."""

    gender: str
    singular: str
    plural: str = ""
    definite: str = ""  # singular, where the rule of ``romanian.definite`` does not give it


@dataclass(frozen=True)
class Verb:
    """``present`` is ordered I, you, he, we, they; ``after`` follows the verb at once."""

    infinitive: str
    present: tuple[str, ...]
    subjunctive: str  # third person
    participle: str
    reflexive: str = ""  # "se" (accusative) or "își" (dative)
    preposition: str = ""
    after: str = ""


# concept, gender, singular, plural (and the definite singular)
NOUNS = {
    key: Noun(*columns[0].split())
    for key, columns in keyed("""
mother         f mamă mame
father         m tată tați tatăl
sister         f soră surori
brother        m frate frați
daughter       f fiică fiice
son            m fiu fii
grandmother    f bunică bunici
parents        m părinte părinți
friend         m prieten prieteni
neighbor       m vecin vecini
teacher        m profesor profesori
doctor         m medic medici
woman          f femeie femei
man            m bărbat bărbați
girl           f fată fete
boy            m băiat băieți
child          m copil copii
dog            m câine câini
cat            f pisică pisici
horse          m cal cai
bird           f pasăre păsări
apple          n măr mere
orange         f portocală portocale
egg            n ou ouă
potato         m cartof cartofi
cake           f prăjitură prăjituri
bread          f pâine
cheese         f brânză
fish           m pește
rice           n orez
soup           f supă
chocolate      f ciocolată
water          f apă
milk           n lapte
coffee         f cafea
tea            n ceai
juice          n suc
coat           n palton paltoane
shirt          f cămașă cămăși
dress          f rochie rochii
hat            f pălărie pălării
shoe           m pantof pantofi
book           f carte cărți
newspaper      n ziar ziare
letter         f scrisoare scrisori
key            f cheie chei
phone          n telefon telefoane
bag            f geantă genți
umbrella       f umbrelă umbrele
photo          f fotografie fotografii
cup            f ceașcă cești
glass          n pahar pahare
bottle         f sticlă sticle
plate          f farfurie farfurii
ball           f minge mingi
gift           n cadou cadouri
ticket         n bilet bilete
flower         f floare flori
box            f cutie cutii
lamp           f lampă lămpi
table          f masă mese
chair          n scaun scaune
bed            n pat paturi
computer       n calculator calculatoare
radio          n radio radiouri
piano          n pian piane
guitar         f chitară chitare
light          f lumină lumini
door           f ușă uși
window         f fereastră ferestre
car            f mașină mașini
bike           f bicicletă biciclete
bus            n autobuz autobuze
train          n tren trenuri
house          f casă case
room           f cameră camere
kitchen        f bucătărie bucătării
garden         f grădină grădini
hotel          n hotel hoteluri
restaurant     n restaurant restaurante
library        f bibliotecă biblioteci
school         f școală școli
station        f gară gări
market         f piață piețe
hospital       n spital spitale
cinema         n cinematograf cinematografe
park           n parc parcuri
movie          n film filme
concert        n concert concerte
party          f petrecere petreceri
course         n curs cursuri
birthday       f aniversare aniversări
song           n cântec cântece
music          f muzică
football       n fotbal
tennis         n tenis
english        f engleză
german         f germană
french         f franceză
time           n timp
page           f pagină pagini
euro           m euro euro
kilo           n kilogram kilograme
minute         n minut minute
day            f zi zile ziua
week           f săptămână săptămâni
year           m an ani
""").items()
}
JOBS = {"teacher": {"m": "profesor", "f": "profesoară"}, "doctor": {"m": "medic", "f": "medic"}}


def _verb(forms: str, *features: str) -> Verb:
    """``features``: se or își; "+preposition" of the object; else what follows the verb."""
    infinitive, *present, subjunctive, participle = forms.split()
    words = [word for feature in features for word in feature.split()]
    reflexive = next((word for word in words if word in ("se", "își")), "")
    preposition = next((word[1:] for word in words if word.startswith("+")), "")
    after = [word for word in words if word != reflexive and not word.startswith("+")]
    return Verb(
        infinitive, tuple(present), subjunctive, participle, reflexive, preposition, " ".join(after)
    )


VERBS = {
    key: _verb(*columns)
    for key, columns in keyed("""
buy               cumpăra cumpăr cumperi cumpără cumpărăm cumpără cumpere cumpărat
sell              vinde vând vinzi vinde vindem vând vândă vândut
eat               mânca mănânc mănânci mănâncă mâncăm mănâncă mănânce mâncat
drink             bea beau bei bea bem beau bea băut
read              citi citesc citești citește citim citesc citească citit
write             scrie scriu scrii scrie scriem scriu scrie scris
open              deschide deschid deschizi deschide deschidem deschid deschidă deschis
open_up           deschide deschid deschizi deschide deschidem deschid deschidă deschis  se
close             închide închid închizi închide închidem închid închidă închis
close_down        închide închid închizi închide închidem închid închidă închis  se
clean             curăța curăț cureți curăță curățăm curăță curețe curățat
wash              spăla spăl speli spală spălăm spală spele spălat
cook              găti gătesc gătești gătește gătim gătesc gătească gătit
bake              coace coc coci coace coacem coc coacă copt
look_for          căuta caut cauți caută căutăm caută caute căutat
find              găsi găsesc găsești găsește găsim găsesc găsească găsit
lose              pierde pierd pierzi pierde pierdem pierd piardă pierdut
need              avea am ai are avem au aibă avut  nevoie +de
have              avea am ai are avem au aibă avut
like              plăcea plac placi place plăcem plac placă plăcut
wear              purta port porți poartă purtăm poartă poarte purtat
repair            repara repar repari repară reparăm repară repare reparat
watch             uita uit uiți uită uităm uită uite uitat  se +la
listen_to         asculta ascult asculți ascultă ascultăm ascultă asculte ascultat
play_game         juca joc joci joacă jucăm joacă joace jucat
play_music        cânta cânt cânți cântă cântăm cântă cânte cântat  +la
sing              cânta cânt cânți cântă cântăm cântă cânte cântat
speak             vorbi vorbesc vorbești vorbește vorbim vorbesc vorbească vorbit
learn             învăța învăț înveți învață învățăm învață învețe învățat
take              lua iau iei ia luăm iau ia luat
turn_on_light     aprinde aprind aprinzi aprinde aprindem aprind aprindă aprins
turn_off_light    stinge sting stingi stinge stingem sting stingă stins
turn_on_machine   porni pornesc pornești pornește pornim pornesc pornească pornit
turn_off_machine  opri opresc oprești oprește oprim opresc oprească oprit
put_flat          pune pun pui pune punem pun pună pus
put_upright       pune pun pui pune punem pun pună pus
see               vedea văd vezi vede vedem văd vadă văzut
visit             vizita vizitez vizitezi vizitează vizităm vizitează viziteze vizitat
help              ajuta ajut ajuți ajută ajutăm ajută ajute ajutat
call              suna sun suni sună sunăm sună sune sunat
invite            invita invit inviți invită invităm invită invite invitat
know              cunoaște cunosc cunoști cunoaște cunoaștem cunosc cunoască cunoscut
meet  întâlni întâlnesc întâlnești întâlnește întâlnim întâlnesc întâlnească întâlnit  se +cu
remember          aminti amintesc amintești amintește amintim amintesc amintească amintit  își +de
wait_for          aștepta aștept aștepți așteaptă așteptăm așteaptă aștepte așteptat
give              da dau dai dă dăm dau dea dat
show              arăta arăt arăți arată arătăm arată arate arătat
sleep             dormi dorm dormi doarme dormim dorm doarmă dormit
work              lucra lucrez lucrezi lucrează lucrăm lucrează lucreze lucrat
dance             dansa dansez dansezi dansează dansăm dansează danseze dansat
swim              înota înot înoți înoată înotăm înoată înoate înotat
get_up            trezi trezesc trezești trezește trezim trezesc trezească trezit  se
go_shopping       merge merg mergi merge mergem merg meargă mers  la cumpărături
watch_television  uita uit uiți uită uităm uită uite uitat  se la televizor
come_back         întoarce întorc întorci întoarce întoarcem întorc întoarcă întors  se
hurry             grăbi grăbesc grăbești grăbește grăbim grăbesc grăbească grăbit  se
rest              odihni odihnesc odihnești odihnește odihnim odihnesc odihnească odihnit  se
sit_down          așeza așez așezi așază așezăm așază așeze așezat  se
feel              simți simt simți simte simțim simt simtă simțit  se
live              locui locuiesc locuiești locuiește locuim locuiesc locuiască locuit
stay              sta stau stai stă stăm stau stea stat
go                merge merg mergi merge mergem merg meargă mers
drive             merge merg mergi merge mergem merg meargă mers  cu mașina
travel  călători călătoresc călătorești călătorește călătorim călătoresc călătorească călătorit
come              veni vin vii vine venim vin vină venit
arrive            ajunge ajung ajungi ajunge ajungem ajung ajungă ajuns
leave             pleca plec pleci pleacă plecăm pleacă plece plecat
begin             începe încep începi începe începem încep înceapă început
cost              costa cost coști costă costăm costă coste costat
rain              ploua plouă plouă plouă plouă plouă plouă plouat
think             crede cred crezi crede credem cred creadă crezut
hope              spera sper speri speră sperăm speră spere sperat
say               spune spun spui spune spunem spun spună spus
know_fact         ști știu știi știe știm știu știe știut
be                fi sunt ești este suntem sunt fie fost
""").items()
}

# concept: masculine and feminine singular, masculine and feminine plural
ADJECTIVES = {
    key: tuple(columns[0].split())
    for key, columns in keyed("""
red             roșu roșie roșii roșii
blue            albastru albastră albaștri albastre
green           verde verde verzi verzi
white           alb albă albi albe
black           negru neagră negri negre
big             mare mare mari mari
small           mic mică mici mici
new             nou nouă noi noi
old             vechi veche vechi vechi
old_person      bătrân bătrână bătrâni bătrâne
young_person    tânăr tânără tineri tinere
tall            înalt înaltă înalți înalte
expensive       scump scumpă scumpi scumpe
cheap           ieftin ieftină ieftini ieftine
beautiful       frumos frumoasă frumoși frumoase
heavy           greu grea grei grele
dirty           murdar murdară murdari murdare
empty           gol goală goi goale
fresh           proaspăt proaspătă proaspeți proaspete
cold            rece rece reci reci
hot             fierbinte fierbinte fierbinți fierbinți
good            bun bună buni bune
interesting     interesant interesantă interesanți interesante
boring          plictisitor plictisitoare plictisitori plictisitoare
long            lung lungă lungi lungi
short           scurt scurtă scurți scurte
broken          stricat stricată stricați stricate
fast            rapid rapidă rapizi rapide
slow            lent lentă lenți lente
friendly        prietenos prietenoasă prietenoși prietenoase
tired           obosit obosită obosiți obosite
happy           fericit fericită fericiți fericite
sad             trist tristă triști triste
sick            bolnav bolnavă bolnavi bolnave
""").items()
}
# "Lui Peter îi este foame": what one is in English and has to oneself in Romanian.
SENSATIONS = {"hungry": "foame", "thirsty": "sete"}
WEATHER = {"cold": "frig", "warm": "cald"}
# "older" of people is "mai în vârstă"; the rest compare with their adjective.
COMPARATIVES = {"old_person": "în vârstă"}

MANNERS = mapping("""
well            bine
quickly         repede
slowly          încet
together        împreună
early           devreme
""")
FREQUENCIES = mapping("""
always          mereu
often           des
usually         de obicei
sometimes       uneori
never           niciodată
""")

# concept, where one is, where one goes
PLACES = {
    key: tuple(phrases)
    for key, phrases in keyed("""
home          acasă             acasă
school        la școală         la școală
office        la birou          la birou
market        la piață          la piață
station       la gară           la gară
park          în parc           în parc
beach         la plajă          la plajă
cinema        la cinema         la cinema
restaurant    la restaurant     la restaurant
library       la bibliotecă     la bibliotecă
hospital      la spital         la spital
hotel         la hotel          la hotel
city          în oraș           în oraș
village       în sat            în sat
kitchen       în bucătărie      în bucătărie
garden        în grădină        în grădină
party         la petrecere      la petrecere
concert       la concert        la concert
berlin        la Berlin         la Berlin
london        la Londra         la Londra
paris         la Paris          la Paris
vienna        la Viena          la Viena
""").items()
}
VEHICLES = mapping("""
train    cu trenul
bus      cu autobuzul
bike     cu bicicleta
car      cu mașina
""")
RELATIONS = mapping("""
on              pe
under           sub
next_to         lângă
in              în
behind          în spatele
in_front_of     în fața
""")
WITH_GENITIVE = ("behind", "in_front_of")

MOMENTS = mapping("""
now                 acum
today               azi
tomorrow            mâine
yesterday           ieri
this_morning        azi-dimineață
this_evening        diseară
yesterday_evening   aseară
last_week           săptămâna trecută
next_week           săptămâna viitoare
every_day           în fiecare zi
every_morning       în fiecare dimineață
every_evening       în fiecare seară
every_week          în fiecare săptămână
in_the_morning      dimineața
in_the_evening      seara
in_summer           vara
in_winter           iarna
""")
DAYS = mapping("""
monday       luni
tuesday      marți
wednesday    miercuri
thursday     joi
friday       vineri
saturday     sâmbătă
sunday       duminică
""")
DAY_PARTS = mapping("""
morning      dimineața
afternoon    după-amiaza
evening      seara
""")
MONTHS = mapping("""
january      ianuarie
february     februarie
march        martie
april        aprilie
may          mai
june         iunie
july         iulie
august       august
september    septembrie
october      octombrie
november     noiembrie
december     decembrie
""")

ONES = [
    "zero",
    "unu",
    "doi",
    "trei",
    "patru",
    "cinci",
    "șase",
    "șapte",
    "opt",
    "nouă",
    "zece",
    "unsprezece",
    "doisprezece",
    "treisprezece",
    "paisprezece",
    "cincisprezece",
    "șaisprezece",
    "șaptesprezece",
    "optsprezece",
    "nouăsprezece",
]
FEMININE_ONES = {1: "una", 2: "două", 12: "douăsprezece"}
TENS = [
    "-",
    "-",
    "douăzeci",
    "treizeci",
    "patruzeci",
    "cincizeci",
    "șaizeci",
    "șaptezeci",
    "optzeci",
    "nouăzeci",
]
