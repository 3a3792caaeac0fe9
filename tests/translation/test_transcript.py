"""Labels of frames become tokens with their times."""

import numpy as np

from cress_svcd.translation.transcript import DELAY_FRAMES, HeardToken, merge_labels, token_edges


def test_repetitions_are_merged_and_blanks_left_out():
    labels = np.array([0, 5, 5, 0, 5, 7, 7, 0, 0])
    assert merge_labels(labels, blank=0) == [
        HeardToken(5, 1, 3),
        HeardToken(5, 4, 5),
        HeardToken(7, 5, 7),
    ]
    assert merge_labels(np.zeros(4, int), blank=0) == []
    assert merge_labels(np.zeros(0, int), blank=0) == []


def test_a_token_lasts_until_the_next_one():
    heard = [HeardToken(5, 0, 1), HeardToken(5, 4, 5), HeardToken(7, 5, 7)]
    edges = token_edges(heard, frames=9)
    assert edges.tolist() == [0.0, 4 - DELAY_FRAMES, 5 - DELAY_FRAMES, 7.0]
    assert token_edges([], frames=9).tolist() == [0.0]
