"""When each word of a translation is said: from the decoder's attention to the source.

Attention says where in the speech a token comes from (Bahdanau et al., 2015).  Every frame is
given to one token, later frames to later tokens, so that the attention of tokens to their own
frames is largest: the times of words never go back, though a translation may.
"""

import bisect
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cress_svcd.translation.phrases import WITHOUT_SPACES
from cress_svcd.translation.result import Word

# Attention of a frame that hardly any token attends to: it is not made larger than it is.
LEAST_ATTENTION = 0.02
# The level of blocks of 10 ms so far below the loud ones is that of a pause.
BLOCK_SECONDS = 0.01
SOUND_DB = 35.0
LOUD_PERCENTILE = 95


def token_frames(attention: np.ndarray) -> np.ndarray:
    """Where tokens begin and end, in frames.

    Args:
        attention: of tokens to frames (tokens, frames), 0 or more.
    Returns:
        tokens + 1 numbers that never fall: token i has the frames from its number to the next.
    """
    tokens, frames = attention.shape
    # Pauses and ends, which all tokens attend to, tell of none.
    own = attention / (attention.mean(axis=0) + LEAST_ATTENTION)
    own = own / np.maximum(own.sum(axis=1, keepdims=True), 1e-9)
    numbers = np.arange(tokens)
    best = own[:, 0]  # sum of attention if a frame is the token's
    came_from = np.empty((frames, tokens), int)
    for frame in range(1, frames):
        reached = np.maximum.accumulate(best)
        came_from[frame] = np.maximum.accumulate(np.where(best == reached, numbers, 0))
        best = reached + own[:, frame]
    owners = np.empty(frames, int)
    owners[-1] = best.argmax()
    for frame in range(frames - 1, 0, -1):
        owners[frame - 1] = came_from[frame, owners[frame]]
    return np.searchsorted(owners, np.arange(tokens + 1))


def attention_edges(attention: np.ndarray, wave: np.ndarray, rate: int) -> np.ndarray:
    """Where tokens begin and end, as shares of the wave (tokens + 1); none is said in a pause.

    Args:
        attention: of tokens to frames (tokens, frames), which share the wave evenly.
    """
    frames = attention.shape[1]
    sounds = np.unique(_loud_blocks(wave, rate) * BLOCK_SECONDS * rate * frames // len(wave))
    sounds = sounds[sounds < frames].astype(int)
    if not len(sounds):
        sounds = np.arange(frames)
    edges = token_frames(attention[:, sounds])
    return np.append(sounds, sounds[-1] + 1)[edges] / frames


def _loud_blocks(wave: np.ndarray, rate: int) -> np.ndarray:
    """The numbers of the blocks that are no pause."""
    size = max(1, round(BLOCK_SECONDS * rate))
    blocks = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    if not len(blocks):
        return np.arange(0)
    power = blocks.var(axis=1)
    quiet = np.percentile(power, LOUD_PERCENTILE) / 10 ** (SOUND_DB / 10)
    return np.flatnonzero(power > quiet)


def text_words(text: str, ends: Sequence[int]) -> list[tuple[int, int]]:
    """The words of a text as (first, last + 1) characters; see :class:`Word`.

    Args:
        ends: of the tokens, in characters.
    """
    words = []
    for match in re.finditer(r"\S+", text):
        start = match.start()
        for end in ends:
            if start < end < match.end() and _may_part(text, end):
                words.append((start, end))
                start = end
        words.append((start, match.end()))
    return words


def _may_part(text: str, place: int) -> bool:
    """Whether a word may end before ``place`` of a text without spaces."""
    before, after = text[place - 1], text[place]
    if not (WITHOUT_SPACES.match(before) or WITHOUT_SPACES.match(after)):
        return False
    # Marks that belong to the letter or word before them, brackets that open what follows.
    return unicodedata.category(after) not in (
        *("Mn", "Mc", "Me", "Lm", "Pe", "Pf", "Po"),
    ) and unicodedata.category(before) not in ("Ps", "Pi")


def token_ends(tokens: Sequence[str], decode: Callable[[str], str], text: str) -> list[int]:
    """Where in ``text``, which ``decode`` makes of them, tokens end, in characters."""
    ends = [0]
    for count in range(1, len(tokens) + 1):
        ends.append(min(len(text), max(ends[-1], len(decode(" ".join(tokens[:count]))))))
    ends[-1] = len(text)
    return ends[1:]


def place_words(text: str, ends: Sequence[int], edges: Sequence[float]) -> list[Word]:
    """The words of a text with the times of their tokens.

    Args:
        ends: of the tokens, in characters.
        edges: where tokens begin and end in time (tokens + 1).
    """
    begins = [0, *ends[:-1]]
    tokens = [_Token(*token) for token in zip(begins, ends, edges, edges[1:])]
    words = []
    for start, end in text_words(text, ends):
        first = bisect.bisect_right(ends, start)
        last = bisect.bisect_left(ends, end)
        begin = tokens[first].time_of(text, start)
        while first and begins[first - 1] == begins[first] and begin == tokens[first].start:
            first -= 1  # the lone space before it, a token without letters
            begin = tokens[first].start
        words.append(Word(text[start:end], begin, tokens[last].time_of(text, end)))
    return _share_time(words)


def _share_time(words: Sequence[Word]) -> list[Word]:
    """The words; those that took no time share that of the word before them, the first ones that
    of the word after them."""
    shared: list[Word] = []
    group: list[Word] = []
    for word in words:
        if word.end > word.start and any(other.end > other.start for other in group):
            shared += _evenly(group)
            group = []
        group.append(word)
    return shared + _evenly(group)


def _evenly(group: list[Word]) -> list[Word]:
    if len(group) < 2:
        return group
    edges = np.linspace(group[0].start, group[-1].end, len(group) + 1).tolist()
    return [Word(word.text, *times) for word, times in zip(group, zip(edges, edges[1:]))]


class _Token(NamedTuple):
    """Characters from ``begin`` to ``end`` that are said from ``start`` to ``stop``."""

    begin: int
    end: int
    start: float
    stop: float

    def time_of(self, text: str, place: int) -> float:
        """Of a place in it; its letters share its time evenly."""
        begin = self.begin
        while begin < place and text[begin].isspace():
            begin += 1
        share = (place - begin) / (self.end - begin) if self.end > begin else 0.0
        return self.start + share * (self.stop - self.start)


def keep_to_sound(words: Sequence[Word], wave: np.ndarray, rate: int) -> list[Word]:
    """The words, without the pauses that their times begin or end with.

    Args:
        wave: samples from the time 0 on, ``rate`` a second.
    """
    loud = _loud_blocks(wave, rate)
    seconds = max(1, round(BLOCK_SECONDS * rate)) / rate
    kept = []
    for word in words:
        first = np.searchsorted(loud, word.start // seconds)
        last = np.searchsorted(loud, word.end / seconds) - 1
        if first <= last < len(loud):
            start = max(word.start, float(loud[first]) * seconds)
            end = min(word.end, float(loud[last] + 1) * seconds)
            word = Word(word.text, start, end) if start < end else word
        kept.append(word)
    return kept


def words_of_tokens(
    text: str,
    tokens: Sequence[str],
    decode: Callable[[str], str],
    edges: np.ndarray,
    wave: np.ndarray,
    rate: int,
    offset: float,
) -> tuple[Word, ...]:
    """The words of what was said in a wave, with their times.

    Args:
        text: which ``decode`` makes of the tokens, separated by spaces.
        edges: where tokens begin and end, as shares of the wave (tokens + 1).
        wave: samples, ``rate`` a second, that begin at ``offset`` seconds.
    """
    if not text.strip() or len(edges) != len(tokens) + 1:
        return ()
    times = edges.clip(0, 1) * len(wave) / rate
    words = place_words(text, token_ends(tokens, decode, text), times.tolist())
    return tuple(
        Word(word.text, round(offset + word.start, 3), round(offset + word.end, 3))
        for word in keep_to_sound(words, wave, rate)
    )
