"""Few shapes for all batches: what they cost, and that nothing is lost or mixed up."""

import itertools

import numpy as np
import pytest

from cress_svcd.data.batch_shapes import BatchShapes, least_padding

RATE = 16_000


@pytest.fixture
def corpus():
    """Lengths as in a corpus of talks, in samples, and tokens that follow them."""
    random = np.random.default_rng(3)
    seconds = np.clip(random.gamma(2.2, 2.6, 20_000), 0.4, 29)
    tokens = np.maximum(2, seconds * 4 * random.lognormal(0, 0.25, len(seconds))).astype(int)
    return (seconds * RATE).astype(int), tokens


def shape_of(shapes, batch, lengths, tokens):
    return shapes.shape(lengths[batch].max(), tokens[batch].max())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_other_choice_pads_less(count):
    sizes = np.array([3, 3, 4, 8, 9, 9, 9, 15, 16, 30])

    def padding(chosen):
        chosen = np.array(sorted(chosen))
        return int((chosen[np.searchsorted(chosen, sizes)]).sum())

    found = least_padding(sizes, count, 1)
    others = itertools.combinations(np.unique(sizes), count)
    assert len(found) == count and found[-1] == 30
    assert padding(found) == min(padding(chosen) for chosen in others if max(chosen) == 30)


def test_a_corpus_of_few_lengths_has_no_more_shapes():
    assert least_padding(np.array([5, 5, 7]), 8, 5).tolist() == [5, 10]


def test_padding_is_little_with_few_shapes(corpus):
    lengths, tokens = corpus
    shapes = BatchShapes.choose(lengths, tokens, 40, 1600)
    batches = shapes.batches(np.arange(len(lengths)), lengths, tokens, 600 * RATE, None)
    kinds = [(len(batch), *shape_of(shapes, batch, *corpus)) for batch in batches]
    samples, words = (sum(kind[0] * kind[part] for kind in kinds) for part in (1, 2))
    assert samples < 1.05 * lengths.sum() and words < 1.35 * tokens.sum()
    by_length = np.array_split(np.argsort(lengths), len(batches))
    assert words < 0.85 * sum(len(batch) * tokens[batch].max() for batch in by_length)
    assert len(shapes.lengths) == 40 and len(set(kinds)) <= 40 * 4 + 1


def test_every_segment_is_in_one_batch_within_the_limits(corpus):
    lengths, tokens = corpus
    order = np.random.default_rng(1).permutation(len(lengths))
    shapes = BatchShapes.choose(lengths, tokens, 8, 1600)
    batches = shapes.batches(order, lengths[order], tokens[order], 100 * RATE, 20)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        length, _ = shape_of(shapes, batch, *corpus)
        assert len(batch) <= 20 and len(batch) * length <= max(100 * RATE, length)
    by_length: dict[int, set[int]] = {}
    for batch in batches[:-1]:
        by_length.setdefault(shape_of(shapes, batch, *corpus)[0], set()).add(len(batch))
    sizes = [size for found in by_length.values() for size in found]
    assert len(sizes) <= 2 * len(by_length)


@pytest.mark.parametrize("count", [8, 24, 48])
@pytest.mark.parametrize("seconds", [190, 1200])
def test_all_batches_of_a_corpus_of_talks_but_the_last_are_full(corpus, count, seconds):
    """Left-over segments go on from length to length, as they always did."""
    lengths, tokens = corpus
    shapes = BatchShapes.choose(lengths, tokens, count, 1600)
    batches = shapes.batches(np.arange(len(lengths)), lengths, tokens, seconds * RATE, None)
    full = seconds * RATE // shapes.lengths
    assert {len(batch) for batch in batches[:-1]} <= set(full)


@pytest.mark.parametrize("added", [[600], [1190], [35, 60, 180], [40, 60, 90, 120, 240]])
def test_a_few_long_segments_make_no_small_batches_of_the_others(corpus, added):
    random, size = np.random.default_rng(5), 1200 * RATE
    lengths, tokens = corpus

    def batches(lengths, tokens):
        shapes = BatchShapes.choose(lengths, tokens, 24, 1600)
        order = random.permutation(len(lengths))
        found = shapes.batches(order, lengths[order], tokens[order], size, None)
        assert sorted(np.concatenate(found)) == list(range(len(lengths)))
        padded = [len(one) * shape_of(shapes, one, lengths, tokens)[0] for one in found]
        return found, sum(padded) / lengths.sum()

    longer = np.append(lengths, np.array(added) * RATE)
    ordinary, padded = batches(lengths, tokens)
    found, padded_longer = batches(longer, np.append(tokens, np.array(added) * 4))
    assert len(found) <= len(ordinary) + 2 and padded_longer < padded + 0.015
    assert sum(longer[batch].sum() < size / 10 for batch in found) == 0


def test_a_corpus_without_segments_has_no_shapes():
    nothing = np.zeros(0, dtype=np.int64)
    shapes = BatchShapes.choose(nothing, nothing, 4, 1600)
    assert len(shapes.lengths) == 0 and shapes.shape(300, 9) == (300, 9)


def test_longer_segments_than_were_known_are_batches_of_their_own():
    shapes = BatchShapes(np.array([100, 200]), [np.array([4]), np.array([4, 8])])
    lengths, tokens = np.array([90, 250, 150, 300]), np.array([3, 9, 7, 5])
    batches = shapes.batches(np.arange(4) + 10, lengths, tokens, 400, None)
    assert sorted(map(tuple, batches)) == [(10, 12), (11,), (13,)]
    assert shapes.shape(300, 9) == (300, 9)
    assert shapes.shape(150, 9) == (200, 9)
    assert shapes.shape(99, 3) == (100, 4)
