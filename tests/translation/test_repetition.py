"""Which hypotheses go in circles."""

import pytest

from cress_svcd.translation.repetition import repeats_itself


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", False),
        ("der Mann sieht das Haus", False),
        ("a b c " * 3, False),
        ("a b c " * 4, True),
        ("ja " * 5, False),
        ("ja " * 6, True),  # ja ja ja four times
        ("und dann ging er und dann ging sie und dann ging es", False),
        ("und dann ging er und dann ging sie und dann ging es und dann ging ich", True),
        ("1 000 000 000 000 000 000 000", False),
    ],
)
def test_words(text, expected):
    assert repeats_itself(text, ()) is expected


@pytest.mark.parametrize(
    "tokens, expected",
    [
        ("▁ha ha ha ha ha ha ha", True),
        ("▁ha ha ha ▁ha ha ha ▁ha ha ha", False),
        # The same tokens in many words are no loop.
        ("▁ge h en d ▁st eh en d ▁s eh en d ▁r en n en d ▁d en k en d", False),
        # A text without spaces is one word.
        ("▁我 们 去 我 们 去 我 们 去 我 们 去", True),
        ("▁我 们 去 我 们 去 我 们 去", False),
        ("▁1 0 0 0 0 0 0 0 0 0", False),
        # Words of another vocabulary are not to be seen in its tokens.
        ("h@@ a@@ h@@ a@@ h@@ a@@ h@@ a@@ h@@ a", False),
    ],
)
def test_tokens_within_words(tokens, expected):
    assert repeats_itself("x", tokens.split()) is expected
