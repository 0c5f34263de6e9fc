"""A parallel corpus that is generated, and tokenizers trained on it: examples and tests need no download.

An English-German grammar draws a clause once, as facts (who, does what, to whom, when, negated or not), and two
renderers put it into words. So both sides always say the same thing, while word order, agreement and case differ as
they do between the two languages: German has verb second and verb final clauses, separable verbs, three cases and two
adjective declensions; English has do-support, a/an and irregular pasts. A student must learn all of these.

Scope: present, simple past (German Perfekt), present perfect, future, modals; statements, questions, subordinate,
relative and infinitive clauses. "You" is always the informal singular ("du").
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import MarianTokenizer, T5Tokenizer

Item = TypeVar("Item")
Pair = tuple[str, str]

# ---------------------------------------------------------------------------------------------------------------------
# Lexicon
# ---------------------------------------------------------------------------------------------------------------------

# English singular, plural ("-": none) | German singular, plural | gender | adjective group | tags.
# A fourth German word is the singular of a weak noun in the accusative and dative.
_NOUNS = """
man men|Mann Männer|m|person|person
woman women|Frau Frauen|f|person|person
child children|Kind Kinder|n|young|person cared
girl girls|Mädchen Mädchen|n|young|person cared
boy boys|Junge Jungen Jungen|m|young|person cared
teacher teachers|Lehrer Lehrer|m|person|person own
doctor doctors|Arzt Ärzte|m|person|person own
nurse nurses|Krankenschwester Krankenschwestern|f|person|person
neighbour neighbours|Nachbar Nachbarn Nachbarn|m|person|person own
student students|Student Studenten Studenten|m|person|person
pupil pupils|Schüler Schüler|m|young|person
friend friends|Freund Freunde|m|person|person own
colleague colleagues|Kollege Kollegen Kollegen|m|person|person own
customer customers|Kunde Kunden Kunden|m|person|person own
guest guests|Gast Gäste|m|person|person own
boss bosses|Chef Chefs|m|person|person own
waitress waitresses|Kellnerin Kellnerinnen|f|person|person
actress actresses|Schauspielerin Schauspielerinnen|f|person|person
singer singers|Sänger Sänger|m|person|person
painter painters|Maler Maler|m|person|person
baker bakers|Bäcker Bäcker|m|person|person
gardener gardeners|Gärtner Gärtner|m|person|person
engineer engineers|Ingenieur Ingenieure|m|person|person
policeman policemen|Polizist Polizisten Polizisten|m|person|person
tourist tourists|Tourist Touristen Touristen|m|person|person
saleswoman saleswomen|Verkäuferin Verkäuferinnen|f|person|person
mother -|Mutter Mütter|f|kin|kin
father -|Vater Väter|m|kin|kin
grandmother -|Großmutter Großmütter|f|kin|kin
grandfather -|Großvater Großväter|m|kin|kin
sister sisters|Schwester Schwestern|f|sibling|kin
brother brothers|Bruder Brüder|m|sibling|kin
daughter daughters|Tochter Töchter|f|sibling|kin cared
son sons|Sohn Söhne|m|sibling|kin cared
aunt aunts|Tante Tanten|f|kin|kin
uncle uncles|Onkel Onkel|m|kin|kin
book books|Buch Bücher|n|text|readable goods gift small
letter letters|Brief Briefe|m|text|readable writable sent awaited small
newspaper newspapers|Zeitung Zeitungen|f|text|readable goods small
magazine magazines|Zeitschrift Zeitschriften|f|text|readable goods small
story stories|Geschichte Geschichten|f|text|readable writable told
novel novels|Roman Romane|m|text|readable writable goods gift
postcard postcards|Postkarte Postkarten|f|text|readable writable sent small
poem poems|Gedicht Gedichte|n|text|readable writable told
report reports|Bericht Berichte|m|text|readable writable sent awaited
apple apples|Apfel Äpfel|m|food|food
orange oranges|Orange Orangen|f|food|food
pear pears|Birne Birnen|f|food|food
egg eggs|Ei Eier|n|food|food cooked
tomato tomatoes|Tomate Tomaten|f|food|food
potato potatoes|Kartoffel Kartoffeln|f|food|food cooked
sausage sausages|Wurst Würste|f|food|food
cake cakes|Kuchen Kuchen|m|dish|food baked served brought
pizza pizzas|Pizza Pizzas|f|dish|food baked served
soup soups|Suppe Suppen|f|dish|food cooked served
jacket jackets|Jacke Jacken|f|clothes|wear goods lent
coat coats|Mantel Mäntel|m|clothes|wear goods lent
hat hats|Hut Hüte|m|clothes|wear goods
shirt shirts|Hemd Hemden|n|clothes|wear goods
dress dresses|Kleid Kleider|n|clothes|wear goods
skirt skirts|Rock Röcke|m|clothes|wear goods
scarf scarves|Schal Schals|m|clothes|wear goods gift
car cars|Auto Autos|n|machine|vehicle goods lent rented
bicycle bicycles|Fahrrad Fahrräder|n|machine|vehicle goods lent rented
motorcycle motorcycles|Motorrad Motorräder|n|machine|vehicle goods
boat boats|Boot Boote|n|machine|vehicle goods rented
lorry lorries|Lastwagen Lastwagen|m|machine|vehicle rented
bus buses|Bus Busse|m|transit|transit awaited
train trains|Zug Züge|m|transit|transit awaited
table tables|Tisch Tische|m|thing|goods furniture
chair chairs|Stuhl Stühle|m|thing|goods furniture
lamp lamps|Lampe Lampen|f|thing|goods device repaired
bed beds|Bett Betten|n|thing|goods furniture
sofa sofas|Sofa Sofas|n|thing|goods furniture
mirror mirrors|Spiegel Spiegel|m|thing|goods cleaned
clock clocks|Uhr Uhren|f|thing|goods repaired gift
cupboard cupboards|Schrank Schränke|m|thing|goods furniture tidied
picture pictures|Bild Bilder|n|art|goods gift told_of
camera cameras|Kamera Kameras|f|device|goods repaired lent
computer computers|Computer Computer|m|device|goods device repaired
radio radios|Radio Radios|n|device|goods device repaired
suitcase suitcases|Koffer Koffer|m|box|goods carried opened lent
bag bags|Tasche Taschen|f|box|goods carried opened lost
box boxes|Kiste Kisten|f|box|carried opened
umbrella umbrellas|Regenschirm Regenschirme|m|small|goods lost lent small
key keys|Schlüssel Schlüssel|m|small|lost small
ticket tickets|Fahrkarte Fahrkarten|f|plain|lost small
present presents|Geschenk Geschenke|n|art|sent brought
ball balls|Ball Bälle|m|small|lost gift
glass glasses|Glas Gläser|n|small|vessel
cup cups|Tasse Tassen|f|small|vessel
bottle bottles|Flasche Flaschen|f|small|vessel opened
vase vases|Vase Vasen|f|art|vessel goods gift
knife knives|Messer Messer|n|small|small
flower flowers|Blume Blumen|f|flower|brought gift drawn
door doors|Tür Türen|f|part|opened repaired
window windows|Fenster Fenster|n|part|opened cleaned repaired
guitar guitars|Gitarre Gitarren|f|thing|goods lent
dog dogs|Hund Hunde|m|animal|animal
cat cats|Katze Katzen|f|animal|animal
horse horses|Pferd Pferde|n|animal|animal
bird birds|Vogel Vögel|m|animal|animal
cow cows|Kuh Kühe|f|animal|animal
mouse mice|Maus Mäuse|f|animal|animal
house houses|Haus Häuser|n|building|building rented
flat flats|Wohnung Wohnungen|f|building|building rented tidied cleaned
room rooms|Zimmer Zimmer|n|building|rented tidied
tree trees|Baum Bäume|m|tree|drawn
party parties|Feier Feiern|f|event|event
concert concerts|Konzert Konzerte|n|event|event
trip trips|Reise Reisen|f|event|event
wedding weddings|Hochzeit Hochzeiten|f|event|event
film films|Film Filme|m|text|event seen
coffee -|Kaffee -|m|drink|drink
tea -|Tee -|m|drink|drink
juice -|Saft -|m|juice|drink
water -|Wasser -|n|juice|drink
milk -|Milch -|f|drink|drink
beer -|Bier -|n|juice|drink
"""

# English | German predicative [| German stem before an ending, where it differs].
_ADJECTIVES = """
young|jung
old|alt
friendly|freundlich
famous|berühmt
tall|groß
clever|klug
honest|ehrlich
polite|höflich
tired|müde|müd
happy|glücklich
sad|traurig
nice|nett
ill|krank
strong|stark
curious|neugierig
hungry|hungrig
thirsty|durstig
angry|wütend
content|zufrieden
new|neu
small|klein
big|groß
expensive|teuer|teur
cheap|billig
beautiful|schön
heavy|schwer
red|rot
blue|blau
green|grün
black|schwarz
white|weiß
brown|braun
yellow|gelb
dark|dunkel|dunkl
useful|nützlich
ugly|hässlich
dirty|schmutzig
clean|sauber
broken|kaputt
modern|modern
warm|warm
cold|kalt
hot|heiß
fresh|frisch
delicious|lecker
interesting|interessant
boring|langweilig
exciting|spannend
long|lang
short|kurz
important|wichtig
strange|seltsam
lazy|faul
fast|schnell
slow|langsam
empty|leer
open|offen
loud|laut
"""

# What may stand before a noun of the group (attributive).
_ATTRIBUTIVE = {
    "person": "young old friendly famous tall clever honest polite tired nice strong curious angry",
    "young": "small friendly clever polite tired nice curious happy sad lazy",
    "kin": "",
    "sibling": "clever lazy curious",
    "text": "long short interesting boring exciting old new sad important strange",
    "food": "fresh big small cheap delicious",
    "dish": "delicious hot cold small big",
    "clothes": "new old red blue green black white brown expensive cheap beautiful warm long dark dirty ugly",
    "machine": "new old red blue green black white expensive cheap fast small big broken modern dirty",
    "transit": "fast slow modern old",
    "thing": "new old small big expensive cheap beautiful heavy red black white brown modern ugly useful",
    "art": "beautiful expensive small big ugly strange old",
    "device": "new old expensive cheap broken modern small useful",
    "box": "heavy empty small big old new black brown red",
    "small": "small big old new black yellow blue useful",
    "plain": "expensive cheap",
    "flower": "red white yellow blue beautiful fresh",
    "part": "old small big white green dirty",
    "animal": "small big old young black white brown beautiful lazy strong",
    "building": "old new small big expensive cheap beautiful modern dark empty",
    "tree": "old tall small beautiful",
    "event": "long short important boring exciting beautiful",
    "drink": "cold hot warm fresh",
    "juice": "cold fresh",
    "place": "small big beautiful",
}
# What may be said of it (predicative): moods of people, states of things.
_PREDICATIVE = {
    "person": "tired happy sad ill hungry thirsty angry content friendly polite honest curious",
    "text": "long short interesting boring exciting important",
    "clothes": "new old expensive cheap beautiful warm dirty clean",
    "machine": "new old expensive cheap fast broken dirty modern slow",
    "thing": "new old expensive cheap beautiful heavy modern ugly useful",
    "art": "beautiful expensive old ugly",
    "device": "new old expensive cheap broken modern useful",
    "box": "heavy empty old new",
    "building": "old new small big expensive cheap beautiful dark empty loud",
    "animal": "small big old young hungry tired beautiful lazy",
    "dish": "delicious hot cold",
}
# English comparative | German comparative, for the adjectives of `_PREDICATIVE` that are compared.
_COMPARATIVES = """
old|older|älter
new|newer|neuer
expensive|more expensive|teurer
cheap|cheaper|billiger
beautiful|more beautiful|schöner
heavy|heavier|schwerer
modern|more modern|moderner
useful|more useful|nützlicher
interesting|more interesting|interessanter
boring|more boring|langweiliger
exciting|more exciting|spannender
long|longer|länger
short|shorter|kürzer
important|more important|wichtiger
fast|faster|schneller
small|smaller|kleiner
big|bigger|größer
warm|warmer|wärmer
"""

# English: base, past, participle ("+x": a particle that follows a pronoun: "pick him up") | German infinitive, a dot
# after a separable prefix | second and third person where the vowel changes | participle | auxiliary (h haben, s sein)
# | frame | tags of the object or place | options.
_VERBS = """
read read read|lesen|liest liest|gelesen|h|acc|readable|at=quiet
write wrote written|schreiben||geschrieben|h|acc|writable|at=quiet
buy bought bought|kaufen||gekauft|h|acc|goods food|
sell sold sold|verkaufen||verkauft|h|acc|goods vehicle building|
repair repaired repaired|reparieren||repariert|h|acc|vehicle repaired|
find found found|finden||gefunden|h|acc|lost small animal|done
look_for looked_for looked_for|suchen||gesucht|h|acc|lost small animal kin|
open opened opened|öffnen||geöffnet|h|acc|opened|
close closed closed|zu.machen||zugemacht|h|acc|opened|
wash washed washed|waschen|wäschst wäscht|gewaschen|h|acc|vehicle wear vessel|
carry carried carried|tragen|trägst trägt|getragen|h|acc|carried furniture|
wear wore worn|tragen|trägst trägt|getragen|h|acc|wear|
put+on put+on put+on|an.ziehen||angezogen|h|acc|wear|
forget forgot forgotten|vergessen|vergisst vergisst|vergessen|h|acc|lost|state
lose lost lost|verlieren||verloren|h|acc|lost|done
eat ate eaten|essen|isst isst|gegessen|h|acc|food|at=meal
drink drank drunk|trinken||getrunken|h|acc|drink|at=meal
order ordered ordered|bestellen||bestellt|h|acc|served drink|
cook cooked cooked|kochen||gekocht|h|acc|cooked|
bake baked baked|backen||gebacken|h|acc|baked|
draw drew drawn|zeichnen||gezeichnet|h|acc|animal drawn building|
feed fed fed|füttern||gefüttert|h|acc|animal|
rent rented rented|mieten||gemietet|h|acc|rented|
clean cleaned cleaned|putzen||geputzt|h|acc|cleaned|
tidy+up tidied+up tidied+up|auf.räumen||aufgeräumt|h|acc|tidied|
turn+on turned+on turned+on|ein.schalten||eingeschaltet|h|acc|device|
turn+off turned+off turned+off|aus.schalten||ausgeschaltet|h|acc|device|
bring+along brought+along brought+along|mit.bringen||mitgebracht|h|acc|brought gift|
take took taken|nehmen|nimmst nimmt|genommen|h|acc|transit|
miss missed missed|verpassen||verpasst|h|acc|transit|done
need needed needed|brauchen||gebraucht|h|acc|goods small|state
have had had|haben|hast hat|gehabt|h|acc|animal vehicle goods|state possess
see saw seen|sehen|siehst sieht|gesehen|h|acc|person kin animal|state pronoun at=public
love loved loved|lieben||geliebt|h|acc|kin animal|state lasting pronoun
know knew known|kennen||gekannt|h|acc|person kin|state lasting pronoun
visit visited visited|besuchen||besucht|h|acc|person kin|pronoun
call called called|an.rufen||angerufen|h|acc|person kin|pronoun
invite invited invited|ein.laden|lädst lädt|eingeladen|h|acc|person kin|pronoun
pick+up picked+up picked+up|ab.holen||abgeholt|h|acc|person kin|pronoun
meet met met|treffen|triffst trifft|getroffen|h|acc|person kin|pronoun at=public
ask asked asked|fragen||gefragt|h|acc|person kin|pronoun
greet greeted greeted|begrüßen||begrüßt|h|acc|person kin|pronoun
wake+up woke+up woken+up|wecken||geweckt|h|acc|kin cared|pronoun
understand understood understood|verstehen||verstanden|h|acc|person readable|state lasting pronoun
help helped helped|helfen|hilfst hilft|geholfen|h|dat|person kin|at=work
thank thanked thanked|danken||gedankt|h|dat|person kin|
answer answered answered|antworten||geantwortet|h|dat|person kin|
congratulate congratulated congratulated|gratulieren||gratuliert|h|dat|person kin|
trust trusted trusted|vertrauen||vertraut|h|dat|person kin|state lasting
believe believed believed|glauben||geglaubt|h|dat|person kin|state lasting
follow followed followed|folgen||gefolgt|s|dat|person animal|
listen_to listened_to listened_to|zu.hören||zugehört|h|dat|person kin|
give gave given|geben|gibst gibt|gegeben|h|ditr|gift lent sent|
show showed shown|zeigen||gezeigt|h|ditr|goods sent building|
lend lent lent|leihen||geliehen|h|ditr|lent readable|
bring brought brought|bringen||gebracht|h|ditr|gift small served|
send sent sent|schicken||geschickt|h|ditr|sent|
tell told told|erzählen||erzählt|h|ditr|told|
offer offered offered|an.bieten||angeboten|h|ditr|served|
read read read|vor.lesen|liest liest|vorgelesen|h|ditr|told readable|
wait_for waited_for waited_for|warten||gewartet|h|auf acc|awaited kin person|
talk_to talked_to talked_to|sprechen|sprichst spricht|gesprochen|h|mit dat|person kin|
talk_about talked_about talked_about|sprechen|sprichst spricht|gesprochen|h|über acc|event readable|
think_of thought_of thought_of|denken||gedacht|h|an acc|person kin event|
dream_of dreamt_of dreamt_of|träumen||geträumt|h|von dat|animal building event|
argue_with argued_with argued_with|streiten||gestritten|h|mit dat|person kin|
work_for worked_for worked_for|arbeiten||gearbeitet|h|für acc|person kin|
play_with played_with played_with|spielen||gespielt|h|mit dat|animal cared|
laugh_about laughed_about laughed_about|lachen||gelacht|h|über acc|readable event|
look_after looked_after looked_after|auf.passen||aufgepasst|h|auf acc|cared animal|
remember remembered remembered|erinnern||erinnert|h|an acc|person event|refl state lasting
look_forward_to looked_forward_to looked_forward_to|freuen||gefreut|h|auf acc|event|refl
complain_about complained_about complained_about|beschweren||beschwert|h|über acc|served event|refl
work worked worked|arbeiten||gearbeitet|h|loc|work|
live lived lived|wohnen||gewohnt|h|loc|town|state lasting
wait waited waited|warten||gewartet|h|loc|public|
sit sat sat|sitzen||gesessen|h|loc|quiet meal|
sleep slept slept|schlafen|schläfst schläft|geschlafen|h|loc|bed|
play played played|spielen||gespielt|h|loc|open|
study studied studied|lernen||gelernt|h|loc|quiet|
stay stayed stayed|bleiben||geblieben|s|loc|bed town|
dance danced danced|tanzen||getanzt|h|loc|open meal|
sing sang sung|singen||gesungen|h|loc|open church|
shop shopped shopped|ein.kaufen||eingekauft|h|loc|shop|
eat ate eaten|essen|isst isst|gegessen|h|loc|meal|
arrive arrived arrived|an.kommen||angekommen|s|loc|town station|
go went gone|gehen||gegangen|s|dir|near|
drive drove driven|fahren|fährst fährt|gefahren|s|dir|far town|
run ran run|laufen|läufst läuft|gelaufen|s|dir|near|
travel travelled travelled|reisen||gereist|s|dir|town|
fly flew flown|fliegen||geflogen|s|dir|town|
move moved moved|ziehen||gezogen|s|dir|town|
come_back came_back come_back|zurück.kommen||zurückgekommen|s|from|town|
put put put|legen||gelegt|h|put|small wear|
put put put|stellen||gestellt|h|put|vessel|
get_up got_up got_up|auf.stehen||aufgestanden|s|none||
fall_asleep fell_asleep fallen_asleep|ein.schlafen|schläfst schläft|eingeschlafen|s|none||
watch_television watched_television watched_television|fern.sehen|siehst sieht|ferngesehen|h|none||
laugh laughed laughed|lachen||gelacht|h|none||
cry cried cried|weinen||geweint|h|none||
smoke smoked smoked|rauchen||geraucht|h|none||
"""
_DOUBLING = {"run", "sit", "put", "get", "shop", "travel", "forget"}  # a doubled consonant before -ing

# English place | German noun | gender | English in, to | German in (dative), to | case after German "to" | tags
_PLACES = """
garden|Garten|m|in|into|in|in|acc|open near quiet meal work
kitchen|Küche|f|in|into|in|in|acc|meal near work
school|Schule|f|at|to|in|in|acc|work near public quiet
station|Bahnhof|m|at|to|an|zu|dat|public near station far
park|Park|m|in|to|in|in|acc|open near public quiet
cinema|Kino|n|at|to|in|in|acc|public near
theatre|Theater|n|at|to|in|in|acc|public near work
library|Bibliothek|f|in|to|in|in|acc|quiet near public work
hospital|Krankenhaus|n|in|to|in|in|acc|work near bed public far
office|Büro|n|in|to|in|in|acc|work near quiet
market|Markt|m|at|to|auf|auf|acc|shop near public
beach|Strand|m|on|to|an|an|acc|open near quiet public far
lake|See|m|at|to|an|an|acc|open near quiet far
museum|Museum|n|in|to|in|in|acc|public near work
restaurant|Restaurant|n|in|to|in|in|acc|meal near public work
airport|Flughafen|m|at|to|an|zu|dat|public near station work far
supermarket|Supermarkt|m|in|to|in|in|acc|shop near public work far
church|Kirche|f|in|to|in|in|acc|church near
village|Dorf|n|in|into|in|in|acc|town near far
city|Stadt|f|in|into|in|in|acc|shop near work town far
forest|Wald|m|in|into|in|in|acc|open near quiet
bakery|Bäckerei|f|in|to|in|zu|dat|work near shop
hotel|Hotel|n|in|to|in|zu|dat|bed near public work meal far
"""
_TOWNS = (
    "Berlin Berlin|Hamburg Hamburg|Munich München|Vienna Wien|Cologne Köln|Paris Paris|Rome Rom|Zurich Zürich|"
    "Leipzig Leipzig|London London|Bremen Bremen|Prague Prag"
)

# English preposition | German two-way preposition | English and German noun | gender: where things lie, are put, stand
_SPOTS = """
on|auf|table|Tisch|m
on|auf|chair|Stuhl|m
on|auf|bed|Bett|n
on|auf|sofa|Sofa|n
under|unter|table|Tisch|m
under|unter|bed|Bett|n
next to|neben|lamp|Lampe|f
next to|neben|window|Fenster|n
next to|neben|door|Tür|f
next to|neben|sofa|Sofa|n
behind|hinter|door|Tür|f
behind|hinter|sofa|Sofa|n
in front of|vor|mirror|Spiegel|m
in front of|vor|window|Fenster|n
"""
_OUTDOOR_SPOTS = """
in front of|vor|house|Haus|n
behind|hinter|house|Haus|n
next to|neben|church|Kirche|f
behind|hinter|school|Schule|f
in front of|vor|hotel|Hotel|n
next to|neben|station|Bahnhof|m
under|unter|bridge|Brücke|f
"""

# English | German | may be negated
_TIMES = {
    "past": """yesterday|gestern|1
last week|letzte Woche|1
last year|letztes Jahr|1
two days ago|vor zwei Tagen|1
an hour ago|vor einer Stunde|0
three weeks ago|vor drei Wochen|0
this morning|heute Morgen|1
last night|gestern Abend|1
on Saturday|am Samstag|1
on Monday|am Montag|1""",
    "future": """tomorrow|morgen|1
next week|nächste Woche|1
next month|nächsten Monat|1
next year|nächstes Jahr|1
this evening|heute Abend|1
on Sunday|am Sonntag|1
on Friday|am Freitag|1
soon|bald|0
in two days|in zwei Tagen|0
tomorrow morning|morgen früh|1
today|heute|1""",
    "habit": """every day|jeden Tag|0
every evening|jeden Abend|0
every morning|jeden Morgen|0
every week|jede Woche|0
on Sundays|sonntags|1
in summer|im Sommer|1
in winter|im Winter|1""",
}
_OFTEN = "often|oft|0\nalways|immer|0\nsometimes|manchmal|0\nusually|meistens|0\nrarely|selten|0"
_CLOCK = "six sechs|seven sieben|eight acht|nine neun|ten zehn|eleven elf"

_NAMES = "Anna f|Maria f|Julia f|Laura f|Sophie f|Emma f|Peter m|Paul m|Thomas m|Felix m|Jonas m|Martin m"
_NUMBERS = "two zwei|three drei|four vier|five fünf|six sechs|seven sieben|eight acht|ten zehn"

# ---------------------------------------------------------------------------------------------------------------------
# German and English morphology
# ---------------------------------------------------------------------------------------------------------------------

_CASES = ("nom", "acc", "dat")
# Endings by gender: masculine, feminine, neuter, plural.
_DEFINITE = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem den"}
_DIESER = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"}
_EIN = {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en"}
_WEAK = {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en"}
_MIXED = {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en"}
_CONTRACTED = {
    "in dem": "im", "in das": "ins", "an dem": "am", "zu dem": "zum", "zu der": "zur", "von dem": "vom",
}  # fmt: skip

_DEFINITE_KINDS = ("the", "this", "own", "pronoun", "name")  # of noun phrases
_FORMS = ("1s", "2s", "3s", "1p", "3p")
_PRESENT = {
    "sein": "bin bist ist sind sind", "haben": "habe hast hat haben haben", "werden": "werde wirst wird werden werden",
    "können": "kann kannst kann können können", "müssen": "muss musst muss müssen müssen",
    "wollen": "will willst will wollen wollen", "dürfen": "darf darfst darf dürfen dürfen",
    "sollte": "sollte solltest sollte sollten sollten", "wissen": "weiß weißt weiß wissen wissen",
}  # fmt: skip
_PRETERITE = {
    "sein": "war warst war waren waren", "haben": "hatte hattest hatte hatten hatten",
    "können": "konnte konntest konnte konnten konnten", "müssen": "musste musstest musste mussten mussten",
    "wollen": "wollte wolltest wollte wollten wollten", "dürfen": "durfte durftest durfte durften durften",
}  # fmt: skip
_BE = {"1s": ("am", "was"), "2s": ("are", "were"), "3s": ("is", "was"), "1p": ("are", "were"), "3p": ("are", "were")}
_SOUNDS_CONSONANT, _SOUNDS_VOWEL = ("useful",), ("honest", "hour")


def _by_gender(endings: dict[str, str], case: str, gender: str) -> str:
    return endings[case].split()["mfnp".index(gender)].replace("-", "")


def _an(word: str) -> str:
    """The English indefinite article before `word`, by its sound."""
    vowel = word[0] in "aeiou" and word not in _SOUNDS_CONSONANT or word in _SOUNDS_VOWEL
    return "an" if vowel else "a"


def _third_person(base: str) -> str:
    if base == "have":
        return "has"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def _gerund(base: str) -> str:
    if base in _DOUBLING:
        return base + base[-1] + "ing"
    if base.endswith("ie"):
        return base[:-2] + "ying"
    return base[:-1] + "ing" if base.endswith("e") and not base.endswith("ee") else base + "ing"


def _conjugate(infinitive: str, form: str, strong: tuple[str, ...] = ()) -> str:
    """The German present of an infinitive without prefix; `strong` holds (du, er) where the vowel changes."""
    if infinitive in _PRESENT:
        return _PRESENT[infinitive].split()[_FORMS.index(form)]
    if form in ("1p", "3p"):
        return infinitive
    if strong and form != "1s":
        return strong[0] if form == "2s" else strong[1]
    stem = infinitive[:-1] if infinitive.endswith("ern") else infinitive[:-2]
    link = "e" if stem.endswith(("t", "d", "chn", "ffn", "gn")) else ""
    if form == "2s":
        return stem + (link + "st" if not stem.endswith(("s", "ß", "z")) else "t")
    return stem + ("e" if form == "1s" else link + "t")


@dataclass(frozen=True)
class _Noun:
    en: str
    en_plural: str
    de: str
    de_plural: str
    gender: str
    group: str
    tags: tuple[str, ...] = ()
    weak: str = ""

    def german(self, case: str, plural: bool) -> str:
        if plural:
            return self.de_plural + ("n" if case == "dat" and self.de_plural[-1] not in "ns" else "")
        return self.weak if self.weak and case != "nom" else self.de


@dataclass(frozen=True)
class _Adjective:
    en: str
    de: str
    stem: str


@dataclass(frozen=True)
class _Verb:
    """`particle` is English and movable ("pick him up"), `tail` English and fixed ("look for him")."""

    en: str
    past: str
    participle: str
    particle: str
    tail: str
    prefix: str
    infinitive: str
    strong: tuple[str, ...]
    de_participle: str
    auxiliary: str
    frame: str
    tags: tuple[str, ...]
    options: tuple[str, ...]

    def option(self, key: str) -> str:
        return next((o.partition("=")[2] for o in self.options if o.startswith(key + "=")), "")


@dataclass(frozen=True)
class _Time:
    """An adverbial. `middle` ones stand before the English main verb; `late` ones after a definite German object."""

    en: str
    de: str
    negatable: bool = True
    middle: bool = False
    late: bool = False


@dataclass(frozen=True)
class _Phrase:
    """A noun phrase or pronoun in both languages. `form` is person and number, `anaphor` the pronoun to resume it."""

    en: str
    en_object: str
    de: dict[str, str]
    form: str
    kind: str
    anaphor: str = ""
    key: str = ""
    relative: tuple[str, str] = ("", "")  # a relative clause, English and German


@dataclass(frozen=True)
class _Clause:
    """What is said; `_english` and the `_german_*` functions say it."""

    subject: _Phrase
    verb: _Verb
    tense: str = "pres"
    modal: str = ""
    negated: bool = False
    accusative: _Phrase | None = None
    dative: _Phrase | None = None
    places: tuple[tuple[str, str], ...] = ()  # complements that follow "nicht", English and German
    time: _Time | None = None
    relative: tuple[str, str] = field(default=("", ""))  # on the last object; German sets it after the verb


# ---------------------------------------------------------------------------------------------------------------------
# Reading the tables
# ---------------------------------------------------------------------------------------------------------------------


def _rows(table: str) -> list[list[str]]:
    return [line.split("|") for line in table.strip().splitlines()]


def _pairs_of(line: str) -> list[tuple[str, str]]:
    return [tuple(entry.split()) for entry in line.split("|")]


def _read_noun(row: list[str]) -> _Noun:
    (en, en_plural), german, gender, group, tags = row[0].split(), row[1].split(), *row[2:]
    return _Noun(en, en_plural, german[0], german[1], gender, group, tuple(tags.split()), "".join(german[2:]))


def _read_verb(row: list[str]) -> _Verb:
    english, german, strong, de_participle, auxiliary, frame, tags, options = row
    base, past, participle = (part.replace("+", "_").split("_")[0] for part in english.split())
    written = english.split()[0]
    particle = written.partition("+")[2]
    tail = written.partition("_")[2].replace("_", " ")
    prefix, _, infinitive = german.rpartition(".")
    auxiliary = "sein" if auxiliary == "s" else "haben"
    lists = (tuple(text.split()) for text in (tags, options))
    return _Verb(
        base, past, participle, particle, tail, prefix, infinitive, tuple(strong.split()), de_participle, auxiliary,
        frame, *lists,
    )  # fmt: skip


def _read_times(table: str, middle: bool = False) -> list[_Time]:
    return [_Time(en, de, flag == "1", middle) for en, de, flag in _rows(table)]


NOUNS = [_read_noun(row) for row in _rows(_NOUNS)]
ADJECTIVES = {row[0]: _Adjective(row[0], row[1], row[-1]) for row in _rows(_ADJECTIVES)}
VERBS = [_read_verb(row) for row in _rows(_VERBS)]
TIMES = {name: _read_times(table) for name, table in _TIMES.items()}
OFTEN = _read_times(_OFTEN, middle=True)
CLOCK = [_Time(f"at {en} o'clock", f"um {de} Uhr") for en, de in _pairs_of(_CLOCK)]
NOW = [_Time("now", "jetzt"), _Time("", "gerade", negatable=False), _Time("at the moment", "im Moment")]
ALREADY = _Time("already", "schon", negatable=False, middle=True, late=True)
COPULA = _Verb("be", "", "been", "", "", "", "sein", (), "gewesen", "sein", "pred", (), ("state",))

_PRONOUNS = {
    "I": ("me", "ich mich mir mich mein", "1s", "my"),
    "you": ("you", "du dich dir dich dein", "2s", "your"),
    "he": ("him", "er ihn ihm sich sein", "3s", "his"),
    "she": ("her", "sie sie ihr sich ihr", "3s", "her"),
    "we": ("us", "wir uns uns uns unser", "1p", "our"),
    "they": ("them", "sie sie ihnen sich ihr", "3p", "their"),
}
_IT = {"m": "er ihn ihm", "f": "sie sie ihr", "n": "es es ihm"}
_MODALS = ("können", "müssen", "wollen", "dürfen", "sollte")


def _pronoun(word: str) -> _Phrase:
    en_object, german, form, _ = _PRONOUNS[word]
    return _Phrase(word, en_object, dict(zip(_CASES, german.split(), strict=False)), form, "pronoun", word, word)


def _it(gender: str) -> _Phrase:
    """English "it" for a thing: its German pronoun follows the gender of the noun it resumes."""
    return _Phrase("it", "it", dict(zip(_CASES, _IT[gender].split(), strict=True)), "3s", "pronoun", "it", "it")


def _name(word: str, gender: str) -> _Phrase:
    return _Phrase(word, word, dict.fromkeys(_CASES, word), "3s", "name", "he" if gender == "m" else "she", word)


# ---------------------------------------------------------------------------------------------------------------------
# Noun phrases
# ---------------------------------------------------------------------------------------------------------------------


def _determiner(kind: str, owner: str, case: str, gender: str) -> tuple[str, dict[str, str]]:
    """The German determiner and the adjective endings it asks for."""
    if kind == "the":
        return _by_gender(_DEFINITE, case, gender), _WEAK
    if kind == "this":
        return "dies" + _by_gender(_DIESER, case, gender), _WEAK
    if kind in ("a", "no", "own"):
        stem = {"a": "ein", "no": "kein"}.get(kind) or _PRONOUNS[owner][1].split()[4]
        return stem + _by_gender(_EIN, case, gender), _MIXED
    return owner, _DIESER  # a number or nothing: the adjective itself carries the strong ending


def _english_determiner(kind: str, owner: str, plural: bool, next_word: str, mass: bool) -> str:
    if kind == "own":
        return _PRONOUNS[owner][3]
    if kind == "this":
        return "these" if plural else "this"
    if kind == "no" and (plural or mass):
        return "any"
    if kind in ("a", "no"):
        return _an(next_word)
    return {"the": "the", "bare": ""}.get(kind, kind)


def _noun_phrase(
    noun: _Noun, kind: str, plural: bool = False, adjective: _Adjective | None = None, owner: str = ""
) -> _Phrase:
    """`kind`: the, this, a, no, own (with `owner`), bare, or an English number (with `owner` the German one)."""
    gender = "p" if plural else noun.gender
    en_words = [adjective.en] if adjective else []
    en_words.append(noun.en_plural if plural else noun.en)
    determiner = _english_determiner(kind, owner, plural, en_words[0], "drink" in noun.tags)
    german = {}
    for case in _CASES:
        article, endings = _determiner(kind, owner, case, gender)
        described = adjective.stem + _by_gender(endings, case, gender) if adjective else ""
        german[case] = " ".join(filter(None, (article, described, noun.german(case, plural))))
    english = " ".join(filter(None, [determiner, *en_words]))
    anaphor = "they" if plural else {"m": "he", "f": "she", "n": ""}[noun.gender]
    if not {"person", "kin"} & set(noun.tags):
        anaphor = "" if plural else "it"
    return _Phrase(english, english, german, "3p" if plural else "3s", kind, anaphor, noun.en)


def _contract(text: str) -> str:
    for pair, short in _CONTRACTED.items():
        if text.startswith(pair + " "):
            return short + text[len(pair) :]
    return text


# ---------------------------------------------------------------------------------------------------------------------
# English clauses
# ---------------------------------------------------------------------------------------------------------------------


def _english_modal(modal: str, form: str, past: bool, need: bool) -> tuple[str, str]:
    """(auxiliary, words before the infinitive): "can"/"", ""/"has to", "does"/"have to", "is"/"allowed to"."""
    if modal == "können":
        return ("could" if past else "can"), ""
    if modal == "sollte":
        return "should", ""
    if modal == "dürfen":
        return _BE[form][past], "allowed to"
    base, past_form = {"müssen": ("have", "had"), "wollen": ("want", "wanted")}[modal]
    auxiliary, main = _english_simple(base, past_form, form, past, need)
    return auxiliary, main + " to"


def _english_simple(base: str, past_form: str, form: str, past: bool, need: bool) -> tuple[str, str]:
    if need:
        return ("did" if past else "does" if form == "3s" else "do"), base
    if past:
        return "", past_form
    return "", _third_person(base) if form == "3s" else base


def _english_be(clause: _Clause, form: str) -> tuple[str, str]:
    return ("will", "be") if clause.tense == "fut" else (_BE[form][clause.tense == "past"], "")


def _english_verb(clause: _Clause, need: bool) -> tuple[str, str]:
    """(auxiliary, main verb); `need` asks for an auxiliary, as negation and questions do."""
    verb, form, past = clause.verb, clause.subject.form, clause.tense == "past"
    if clause.modal:
        auxiliary, main = _english_modal(clause.modal, form, past, need)
        return auxiliary, f"{main} {verb.en}".strip()
    if verb.frame == "pred":
        return _english_be(clause, form)
    if clause.tense == "prog":
        return _BE[form][0], _gerund(verb.en)
    if clause.tense == "perf":
        return ("has" if form == "3s" else "have"), verb.participle
    if clause.tense == "fut":
        return "will", verb.en
    return _english_simple(verb.en, verb.past, form, past, need)


def _english_objects(clause: _Clause) -> list[str]:
    verb, accusative = clause.verb, clause.accusative
    words = [verb.tail]
    if clause.dative:
        words.append(clause.dative.en_object)
    if accusative:
        pair = [accusative.en_object, verb.particle]
        words += pair if accusative.kind == "pronoun" else pair[::-1]
    return words + [clause.relative[0]] + [place[0] for place in clause.places]


def _english(clause: _Clause, question: bool = False, with_time: bool = True, with_subject: bool = True) -> str:
    """The English clause, subject first (or the auxiliary, in a question); the time at its end unless told not to."""
    auxiliary, main = _english_verb(clause, question or clause.negated)
    negation = "not" if clause.negated else ""
    time = clause.time
    middle = time.en if time and time.middle else ""
    end = time.en if time and with_time and not time.middle else ""
    subject = " ".join(filter(None, (clause.subject.en, clause.subject.relative[0]))) if with_subject else ""
    start = [auxiliary, subject] if question else [subject, auxiliary]
    text = " ".join(filter(None, [*start, negation, middle, main, *_english_objects(clause), end]))
    return text.replace("can not", "cannot")


def _english_infinitive(clause: _Clause) -> str:
    return " ".join(filter(None, ["to", clause.verb.en, *_english_objects(clause)]))


# ---------------------------------------------------------------------------------------------------------------------
# German clauses
# ---------------------------------------------------------------------------------------------------------------------


def _german_verb(clause: _Clause) -> tuple[str, list[str]]:
    """(finite verb, what closes the clause): ("ruft", ["an"]), ("hat", ["angerufen"]), ("kann", ["anrufen"])."""
    verb, form, past = clause.verb, clause.subject.form, clause.tense == "past"
    infinitive = verb.prefix + verb.infinitive
    if clause.modal:
        table = _PRETERITE if past else _PRESENT
        return table[clause.modal].split()[_FORMS.index(form)], [infinitive]
    if past and infinitive in ("sein", "haben"):
        return _PRETERITE[infinitive].split()[_FORMS.index(form)], []
    if clause.tense in ("past", "perf"):
        return _conjugate(verb.auxiliary, form), [verb.de_participle]
    if clause.tense == "fut":
        return _conjugate("werden", form), [infinitive]
    return _conjugate(verb.infinitive, form, verb.strong), [verb.prefix] if verb.prefix else []


def _reflexive(clause: _Clause) -> str:
    if "refl" not in clause.verb.options:
        return ""
    return {"1s": "mich", "2s": "dich", "1p": "uns"}.get(clause.subject.form, "sich")


def _middle_field(clause: _Clause) -> list[str]:
    """What stands between the two halves of the German verb, but the subject and the reflexive pronoun.

    Pronouns come first; the time before full objects, but after definite ones where "nicht" or "schon" follows;
    the place after definite objects, before indefinite ones.
    """
    objects = [("dat", clause.dative), ("acc", clause.accusative)]
    pronouns = [phrase.de[case] for case, phrase in objects if phrase and phrase.kind == "pronoun"]
    nouns = [(phrase.de[case], phrase.kind) for case, phrase in objects if phrase and phrase.kind != "pronoun"]
    definite = all(kind in _DEFINITE_KINDS for _, kind in nouns)
    time = clause.time.de if clause.time else ""
    late = definite and (clause.negated or bool(clause.time and clause.time.late))
    negation = "nicht" if clause.negated and not (clause.accusative and clause.accusative.kind == "no") else ""
    words = [text for text, _ in nouns]
    places = [place[1] for place in clause.places]
    if late:
        return [*pronouns, *words, time, negation, *places]
    if not definite and clause.verb.frame == "acc":  # "im Hotel Saft trinken": the new thing comes last
        return [*pronouns, time, *places, *words]
    return [*pronouns, time, *words, negation, *places]


def _german_subject(clause: _Clause) -> str:
    relative = clause.subject.relative[1]
    return clause.subject.de["nom"] + (f", {relative}," if relative else "")


def _after_verb(clause: _Clause) -> list[str]:
    """A relative clause on an object follows the closing verb: "Sie ruft den Mann an, der ..."."""
    return [", " + clause.relative[1]] if clause.relative[1] else []


def _german_inverted(clause: _Clause) -> str:
    """Verb first: questions, and main clauses after a fronted adverbial or subordinate clause."""
    finite, closing = _german_verb(clause)
    start = [_german_subject(clause), _reflexive(clause)]
    # An unstressed "sich" goes before a full noun phrase, never before a pronoun.
    if clause.subject.kind != "pronoun":
        start.reverse()
    return _join([finite, *start, *_middle_field(clause), *closing, *_after_verb(clause)])


def _german_main(clause: _Clause, front: str = "") -> str:
    """Verb second, after the subject or after what is fronted."""
    if front:
        return _join([front, _german_inverted(clause)])
    finite, closing = _german_verb(clause)
    middle = [_reflexive(clause), *_middle_field(clause)]
    return _join([_german_subject(clause), finite, *middle, *closing, *_after_verb(clause)])


def _german_final(clause: _Clause, with_subject: bool = True) -> str:
    """Verb last; a separable prefix joins its verb again."""
    finite, closing = _german_verb(clause)
    subject = _german_subject(clause) if with_subject else ""
    ending = [closing[0] + finite] if closing == [clause.verb.prefix] else [*closing, finite]
    return _join([subject, _reflexive(clause), *_middle_field(clause), *ending, *_after_verb(clause)])


def _german_infinitive(clause: _Clause) -> str:
    verb = clause.verb
    infinitive = f"{verb.prefix}zu{verb.infinitive}" if verb.prefix else f"zu {verb.infinitive}"
    return _join([_reflexive(clause), *_middle_field(clause), infinitive, *_after_verb(clause)])


def _join(words: Iterable[str]) -> str:
    return " ".join(word for word in words if word)


def _sentence(text: str, mark: str = ".") -> str:
    """Capital, final mark, and commas that meet another mark merged."""
    for wrong, right in ((" ,", ","), (",,", ",")):
        text = text.replace(wrong, right)
    return text[0].upper() + text[1:].rstrip(",") + mark


# ---------------------------------------------------------------------------------------------------------------------
# Drawing what is said
# ---------------------------------------------------------------------------------------------------------------------


class _Grammar:
    """Draws sentence pairs. Every choice uses `Random.random`, whose stream Python guarantees for a seed."""

    def __init__(self, seed: int):
        self._random = Random(seed)
        self._tagged: dict[tuple[str, ...], list[_Noun]] = {}
        self._places = [row[:8] + [row[8].split()] for row in _rows(_PLACES)]
        self._used: set[str] = set()
        self.by_frame: dict[str, list[_Verb]] = {}
        for verb in VERBS:
            self.by_frame.setdefault(verb.frame.split()[-1] if " " not in verb.frame else "prep", []).append(verb)

    def pick(self, items: list[Item] | tuple[Item, ...]) -> Item:
        return items[int(self._random.random() * len(items))]

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def weighted(self, table: dict[Item, float]) -> Item:
        mark = self._random.random() * sum(table.values())
        for key, weight in table.items():
            mark -= weight
            if mark < 0:
                return key
        return key

    def sentence(self) -> Pair:
        self._used.clear()
        return self.weighted(_TEMPLATES)(self)

    # ---- noun phrases

    def unused(self, items: list[Item], word: Callable[[Item], str]) -> Item:
        """An item whose word is new in this sentence, where a few tries find one: "Anna calls Anna" reads badly."""
        for _ in range(8):
            item = self.pick(items)
            if word(item) not in self._used:
                break
        self._used.add(word(item))
        return item

    def noun(self, tags: tuple[str, ...]) -> _Noun:
        if tags not in self._tagged:
            self._tagged[tags] = [noun for noun in NOUNS if set(tags) & set(noun.tags)]
        return self.unused(self._tagged[tags], lambda noun: noun.en)

    def name(self) -> tuple[str, str]:
        return self.unused(_pairs_of(_NAMES), lambda name: name[0])

    def adjective(self, group: str, probability: float = 0.35) -> _Adjective | None:
        words = _ATTRIBUTIVE[group].split()
        return ADJECTIVES[self.pick(words)] if words and self.chance(probability) else None

    def owner(self, subject: _Phrase | None) -> str:
        """Whose it is: mostly the subject's, else a first or second person's (a stray "his" would be puzzling)."""
        if subject is not None and subject.anaphor in _PRONOUNS and self.chance(0.75):
            return subject.anaphor
        return self.pick(("I", "you", "we"))

    def thing(self, noun: _Noun, subject: _Phrase | None = None, kinds: dict[str, float] | None = None) -> _Phrase:
        if "drink" in noun.tags:
            return _noun_phrase(noun, "bare", False, self.adjective(noun.group))
        kind = self.weighted(kinds or {"the": 40, "a": 28, "own": 16, "this": 7, "number": 6, "bare": 5})
        plural = kind in ("number", "bare") or kind not in ("a",) and self.chance(0.2)
        adjective = self.adjective(noun.group)
        if kind == "number":
            number, owner = self.pick(_pairs_of(_NUMBERS))
            return _noun_phrase(noun, number, True, adjective, owner)
        return _noun_phrase(noun, kind, plural, adjective, self.owner(subject) if kind == "own" else "")

    def person(self, noun: _Noun, subject: _Phrase | None = None) -> _Phrase:
        if "kin" in noun.tags:
            plural = noun.en_plural != "-" and self.chance(0.15)
            return _noun_phrase(noun, "own", plural, self.adjective(noun.group, 0.15), self.owner(subject))
        kinds = {"the": 60, "a": 16, "this": 10, "own": 40 if "own" in noun.tags else 0}
        return self.thing(noun, subject, kinds)

    def someone(self, subject: _Phrase | None = None, tags: tuple[str, ...] = ("person", "kin")) -> _Phrase:
        """A person as object."""
        if "person" in tags and self.chance(0.12):
            return _name(*self.name())
        return self.object(tags, subject)

    def object(self, tags: tuple[str, ...], subject: _Phrase | None, kinds: dict[str, float] | None = None) -> _Phrase:
        """A noun phrase with one of the tags."""
        noun = self.noun(tags)
        if {"person", "kin"} & set(noun.tags):
            return self.person(noun, subject)
        return self.thing(noun, subject, kinds)

    def object_pronoun(self, subject: _Phrase) -> _Phrase:
        """Never of the subject's own person: that would ask for a reflexive."""
        first, second = subject.form[0] == "1", subject.form[0] == "2"
        banned = ("I", "we") if first else ("you",) if second else ()
        return _pronoun(self.pick([word for word in _PRONOUNS if word not in banned]))

    def subject(self) -> _Phrase:
        kind = self.weighted({"pronoun": 32, "name": 15, "both": 6, "noun": 50})
        if kind == "pronoun":
            return _pronoun(self.pick(tuple(_PRONOUNS)))
        if kind == "name":
            return _name(*self.name())
        if kind == "both":
            first, second = self.name()[0], self.name()[0]
            german = dict.fromkeys(_CASES, f"{first} und {second}")
            return _Phrase(f"{first} and {second}", "", german, "3p", "name", "they", "both")
        return self.person(self.noun(("person", "kin")))

    def resumed(self, subject: _Phrase) -> _Phrase:
        """The subject of a second clause: often the first one again, as a pronoun."""
        if subject.anaphor in _PRONOUNS and self.chance(0.5):
            return _pronoun(subject.anaphor)
        other = self.subject()
        # Another third person pronoun would be taken for the first subject.
        return _pronoun(self.pick(("I", "you", "we"))) if other.en in ("he", "she", "they") else other

    # ---- places and times

    def town(self, english: str, german: str) -> tuple[str, str]:
        en, de = self.pick(_pairs_of(_TOWNS))
        return f"{english} {en}", f"{german} {de}"

    def place(self, tags: tuple[str, ...], direction: bool) -> tuple[str, str]:
        """A place with its preposition: where (dative), or whereto (accusative, or dative after "zu")."""
        if {"near", "bed", "meal"} & set(tags) and self.chance(0.12):
            return ("home", "nach Hause") if direction else ("at home", "zu Hause")
        if "town" in tags and self.chance(0.7):
            return self.town("to", "nach") if direction else self.town("in", "in")
        choices = [row for row in self._places if set(tags) & set(row[8])]
        en, de, gender, en_in, en_to, de_in, de_to, case, _ = self.pick(choices)
        noun = _Noun(en, "-", de, "-", gender, "place")
        adjective = self.adjective("place", 0.2)
        kind = "a" if not direction and adjective and self.chance(0.4) else "the"
        phrase = _noun_phrase(noun, kind, False, adjective)
        german = phrase.de[case if direction else "dat"]
        return f"{en_to if direction else en_in} {phrase.en}", _contract(f"{de_to if direction else de_in} {german}")

    def spot(self, table: str, case: str, without: str = "") -> tuple[str, str]:
        """Beside, under, behind something: dative where it is, accusative where it goes."""
        en, de, noun_en, noun_de, gender = self.pick([row for row in _rows(table) if row[2] != without])
        phrase = _noun_phrase(_Noun(noun_en, "-", noun_de, "-", gender, "place"), "the", False, None)
        return f"{en} {phrase.en}", f"{de} {phrase.de[case]}"

    def tense(self, verb: _Verb) -> str:
        table = {"pres": 34, "past": 32, "fut": 16, "prog": 12, "perf": 5}
        if "state" in verb.options:
            table.update(prog=0, perf=0)
        if "lasting" in verb.options:
            table.update(fut=0)
        if "done" in verb.options:
            table.update(pres=4, prog=0)
        if verb.frame == "pred":
            table.update(fut=0)
        return self.weighted(table)

    def time(self, tense: str, modal: str, verb: _Verb, probability: float = 0.6) -> _Time | None:
        if tense == "perf":
            return ALREADY
        if tense == "prog":
            return self.pick(NOW)
        if "lasting" in verb.options or not self.chance(probability):
            return None
        if verb.en in ("get", "arrive", "call", "eat", "watch") and verb.frame != "acc" and self.chance(0.4):
            return self.pick(CLOCK)
        if tense in ("past", "fut"):
            return self.pick(TIMES["past" if tense == "past" else "future"])
        if modal:
            return self.pick(TIMES["future"])
        if "state" in verb.options or "done" in verb.options:
            return None
        return self.pick(OFTEN if self.chance(0.45) else TIMES["habit"])

    # ---- clauses

    def verb(self) -> _Verb:
        weights = {"acc": 46, "dat": 9, "ditr": 11, "prep": 14, "loc": 10, "dir": 11, "from": 1.5, "put": 4, "none": 4}
        return self.pick(self.by_frame[self.weighted(weights)])

    def clause(self, subject: _Phrase, verb: _Verb | None = None, tense: str = "", plain: bool = False) -> _Clause:
        """A clause with that subject. `plain`: no modal, no time, no negation."""
        verb = verb or self.verb()
        while tense == "fut" and "lasting" in verb.options:
            verb = self.verb()
        tense = tense or self.tense(verb)
        modal = ""
        if not plain and tense in ("pres", "past") and not {"state", "done"} & set(verb.options) and self.chance(0.22):
            modal = self.pick(_MODALS[:4] if tense == "past" else _MODALS)
        time = None if plain else self.time(tense, modal, verb)
        clause = self.filled(_Clause(subject, verb, tense, modal, time=time))
        return clause if plain or tense == "perf" or not self.chance(0.14) else self.negated(clause)

    def filled(self, clause: _Clause) -> _Clause:
        """The clause with the objects and places its verb asks for."""
        verb, subject = clause.verb, clause.subject
        case = verb.frame.split()[-1]
        if verb.frame in ("acc", "put"):
            clause = replace(clause, accusative=self.accusative(verb, subject))
        elif verb.frame == "dat":
            clause = replace(clause, dative=self.receiver(subject, verb.tags))
        elif verb.frame == "ditr":
            kinds = {"the": 35, "a": 40, "own": 15, "number": 10}
            dative = self.receiver(subject, ("person", "kin"))
            clause = replace(clause, dative=dative, accusative=self.object(verb.tags, subject, kinds))
        elif case in ("acc", "dat"):
            clause = replace(clause, places=(self.prepositional(verb, case, subject),))
        return replace(clause, places=clause.places + self.complements(clause))

    def complements(self, clause: _Clause) -> tuple[tuple[str, str], ...]:
        verb = clause.verb
        if verb.frame == "loc":
            return (self.place(verb.tags, False),)
        if verb.frame == "dir":
            return (self.place(verb.tags, True),)
        if verb.frame == "from":
            return (self.town("from", "aus"),)
        if verb.frame == "put":
            return (self.spot(_SPOTS, "acc"),)
        where = verb.option("at")
        return (self.place((where,), False),) if where and self.chance(0.3) else ()

    def prepositional(self, verb: _Verb, case: str, subject: _Phrase) -> tuple[str, str]:
        """An object behind the verb's own preposition; the English one belongs to the verb ("wait for")."""
        phrase = self.someone(subject, verb.tags) if "person" in verb.tags else self.object(verb.tags, subject)
        if "person" in verb.tags and self.chance(0.2):
            phrase = self.object_pronoun(subject)
        return phrase.en_object, _contract(f"{verb.frame.split()[0]} {phrase.de[case]}")

    def accusative(self, verb: _Verb, subject: _Phrase) -> _Phrase:
        if "pronoun" in verb.options and self.chance(0.25):
            return self.object_pronoun(subject)
        kinds = {"a": 75, "number": 15, "bare": 10} if "possess" in verb.options else None
        return self.someone(subject, verb.tags) if "person" in verb.tags else self.object(verb.tags, subject, kinds)

    def receiver(self, subject: _Phrase, tags: tuple[str, ...]) -> _Phrase:
        return self.object_pronoun(subject) if self.chance(0.3) else self.someone(subject, tags)

    def negated(self, clause: _Clause) -> _Clause:
        """The same clause denied: "kein" replaces an indefinite article, "nicht" serves elsewhere.

        Returned as it was where a denial would sound odd ("not always ... two apples").
        """
        phrase = clause.accusative
        receiver = clause.dative.kind if clause.dative else "the"
        if clause.time is not None and not clause.time.negatable or receiver not in _DEFINITE_KINDS:
            return clause
        if phrase is None or phrase.kind in _DEFINITE_KINDS:
            return replace(clause, negated=True)
        if phrase.kind not in ("a", "bare") or clause.verb.frame == "put":
            return clause
        noun = next(noun for noun in NOUNS if noun.en == phrase.key)
        denied = _noun_phrase(noun, "no", phrase.form == "3p", self.adjective(noun.group, 0.2))
        return replace(clause, negated=True, accusative=denied)

    def state(self, subject: _Phrase, group: str, tense: str = "") -> _Clause:
        """ "She is tired", "it was expensive"."""
        words = [word for word in _PREDICATIVE[group].split() if word not in subject.en.split()]
        adjective = ADJECTIVES[self.pick(words)]  # never "the old car is old"
        tense = tense or self.pick(("pres", "past"))
        time = self.pick(TIMES["past"]) if tense == "past" and group == "person" and self.chance(0.3) else None
        clause = _Clause(subject, COPULA, tense, places=((adjective.en, adjective.de),), time=time)
        return replace(clause, negated=True) if self.chance(0.15) and not time else clause


# ---------------------------------------------------------------------------------------------------------------------
# Sentences
# ---------------------------------------------------------------------------------------------------------------------


def _pair(english: str, german: str, mark: str = ".") -> Pair:
    return _sentence(english, mark), _sentence(german, mark)


def _simple(grammar: _Grammar) -> Pair:
    clause = grammar.clause(grammar.subject())
    return _pair(_english(clause), _german_main(clause))


def _fronted(grammar: _Grammar) -> Pair:
    """ "Gestern hat der Lehrer ...": the finite verb stays second, the subject follows it."""
    clause = grammar.clause(grammar.subject())
    if clause.time is None or clause.time.middle or not clause.time.en:
        return _pair(_english(clause), _german_main(clause))
    comma = "," if " " in clause.time.en else ""
    english = f"{clause.time.en}{comma} {_english(clause, with_time=False)}"
    return _pair(english, _german_main(replace(clause, time=None), clause.time.de))


def _reason(grammar: _Grammar) -> Pair:
    """because/although: weil/obwohl, verb last."""
    main = grammar.clause(grammar.subject())
    tense = "past" if main.tense == "past" else "pres"
    subject = grammar.resumed(main.subject)
    if grammar.chance(0.45):
        reason = replace(grammar.state(subject, "person", tense), time=None)
    else:
        reason = grammar.clause(subject, tense=tense)
    en, de = ("because", "weil") if grammar.chance(0.75) else ("although", "obwohl")
    return _pair(f"{_english(main)} {en} {_english(reason)}", f"{_german_main(main)}, {de} {_german_final(reason)}")


def _weather(grammar: _Grammar) -> Pair:
    deeds = [verb for verb in grammar.by_frame["loc"] + grammar.by_frame["dir"] if "lasting" not in verb.options]
    main = grammar.clause(grammar.subject(), grammar.pick(deeds), "pres")
    weather = {
        "because it is raining": "weil es regnet", "because it is snowing": "weil es schneit",
        "because it is very cold": "weil es sehr kalt ist", "when the sun shines": "wenn die Sonne scheint",
        "although it is already dark": "obwohl es schon dunkel ist",
        "because the weather is good": "weil das Wetter gut ist",
    }  # fmt: skip
    en, de = grammar.pick(list(weather.items()))
    return _pair(f"{_english(main)} {en}", f"{_german_main(main)}, {de}")


def _thought(grammar: _Grammar) -> Pair:
    """ "... knows that ...": dass, verb last."""
    verbs = {"know": "wissen", "say": "sagen", "think": "denken", "believe": "glauben", "hope": "hoffen"}
    en, de = grammar.pick(list(verbs.items()))
    subject = grammar.subject()
    inner = grammar.clause(grammar.resumed(subject), tense="fut" if en == "hope" else "")
    matrix = _third_person(en) if subject.form == "3s" else en
    finite = _conjugate(de, subject.form)
    english = f"{subject.en} {matrix} that {_english(inner)}"
    return _pair(english, f"{subject.de['nom']} {finite}, dass {_german_final(inner)}")


def _doubt(grammar: _Grammar) -> Pair:
    """ "... do not know whether ...": ob, verb last."""
    subject = grammar.subject()
    inner = grammar.clause(grammar.resumed(subject))
    auxiliary = "does" if subject.form == "3s" else "do"
    german = f"{subject.de['nom']} {_conjugate('wissen', subject.form)} nicht, ob {_german_final(inner)}"
    return _pair(f"{subject.en} {auxiliary} not know whether {_english(inner)}", german)


def _condition(grammar: _Grammar) -> Pair:
    """ "If ..., ...": the subordinate clause fills the first place, so the main verb follows the comma."""
    subject = grammar.subject()
    if grammar.chance(0.4):
        condition = replace(grammar.state(subject, "person", "pres"), time=None)
    else:
        condition = replace(grammar.clause(subject, tense="pres"), time=None)
    main = grammar.clause(grammar.resumed(subject), tense="fut")
    english = f"if {_english(condition)}, {_english(main)}"
    return _pair(english, f"wenn {_german_final(condition)}, {_german_inverted(main)}")


def _relative_subject(grammar: _Grammar) -> Pair:
    """ "The man who lives in Berlin ...": the pronoun is nominative, its gender the noun's."""
    noun = grammar.noun(("person",))
    plural = grammar.chance(0.2)
    subject = _noun_phrase(noun, "the", plural, grammar.adjective(noun.group, 0.25))
    inner = grammar.clause(subject, plain=True, tense=grammar.pick(("pres", "past")))
    pronoun = _by_gender(_DEFINITE, "nom", "p" if plural else noun.gender)
    relative = (f"who {_english(inner, with_subject=False)}", f"{pronoun} {_german_final(inner, with_subject=False)}")
    clause = grammar.clause(replace(subject, relative=relative))
    return _pair(_english(clause), _german_main(clause))


def _relative_object(grammar: _Grammar) -> Pair:
    """ "... the book that my sister bought": the pronoun is accusative; the clause follows the closing verb."""
    outer, inner = grammar.pick(_OBJECT_VERBS), grammar.pick(_OBJECT_VERBS)
    if outer.en == inner.en or not set(outer.tags) & set(inner.tags):
        return _relative_object(grammar)
    noun = grammar.noun(tuple(sorted(set(outer.tags) & set(inner.tags))))
    plural = grammar.chance(0.2)
    phrase = _noun_phrase(noun, "the", plural, grammar.adjective(noun.group, 0.3))
    subject = grammar.subject()
    said = _Clause(grammar.resumed(subject), inner, "past")
    pronoun = _by_gender(_DEFINITE, "acc", "p" if plural else noun.gender)
    english = f"that {_english(replace(said, accusative=None))} {inner.particle}".strip()
    tense = grammar.pick(("past", "fut"))
    main = _Clause(subject, outer, tense, accusative=phrase, relative=(english, f"{pronoun} {_german_final(said)}"))
    if not grammar.chance(0.35):
        return _pair(_english(main), _german_main(main))
    time = grammar.time(tense, "", outer, 1.0)
    comma = "," if " " in time.en else ""
    return _pair(f"{time.en}{comma} {_english(main)}", _german_main(main, time.de))


# Verbs that fit a thing which was first bought, found, lost, and then repaired or sold.
_OBJECT_VERBS = [
    verb for verb in VERBS if verb.frame == "acc" and not {"possess", "state", "pronoun"} & set(verb.options)
    and not {"drink", "transit"} & set(verb.tags)
]  # fmt: skip


def _contrast(grammar: _Grammar) -> Pair:
    """Two main clauses; "und" and "aber" take no place, so both keep the verb second."""
    first_subject = grammar.subject()
    first = grammar.clause(first_subject)
    second = grammar.clause(grammar.resumed(first_subject), tense=first.tense if first.tense != "perf" else "")
    en, de = ("but", "aber") if grammar.chance(0.5) else ("and", "und")
    return _pair(f"{_english(first)}, {en} {_english(second)}", f"{_german_main(first)}, {de} {_german_main(second)}")


def _question(grammar: _Grammar) -> Pair:
    clause = grammar.clause(grammar.subject())
    word, german = "", ""
    if grammar.chance(0.4):
        pairs = [("why", "warum")]
        if clause.time is None:
            pairs.append(("when", "wann"))
        word, german = grammar.pick(pairs)
    clause = replace(clause, negated=False) if not _is_denied(clause) else _undenied(clause)
    return _pair(_join([word, _english(clause, question=True)]), _join([german, _german_inverted(clause)]), "?")


def _is_denied(clause: _Clause) -> bool:
    return clause.accusative is not None and clause.accusative.kind == "no"


def _undenied(clause: _Clause) -> _Clause:
    noun = next(noun for noun in NOUNS if noun.en == clause.accusative.key)
    plural = clause.accusative.form == "3p"
    return replace(clause, negated=False, accusative=_noun_phrase(noun, "the", plural))


def _attempt(grammar: _Grammar) -> Pair:
    """ "... tries to ...": an infinitive with "zu", which a separable prefix takes in ("abzuholen")."""
    attempts = [
        _Verb("try", "tried", "tried", "", "", "", "versuchen", (), "versucht", "haben", "none", (), ()),
        _Verb("promise", "promised", "promised", "", "", "", "versprechen", ("versprichst", "verspricht"),
              "versprochen", "haben", "none", (), ()),
        _Verb("plan", "planned", "planned", "", "", "", "planen", (), "geplant", "haben", "none", (), ()),
        _Verb("forget", "forgot", "forgotten", "", "", "", "vergessen", ("vergisst", "vergisst"), "vergessen",
              "haben", "none", (), ()),
    ]  # fmt: skip
    subject = grammar.subject()
    matrix = grammar.clause(subject, grammar.pick(attempts), grammar.pick(("pres", "past")), plain=True)
    task = grammar.clause(subject, grammar.pick(_TASKS), "pres", plain=True)
    english = f"{_english(matrix)} {_english_infinitive(task)}"
    return _pair(english, f"{_german_main(matrix)}, {_german_infinitive(task)}")


def _purpose(grammar: _Grammar) -> Pair:
    """ "... goes to ... to ...": um ... zu."""
    subject = grammar.subject()
    main = grammar.clause(subject, grammar.pick(grammar.by_frame["dir"]))
    if main.negated or main.time and not main.time.middle:
        main = replace(main, negated=False, time=None, tense="past", modal="")
    task = grammar.clause(subject, grammar.pick(_TASKS), "pres", plain=True)
    task = replace(task, places=() if task.verb.frame in ("acc", "dat") else task.places)
    english = f"{_english(main)} in order {_english_infinitive(task)}"
    return _pair(english, f"{_german_main(main)}, um {_german_infinitive(task)}")


# Deeds one can plan or set out for.
_TASKS = [
    verb for verb in VERBS if verb.frame in ("acc", "dat", "ditr")
    and not {"state", "done", "possess"} & set(verb.options) and verb.en not in ("believe", "wear", "follow", "miss")
]  # fmt: skip


def _description(grammar: _Grammar) -> Pair:
    """ "The car is old": a thing or a person, and an adjective without ending."""
    group = grammar.pick(tuple(_PREDICATIVE))
    if group == "person":
        clause = grammar.state(grammar.subject(), group)
        return _pair(_english(clause), _german_main(clause))
    nouns = [noun for noun in NOUNS if noun.group == group]
    subject = grammar.thing(grammar.pick(nouns), None, {"the": 50, "own": 35, "this": 25})
    clause = replace(grammar.state(subject, group), time=None)
    return _pair(_english(clause), _german_main(clause))


def _purchase(grammar: _Grammar) -> Pair:
    """ "... bought the lamp because it was cheap": German "it" follows the gender of the noun."""
    verb = grammar.pick([verb for verb in VERBS if verb.en in ("buy", "sell", "need", "repair", "read", "look")
                         and verb.frame == "acc"])  # fmt: skip
    nouns = [noun for noun in NOUNS if set(verb.tags) & set(noun.tags) and noun.group in _PREDICATIVE]
    noun = grammar.pick([noun for noun in nouns if noun.group not in ("kin", "person", "animal", "dish")])
    kind = grammar.weighted({"the": 50, "a": 40, "this": 15})
    tense = grammar.pick(("past", "past", "pres", "fut"))
    phrase = _noun_phrase(noun, kind)
    main = _Clause(grammar.subject(), verb, tense, accusative=phrase, time=None)
    adjective = ADJECTIVES[grammar.pick(_PREDICATIVE[noun.group].split())]
    places = ((adjective.en, adjective.de),)
    reason = _Clause(_it(noun.gender), COPULA, "past" if tense == "past" else "pres", places=places)
    en, de = ("because", "weil") if grammar.chance(0.7) else ("although", "obwohl")
    return _pair(f"{_english(main)} {en} {_english(reason)}", f"{_german_main(main)}, {de} {_german_final(reason)}")


def _comparison(grammar: _Grammar) -> Pair:
    group = grammar.pick(("thing", "text", "clothes", "machine", "device", "building"))
    nouns = [noun for noun in NOUNS if noun.group == group]
    degrees = [row for row in _rows(_COMPARATIVES) if row[0] in _PREDICATIVE[group].split()]
    _, en, de = grammar.pick(degrees)
    kinds = {"the": 50, "own": 50, "this": 25}
    first = grammar.thing(grammar.pick(nouns), None, kinds)
    second = grammar.thing(grammar.pick([noun for noun in nouns if noun.en != first.key]), None, kinds)
    places = ((f"{en} than {second.en}", f"{de} als {second.de['nom']}"),)
    clause = _Clause(first, COPULA, grammar.pick(("pres", "pres", "past")), places=places, negated=grammar.chance(0.2))
    return _pair(_english(clause), _german_main(clause))


def _position(grammar: _Grammar) -> Pair:
    """ "The key is lying on the table": liegen or stehen, two-way preposition with the dative."""
    lying = _Verb("lie", "lay", "lain", "", "", "", "liegen", (), "gelegen", "haben", "none", ("small", "wear"), ())
    standing = _Verb("stand", "stood", "stood", "", "", "", "stehen", (), "gestanden", "haben", "none",
                     ("vessel", "vehicle", "carried"), ())  # fmt: skip
    verb = grammar.pick((lying, standing))
    subject = grammar.object(verb.tags, None)
    outdoors = subject.key in [noun.en for noun in NOUNS if "vehicle" in noun.tags]
    place = grammar.spot(_OUTDOOR_SPOTS if outdoors else _SPOTS, "dat", subject.key)
    clause = _Clause(subject, verb, "prog", places=(place,))
    return _pair(_english(clause), _german_main(clause))


def _existence(grammar: _Grammar) -> Pair:
    """ "There is a tree behind the house": es gibt with the accusative, the place fronted."""
    noun = grammar.pick([noun for noun in NOUNS if noun.en in ("tree", "flower", "bicycle", "car", "house")])
    plural = grammar.chance(0.3)
    adjective = grammar.adjective(noun.group, 0.6)
    number, german = grammar.pick(_pairs_of(_NUMBERS))
    phrase = _noun_phrase(noun, number if plural else "a", plural, adjective, german if plural else "")
    place = grammar.spot(_OUTDOOR_SPOTS, "dat", noun.en)
    return _pair(f"there {'are' if plural else 'is'} {phrase.en} {place[0]}", f"{place[1]} gibt es {phrase.de['acc']}")


def _departure(grammar: _Grammar) -> Pair:
    """ "The train leaves at six o'clock": a separable verb with a thing as subject."""
    en, de, gender = grammar.pick((("train", "Zug", "m"), ("bus", "Bus", "m"), ("ship", "Schiff", "n")))
    verb = _Verb("leave", "left", "left", "", "", "ab", "fahren", ("fährst", "fährt"), "abgefahren", "sein", "none",
                 (), ())  # fmt: skip
    town = grammar.town("to", "nach")
    subject = _noun_phrase(_Noun(en, "-", de, "-", gender, "transit"), "the")
    nominative = {"nom": f"{subject.de['nom']} {town[1]}"}
    subject = replace(subject, en=f"{subject.en} {town[0]}", de=nominative)
    clause = _Clause(subject, verb, grammar.pick(("pres", "past")), time=grammar.pick(CLOCK))
    if grammar.chance(0.5):
        return _pair(_english(clause), _german_main(clause))
    thinker = grammar.subject()
    matrix = _third_person("know") if thinker.form == "3s" else "know"
    german = f"{thinker.de['nom']} {_conjugate('wissen', thinker.form)}, dass {_german_final(clause)}"
    return _pair(f"{thinker.en} {matrix} that {_english(clause)}", german)


_TEMPLATES: dict[Callable[[_Grammar], Pair], float] = {
    _simple: 22, _fronted: 15, _reason: 10, _weather: 2, _thought: 8, _doubt: 4, _condition: 7, _relative_subject: 6,
    _relative_object: 6, _contrast: 6, _question: 9, _attempt: 4, _purpose: 4, _description: 3, _purchase: 3,
    _comparison: 3, _position: 2, _existence: 1, _departure: 1,
}  # fmt: skip


def _stream(seed: int) -> Iterator[Pair]:
    """Distinct pairs, until the grammar yields nothing new: no English and no German sentence comes twice."""
    grammar = _Grammar(seed)
    seen_en: set[str] = set()
    seen_de: set[str] = set()
    repeats = 0
    while repeats < 5_000:
        english, german = grammar.sentence()
        if english in seen_en or german in seen_de or not 4 <= english.count(" ") + 1 <= 22:
            repeats += 1
            continue
        repeats = 0
        seen_en.add(english)
        seen_de.add(german)
        yield english, german


def _split_of(english: str) -> str:
    """The split a sentence belongs to, by its own text: 90% train, 5% validation, 5% test."""
    return {0: "validation", 1: "test"}.get(zlib.crc32(english.encode()) % 20, "train")


def _drawn(wanted: dict[str, int], seed: int) -> dict[str, list[Pair]]:
    splits: dict[str, list[Pair]] = {name: [] for name in wanted}
    for english, german in _stream(seed):
        if all(len(splits[name]) >= count for name, count in wanted.items()):
            return splits
        name = _split_of(english)
        if len(splits[name]) < wanted[name]:
            splits[name].append((english, german))
    found = {name: len(pairs) for name, pairs in splits.items()}
    raise ValueError(f"the built-in grammar has no {wanted} distinct sentences, only {found}: ask for fewer")


# ---------------------------------------------------------------------------------------------------------------------
# The public corpus
# ---------------------------------------------------------------------------------------------------------------------


def built_in_corpus(train: int = 20_000, validation: int = 500, test: int = 500, seed: int = 0) -> DatasetDict:
    """English-German sentence pairs, generated; the same ones for the same seed.

    A sentence's own text decides its split, so no sentence is in two splits, whatever the seeds and sizes, and the
    first n of a split do not depend on how many are asked for. No English and no German sentence repeats.

    Args:
        train, validation, test: numbers of pairs, each at least 0. 20,000 take a second or two.
        seed: of the random choices.

    Returns:
        A `datasets.DatasetDict` with the splits train, validation and test and one column, `translation`, of
        `{"en": ..., "de": ...}`, as the WMT data sets have it. Sentences have 4 to 22 English words, 10 on average.

    Raises:
        ValueError: a negative size, or more sentences than the grammar can make.

    Example:
        >>> corpus = built_in_corpus(train=1000, validation=50, test=50)
        >>> corpus["train"][0]["translation"]["en"]
    """
    from datasets import Dataset, DatasetDict, Features, Value

    wanted = {"train": train, "validation": validation, "test": test}
    for name, count in wanted.items():
        if count < 0:
            raise ValueError(f"{name}={count}: a split needs a size of 0 or more")
    # A plain struct keeps English first; the `Translation` feature would sort the languages.
    features = Features({"translation": {"en": Value("string"), "de": Value("string")}})
    return DatasetDict(
        {
            name: Dataset.from_dict(
                {"translation": [{"en": en, "de": de} for en, de in pairs]}, features=features, split=name
            )
            for name, pairs in _drawn(wanted, seed).items()
        }
    )


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers
# ---------------------------------------------------------------------------------------------------------------------


def _train_sentencepiece(texts: Iterable[str], vocab_size: int, extra: int, **special_ids: int) -> bytes:
    """A SentencePiece unigram model for a vocabulary of `vocab_size`, of which `extra` entries are no pieces."""
    import sentencepiece

    texts = list(texts)
    if not texts:
        raise ValueError("found no texts to train a tokenizer on; expected an iterable of sentences")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type="unigram", vocab_size=vocab_size - extra,
            character_coverage=1.0, bos_id=-1, num_threads=1, minloglevel=2, **special_ids,
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError(_size_message(str(error), vocab_size, len(texts), extra)) from error
    return model.getvalue()


def _size_message(error: str, vocab_size: int, texts: int, extra: int) -> str:
    """SentencePiece's complaint in our own count, where it is about the size."""
    found = f"found vocab_size={vocab_size} for {texts} texts"
    most = re.search(r"value <= (\d+)", error)
    least = re.search(r"required_chars\. \d+ vs (\d+)", error)
    if most:
        return f"{found}; expected at most {int(most[1]) + extra}: choose a smaller vocabulary or give more texts"
    if least:
        return f"{found}; expected at least {int(least[1]) + extra}, one piece a character: choose a larger one"
    return f"{found}; SentencePiece refuses: {error}"


def build_marian_tokenizer(
    pairs_texts: Iterable[str],
    folder: str | Path,
    vocab_size: int = 2000,
    source_lang: str = "en",
    target_lang: str = "de",
) -> MarianTokenizer:
    """Train a joint SentencePiece unigram model and build a Marian tokenizer from it, in `folder`.

    Args:
        pairs_texts: sentences of both languages.
        folder: where `source.spm`, `target.spm` (the same model), `vocab.json` and the configuration are written.
        vocab_size: of the whole vocabulary: `</s>` is 0, `<unk>` 1, then the pieces, `<pad>` the last (CTranslate2
            relies on that).
        source_lang, target_lang: language codes, kept in the tokenizer's configuration.

    Raises:
        ValueError: the texts cannot fill (or not fit) a vocabulary of that size, or there are none.

    Example:
        >>> texts = [t for row in corpus["train"]["translation"] for t in row.values()]
        >>> tokenizer = build_marian_tokenizer(texts, "tokenizer", vocab_size=1000)
    """
    import sentencepiece
    from transformers import MarianTokenizer

    # <pad> is no SentencePiece piece, hence one less.
    model = _train_sentencepiece(pairs_texts, vocab_size, 1, unk_id=0, eos_id=1, pad_id=-1)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index) for index in range(2, processor.get_piece_size())]
    vocabulary = {piece: index for index, piece in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=1), encoding="utf-8")
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    tokenizer = MarianTokenizer(
        source_spm=str(folder / "source.spm"), target_spm=str(folder / "target.spm"), vocab=str(folder / "vocab.json"),
        source_lang=source_lang, target_lang=target_lang,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_t5_tokenizer(
    texts: Iterable[str], folder: str | Path, vocab_size: int = 2000, extra_ids: int = 0
) -> T5Tokenizer:
    """Train a SentencePiece unigram model and build a T5 tokenizer from it, in `folder`.

    Args:
        texts: sentences of all languages, and the task prefixes to be used.
        folder: where `spiece.model`, `tokenizer.json` and the configuration are written.
        vocab_size: of the whole vocabulary: `<pad>` is 0, `</s>` 1, `<unk>` 2, then the pieces, then the sentinels.
        extra_ids: the number of sentinels `<extra_id_0>`, ... among them, at the end; the first has the largest id.

    Raises:
        ValueError: the texts cannot fill (or not fit) a vocabulary of that size, or there are none.

    Example:
        >>> tokenizer = build_t5_tokenizer(texts, "tokenizer", vocab_size=1000)
    """
    from transformers import T5Tokenizer

    model = _train_sentencepiece(texts, vocab_size, extra_ids, pad_id=0, eos_id=1, unk_id=2)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model)
    # A tokenizer left here by an earlier call would be read in place of the new model.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    tokenizer = T5Tokenizer.from_pretrained(str(folder), extra_ids=extra_ids)
    tokenizer.save_pretrained(folder)
    return tokenizer
