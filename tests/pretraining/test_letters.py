import pytest

from cress_svcd.pretraining.letters import ctc_frames, spell


@pytest.mark.parametrize(
    "text, letters",
    [
        ("It’s 7:30, café—Straße!", "it's|7|30|cafe|strasse"),
        ("'Hello', I don't", "hello|i|don't"),
        ("two\u2028lines\tand  a tab", "two|lines|and|a|tab"),
        ("Ångström naïve", "angstrom|naive"),
        ("Привет, мир", "привет|мир"),
        ("— … !", ""),
        ("", ""),
    ],
)
def test_spelling(text, letters):
    assert "".join(spell(text)) == letters


@pytest.mark.parametrize("word, frames", [("", 0), ("cat", 3), ("hello", 6), ("aaa", 5)])
def test_equal_neighbours_need_a_blank_between(word, frames):
    assert ctc_frames(list(word)) == frames
