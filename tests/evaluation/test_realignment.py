"""Translations of recordings, divided among the reference's segments."""

import random
import sys

import editdistance
import pytest

from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.realignment import realign, signature

REFERENCES = ["Das Haus ist groß.", "Ein Hund und eine Katze.", "Ja, Wasser!"]


@pytest.mark.parametrize(
    "hypothesis, parts",
    [
        ("Das Haus ist groß. Ein Hund und eine Katze. Ja, Wasser!", REFERENCES),
        ("das HAUS ist klein. Ein Hund, eine Katze. Ja, Wasser!",
         ["das HAUS ist klein.", "Ein Hund, eine Katze.", "Ja, Wasser!"]),
        ("Ein Hund und eine Katze. Ja, Wasser!", ["", "Ein Hund und eine Katze.", "Ja, Wasser!"]),
        ("Das Haus ist groß. Ja, Wasser!", ["Das Haus ist groß.", "", "Ja, Wasser!"]),
        ("Das Haus ist groß. Ein Hund und eine Katze.", [*REFERENCES[:2], ""]),
        ("  Das  Haus ist groß.\u2028Ein Hund und ### eine Katze. Ja,\tWasser!\n",
         ["Das Haus ist groß.", "Ein Hund und ### eine Katze.", "Ja, Wasser!"]),
            (" \n", ["", "", ""]),
        ("", ["", "", ""]),
    ],
)  # fmt: skip
def test_the_fewest_words_differ(hypothesis, parts):
    assert realign(hypothesis, REFERENCES) == parts


def test_references_may_be_empty_and_alone():
    assert realign("a b c", ["", "a b", "", "c", ""]) == ["", "a b", "", "c", ""]
    assert realign("anything at all", ["one"]) == ["anything at all"]
    assert realign("a b", [""]) == ["a b"]
    assert realign("a b", []) == []
    assert realign("end begin", ["", "begin"]) == ["end", "begin"]  # our own marks are no words


def test_a_language_without_spaces_is_divided_between_characters():
    references = ["我不渴。", "我们要喝 DHA 牛奶。"]
    assert realign("我不渴。我们要喝 DHA 奶。", references, characters=True) == [
        "我不渴。",
        "我们要喝 DHA 奶。",
    ]
    assert "tok:char" in signature(True) and "tok:none" in signature()


def least_edits(references: list[list[str]], words: list[str]) -> int:
    """Of all ways to divide the words, by trying them."""
    costs = {0: 0}
    for reference in references:
        costs = {
            end: min(
                cost + editdistance.eval(reference, words[start:end])
                for start, cost in costs.items()
                if start <= end
            )
            for end in range(len(words) + 1)
        }
    return costs[len(words)]


def test_no_other_division_has_fewer_edits():
    generator = random.Random(3)
    for _ in range(200):
        references = [
            generator.choices("abcdefgh", k=generator.randint(1, 5))
            for _ in range(generator.randint(1, 5))
        ]
        heard = [part for part in references if generator.random() < 0.75]
        words = [word for part in heard for word in part if generator.random() < 0.85]
        parts = realign(" ".join(words), [" ".join(part) for part in references])
        divided = [part.split() for part in parts]
        assert sum(divided, []) == words
        edits = sum(map(editdistance.eval, references, divided))
        assert edits == least_edits(references, words)


def test_the_aligner_prints_nothing(capfd):
    realign("a b", ["a", "b"])
    sys.stderr.write("ours\n")
    assert capfd.readouterr() == ("", "ours\n")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mweralign", None)
    with pytest.raises(ConfigError, match=r"mweralign .*pip install 'cress_svcd\[score\]'"):
        realign("a", ["a"])
