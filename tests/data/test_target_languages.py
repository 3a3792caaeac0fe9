"""Which rows of several target languages are read, how often, and what their batches begin with."""

import numpy as np
import pandas
import pytest
import torch

from cress_svcd.data.target_languages import BeginsWithTag, choose_rows, repeats
from cress_svcd.errors import ConfigError


def shares(languages, sizes, counts):
    weights = np.asarray(sizes) * counts
    return {code: weights[np.asarray(languages) == code].sum() / weights.sum() for code in "abc"}


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 0.9])
def test_shares_are_proportional_to_size_to_the_alpha(alpha):
    languages = ["a"] * 800 + ["b"] * 150 + ["c"] * 50
    sizes = [100] * 1000
    counts = repeats(languages, sizes, alpha, seed=1)
    expected = np.array([0.8, 0.15, 0.05]) ** alpha
    expected /= expected.sum()
    found = shares(languages, sizes, counts)
    assert [found[code] for code in "abc"] == pytest.approx(expected.tolist(), abs=0.002)
    assert counts.min() >= 1
    assert (counts[:800] == 1).all()


def test_copies_are_spread_over_a_language_and_the_same_each_time():
    languages, sizes = ["a"] * 100 + ["b"] * 80, [1] * 180
    counts = repeats(languages, sizes, 0, seed=1)
    assert counts[100:].tolist() == repeats(languages, sizes, 0, seed=1)[100:].tolist()
    assert counts[100:].tolist() != repeats(languages, sizes, 0, seed=2)[100:].tolist()
    assert sorted(set(counts[100:])) == [1, 2]
    assert counts.sum() == 200


@pytest.mark.parametrize("languages, alpha", [("aab", 1), ("aaaa", 0), ("aabb", 0.5)])
def test_as_they_are(languages, alpha):
    assert repeats(list(languages), [3] * len(languages), alpha, seed=1) is None


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_no_alpha(alpha):
    with pytest.raises(ConfigError, match="--sampling-alpha .*: expected 0 .* to 1"):
        repeats(["a", "b"], [1, 1], alpha, seed=1)


class Numbers(BeginsWithTag):
    """A dataset of nothing but its mixin."""


def test_copies_come_after_all_else_in_the_same_order():
    numbers = Numbers()
    order = np.array([2, 0, 1, 3])
    assert numbers.repeated(order) is order
    numbers.counts = np.array([1, 3, 2, 1])
    assert numbers.repeated(order).tolist() == [2, 0, 1, 3, 2, 1, 1]


def test_the_decoder_gets_the_tag_of_each_row():
    numbers = Numbers()
    batch = {
        "id": torch.tensor([2, 0]),
        "net_input": {"prev_output_tokens": torch.tensor([[2, 5, 6], [2, 7, 1]])},
    }
    assert "start_tokens" not in numbers.with_starts(dict(batch))
    numbers.starts = np.array([90, 91, 92])
    found = numbers.with_starts(batch)
    assert found["start_tokens"].tolist() == [92, 90]
    assert found["net_input"]["prev_output_tokens"].tolist() == [[92, 5, 6], [90, 7, 1]]
    assert numbers.with_starts({}) == {}


class TestRows:
    FRAME = pandas.DataFrame({"id": list("xyz"), "tgt_lang": ["de", "ro", "de"]})

    def test_of_one_language(self):
        assert choose_rows(self.FRAME, ["de", "ro"], "de", "dev.tsv").index.tolist() == [0, 2]
        assert choose_rows(self.FRAME, ["de", "ro"], None, "dev.tsv") is self.FRAME

    @pytest.mark.parametrize(
        "languages, wanted, message",
        [
            (["de"], None, "dev.tsv:3: column tgt_lang: 'ro'; expected one of .*: de$"),
            (["de", "ro", "fr"], "fr", "dev.tsv: column tgt_lang: no row of fr"),
        ],
    )
    def test_that_are_not_there(self, languages, wanted, message):
        with pytest.raises(ConfigError, match=message):
            choose_rows(self.FRAME, languages, wanted, "dev.tsv")
