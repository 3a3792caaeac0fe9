"""Where a text may part: into subtitles, and these into lines.

Best after a sentence or clause, else before a word that begins a phrase, else where the parts are
balanced.  Punctuation serves all languages, lists of words some; texts without spaces part between
the words that they are given in.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""

SENTENCE_ENDS = frozenset(".!?…。！？؟।")
CLAUSE_ENDS = frozenset(",;:–—，、；：،؛")

# Conjunctions and prepositions: a phrase begins before them.
_PHRASE_STARTS = """
    and or but because that which who whose when where while if although though since until unless
    before after than as so in on at by for from with without of to into over under about between
    und oder aber denn weil dass der welche welcher welches wenn wann wo während ob obwohl bevor
    nachdem damit sondern als wie im am an auf aus bei durch für gegen mit nach ohne seit über um
    unter von vom vor zu zum zur zwischen
    et ou mais car donc que qui dont où quand lorsque si puisque parce pour avec sans dans sur sous
    chez par de du des à au aux vers entre
    y o pero porque cuando donde aunque como con sin en por para hasta desde sobre entre del al
    e ma perché che quando dove mentre anche con senza nel nella su per tra fra dal della
    mas quando onde embora com sem em no na por para até desde
    en of maar want omdat dat die wie waar wanneer terwijl hoewel als met zonder in op aan voor van
    naar over onder tussen bij uit
    și sau dar pentru că care când unde dacă deși înainte după ca cu fără în din la pe de lângă
    sub spre până între prin
"""
PHRASE_STARTS = frozenset(_PHRASE_STARTS.split())
# What belongs to the word after it: articles and the like, and the words above.
_BOUND_TO_NEXT = """
    the a an my your his her its our their this these those no not
    der die das den dem des ein eine einen einem einer eines mein dein sein ihr unser kein nicht
    le la les un une l' mon ma ton ta son sa ce cette
    el los las una unos unas mi tu su
    il lo gli uno i
    os as um uma o a
    de het een mijn
    un o al ai ale
"""
BOUND_TO_NEXT = PHRASE_STARTS | frozenset(_BOUND_TO_NEXT.split())

AFTER_SENTENCE, AFTER_CLAUSE, BEFORE_PHRASE, ANYWHERE, AFTER_BOUND = 0.0, 1.0, 2.5, 4.0, 6.0
"""What it costs to part there."""


@dataclass(frozen=True)
class Chunk:
    """A word, or a part of one that is too long for a line, with its times in seconds.

    spaced: whether a space is before it.
    """

    text: str
    spaced: bool
    start: float
    end: float


def break_cost(before: Chunk, after: Chunk) -> float:
    """What it costs to part the text between two neighbours."""
    closed = before.text.rstrip("\"'”’»)]}」』）")
    if closed and closed[-1] in SENTENCE_ENDS:
        return AFTER_SENTENCE
    if closed and closed[-1] in CLAUSE_ENDS:
        return AFTER_CLAUSE
    if closed.lower() in BOUND_TO_NEXT:
        return AFTER_BOUND
    if after.text[0] in "([（「『–—":
        return AFTER_CLAUSE
    return BEFORE_PHRASE if after.text.lower().strip(",.") in PHRASE_STARTS else ANYWHERE


def join_chunks(chunks: Sequence[Chunk]) -> str:
    """Their text."""
    return "".join(" " * chunk.spaced + chunk.text for chunk in chunks).strip()


def cut_long(chunk: Chunk, longest: int) -> Iterator[Chunk]:
    """A chunk in parts of at most ``longest`` characters, which share its time.

    Letters keep their marks; only where a letter has more than fit into a line is the part longer.
    """
    text = chunk.text
    start = 0
    while start < len(text):
        stop = min(len(text), start + longest)
        while start < stop - 1 < len(text) - 1 and _belongs_to_letter(text[stop]):
            stop -= 1
        if stop < len(text) and _belongs_to_letter(text[stop]):
            stop = start + 1
            while stop < len(text) and _belongs_to_letter(text[stop]):
                stop += 1
        share = (chunk.end - chunk.start) / len(text)
        yield Chunk(
            text[start:stop],
            chunk.spaced and start == 0,
            chunk.start + share * start,
            chunk.start + share * stop,
        )
        start = stop


def _belongs_to_letter(character: str) -> bool:
    """Marks, and what joins letters."""
    return unicodedata.category(character).startswith("M") or character in "\u200c\u200d"


def partition(count: int, cost: Callable[[int, int], float | None]) -> list[tuple[int, int]]:
    """The cheapest way to cut ``count`` items into parts.

    Args:
        cost: of the part from one item to another, exclusive; None if it may not be, nor any
            longer one.  One item alone always may be.
    """
    best, before = [0.0] + [float("inf")] * count, [0] * (count + 1)
    for start in range(count):
        for stop in range(start + 1, count + 1):
            own = cost(start, stop)
            if own is None:
                break
            if best[start] + own < best[stop]:
                best[stop], before[stop] = best[start] + own, start
    parts = []
    while count:
        parts.append((before[count], count))
        count = before[count]
    return parts[::-1]


def split_lines(chunks: Sequence[Chunk], longest: int) -> list[str]:
    """The fewest lines of at most ``longest`` characters, parted well and of like length."""
    text = join_chunks(chunks)
    if len(text) <= longest:
        return [text]
    mean = len(text) / count_lines(chunks, longest)

    def cost(start: int, stop: int) -> float | None:
        length = len(join_chunks(chunks[start:stop]))
        if length > longest and stop > start + 1:
            return None
        parting = break_cost(chunks[stop - 1], chunks[stop]) if stop < len(chunks) else 0.0
        # One line more costs more than all else.
        return 1000 + parting + 12 * (length / mean - 1) ** 2

    return [join_chunks(chunks[start:stop]) for start, stop in partition(len(chunks), cost)]


def count_lines(chunks: Sequence[Chunk], longest: int) -> int:
    """How many lines of at most ``longest`` characters they need; a longer chunk has its own."""
    lines, length = 1, 0
    for number, chunk in enumerate(chunks):
        added = len(chunk.text) + (chunk.spaced and length > 0)
        if number and length + added > longest:
            lines, length, added = lines + 1, 0, len(chunk.text)
        length += added
    return lines
