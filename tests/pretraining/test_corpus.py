import numpy as np
import pandas
import pytest

from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ManifestError
from cress_svcd.pretraining.corpus import (
    Limits,
    Utterance,
    cluster_labels,
    frequent_letters,
    sample_features,
    select_transcribed,
    select_utterances,
)
from cress_svcd.pretraining.speech_units import MfccFeatures, count_frames, fit_clusters
from tests.helpers.tone_corpus import write_prepared

MANIFEST = pandas.DataFrame(
    [("a", "x.wav:0:5", 4_000, "hi"), ("b", "x.wav:5:9", 9_000, "you"), ("c", "y.wav", 99, "")],
    columns=["id", "audio", "n_frames", "src_text"],
)


def test_segments_are_selected_by_length_and_counted():
    kept, report = select_utterances(MANIFEST, Limits(4_000, 8_000), "train.tsv")
    assert kept == [Utterance("a", "x.wav:0:5", 4_000, "hi")]
    assert report.dropped == {"too long": 1, "too short": 1}
    assert report.segments == 1 and report.hours == pytest.approx(4_000 / 16_000 / 3600, abs=1e-4)
    assert len(select_utterances(MANIFEST, Limits(0), "train.tsv")[0]) == 3


def test_nothing_left_is_an_error():
    with pytest.raises(ManifestError, match=r"train.tsv: none of 3 .* \(3 too short\)"):
        select_utterances(MANIFEST, Limits(10_000), "train.tsv")


def test_transcripts_that_ctc_cannot_use_are_counted():
    utterances = [
        Utterance("a", "", 8_000, "ab, ba"),
        Utterance("b", "", 8_000, "…"),
        Utterance("c", "", 8_000, "a" * 13),  # 24 frames, 25 needed
        Utterance("d", "", 8_000, "z"),  # no letter of the dictionary
        Utterance("e", "", 80, "a"),
    ]
    kept, letters, report = select_transcribed(utterances, Limits(400), set("ab|"), "train.tsv")
    assert [each.id for each in kept] == ["a"] and letters == [list("ab|ba")]
    assert report.dropped == {
        "empty transcript": 2,
        "more letters than CTC can place": 1,
        "too short": 1,
    }
    with pytest.raises(ManifestError, match="no segment has a transcript .*2 empty transcript"):
        select_transcribed([utterances[1], utterances[3]], Limits(0), set("ab"), "train.tsv")


def test_letters_are_ordered_by_frequency_and_rare_ones_left_out():
    assert frequent_letters(["abba", "bca"], least=2) == ["a", "b"]


def test_labels_are_the_same_from_one_or_several_processes(tmp_path):
    folder = write_prepared(tmp_path / "data", train=70)
    utterances, _ = select_utterances(read_manifest(folder / "train.tsv"), Limits(400), "")
    features = MfccFeatures()
    sample = sample_features(utterances, str(folder), features, 500, seed=1, workers=1)
    assert 500 <= len(sample) < 600
    clusters = fit_clusters(sample, 8, seed=1)
    one, two = (
        list(cluster_labels(utterances, str(folder), features, clusters, workers, "train"))
        for workers in (1, 2)
    )
    assert [len(each) for each in one] == [count_frames(u.samples) for u in utterances]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
