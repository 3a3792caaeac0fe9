"""From attention to the times of words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cress_svcd.translation.result import Word
from cress_svcd.translation.word_times import (
    attention_edges,
    keep_to_sound,
    place_words,
    text_words,
    token_ends,
    token_frames,
    words_of_tokens,
)

RATE = 16_000


def decode(tokens: str) -> str:
    """As sentencepiece's."""
    return tokens.replace(" ", "").replace("▁", " ").strip()


def test_frames_go_to_the_tokens_that_attend_to_them():
    attention = np.full((3, 7), 0.02)
    for token, frames in enumerate((slice(0, 2), slice(2, 6), slice(6, 7))):
        attention[token, frames] = 0.3
    assert token_frames(attention).tolist() == [0, 2, 6, 7]


def test_times_never_go_back_though_a_translation_may():
    attention = np.full((3, 6), 0.01)
    attention[0, :2] = attention[1, 4:] = attention[2, 2:4] = 0.5  # the verb comes last
    edges = token_frames(attention)
    assert edges[0] == 0 and edges[-1] == 6 and (np.diff(edges) >= 0).all()


def test_what_all_attend_to_tells_of_none():
    """The last frame draws the attention of all tokens, the first ones a bit of their own."""
    attention = np.array([[0.2, 0.0, 0.0, 0.8], [0.0, 0.2, 0.0, 0.8], [0.0, 0.0, 0.2, 0.8]])
    assert token_frames(attention).tolist() == [0, 1, 2, 4]


@settings(deadline=None, max_examples=100)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 30)).flatmap(
        lambda shape: arrays.arrays(float, shape, elements=st.floats(0, 1))
    )
)
def test_every_frame_has_one_owner(attention):
    edges = token_frames(attention)
    assert len(edges) == len(attention) + 1
    assert edges[0] == 0 and edges[-1] == attention.shape[1] and (np.diff(edges) >= 0).all()


@pytest.mark.parametrize(
    "text, ends, expected",
    [
        ("der Mann", [3, 8], ["der", "Mann"]),
        ("der  Mann ", [1, 10], ["der", "Mann"]),
        ("我们去。好", [2, 3, 4, 5], ["我们", "去。", "好"]),
        ("「我们」去", [1, 3, 4, 5], ["「我们」", "去"]),
        ("ไปบ้าน", [2, 6], ["ไป", "บ้าน"]),
        ("Haustür", [4, 7], ["Haustür"]),
        ("", [], []),
    ],
)
def test_words_of_a_text(text, ends, expected):
    assert [text[start:end] for start, end in text_words(text, ends)] == expected


def test_token_ends_are_counted_in_the_text():
    tokens = ["▁Haus", "tür", "▁", "▁auf", "."]
    text = decode(" ".join(tokens))
    assert text == "Haustür  auf."
    assert token_ends(tokens, decode, text) == [4, 7, 7, 12, 13]


def test_words_have_the_times_of_their_tokens():
    tokens = ["▁Haus", "tür", "▁", "▁auf", "."]
    text = decode(" ".join(tokens))
    ends = token_ends(tokens, decode, text)
    assert place_words(text, ends, [0.0, 1.0, 3.0, 4.0, 5.0, 7.0]) == [
        Word("Haustür", 0.0, 3.0),
        Word("auf.", 3.0, 7.0),
    ]


def test_words_of_one_token_share_its_time():
    assert place_words("of the", [6], [0.0, 6.0]) == [Word("of", 0.0, 2.0), Word("the", 3.0, 6.0)]


def test_words_without_time_share_that_before_them():
    found = place_words("a b c d", [1, 3, 5, 7], [0.0, 3.0, 3.0, 3.0, 4.0])
    assert found == [
        Word("a", 0.0, 1.0),
        Word("b", 1.0, 2.0),
        Word("c", 2.0, 3.0),
        Word("d", 3.0, 4.0),
    ]
    found = place_words("a b", [1, 3], [0.0, 0.0, 4.0])
    assert found == [Word("a", 0.0, 2.0), Word("b", 2.0, 4.0)]


def sound(*seconds: tuple[float, float], length: float) -> np.ndarray:
    wave = 1e-4 * np.random.default_rng(1).standard_normal(round(length * RATE))
    for start, end in seconds:
        part = slice(round(start * RATE), round(end * RATE))
        wave[part] += np.sin(np.arange(part.stop - part.start) / 5)
    return wave.astype(np.float32)


def test_words_do_not_begin_or_end_within_a_pause():
    wave = sound((0.5, 1.0), (2.0, 2.5), length=4)
    words = [Word("a", 0.0, 1.5), Word("b", 1.5, 4.0)]
    assert keep_to_sound(words, wave, RATE) == [
        Word("a", pytest.approx(0.5), pytest.approx(1.0)),
        Word("b", pytest.approx(2.0), pytest.approx(2.5)),
    ]
    assert keep_to_sound(words, np.zeros(4 * RATE), RATE) == words  # digital silence


def test_no_word_is_given_a_pause_alone():
    """Whatever its attention: 10 frames a second, speech in the first and last of four."""
    wave = sound((0.0, 1.0), (3.0, 4.0), length=4)
    attention = np.full((2, 40), 0.01)
    attention[0, :10] = attention[1, 12:28] = 1
    edges = attention_edges(attention, wave, RATE)
    assert edges[0] == 0 and edges[1] <= 30 / 40 and edges[2] == 1


def test_all_together():
    wave = sound((0.5, 1.5), (2.0, 3.0), length=4)
    attention = np.full((3, 40), 0.01)
    attention[0, 5:10] = attention[1, 10:15] = attention[2, 20:30] = 1
    edges = attention_edges(attention, wave, RATE)
    words = words_of_tokens("Haustür auf", ["▁Haus", "tür", "▁auf"], decode, edges, wave, RATE, 10)
    assert words == (Word("Haustür", 10.5, 11.5), Word("auf", 12.0, 13.0))
    # A token that holds a space has been read as two.
    assert words_of_tokens("a b", ["a", "b", "c"], decode, edges[:3], wave, RATE, 0) == ()
