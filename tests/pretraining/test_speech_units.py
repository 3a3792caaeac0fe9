import json

import numpy as np
import pytest

from cress_svcd.errors import ConfigError, ReleaseError
from cress_svcd.pretraining.speech_units import (
    FRAME_LENGTH,
    FRAME_SHIFT,
    Clusters,
    MfccFeatures,
    PhoneEvents,
    count_frames,
    fit_clusters,
    phone_events,
)

HUBERT_BASE = [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2


def convolved(samples):
    for kernel, stride in HUBERT_BASE:
        samples = (samples - kernel) // stride + 1
    return max(0, samples)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 719, 720, 721, 1040, 15_999, 16_000, 48_123])
def test_frames_are_those_of_huberts_convolutions(samples):
    assert count_frames(samples) == convolved(samples)
    wave = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    assert MfccFeatures()(wave).shape == (count_frames(samples), MfccFeatures.dimension)


@pytest.mark.parametrize("samples", [0, 400, 1039, 1040, 16_000])
def test_frames_of_40_ms_are_every_other(samples):
    wave = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    found = MfccFeatures(2 * FRAME_SHIFT)(wave)
    assert len(found) == count_frames(samples, 2 * FRAME_SHIFT)
    np.testing.assert_array_equal(found, MfccFeatures()(wave)[::2])


def test_cepstra_of_a_frame_depend_on_its_samples_only():
    wave = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    other = wave.copy()
    other[10 * FRAME_SHIFT + FRAME_LENGTH :] = 0
    before, after = MfccFeatures()(wave), MfccFeatures()(other)
    # The 13 cepstra themselves; the differences look at neighbours.
    np.testing.assert_array_equal(before[:11, :13], after[:11, :13])
    assert not np.allclose(before[20, :13], after[20, :13])


def test_silence_has_finite_cepstra():
    assert np.isfinite(MfccFeatures()(np.zeros(8_000, np.float32))).all()


def test_clusters_assign_the_nearest_centre(tmp_path):
    generator = np.random.default_rng(0)
    clusters = Clusters(generator.normal(size=(7, 5)).astype(np.float32))
    features = generator.normal(size=(40, 5)).astype(np.float32)
    distances = np.square(features[:, None] - clusters.centroids[None]).sum(axis=2)
    np.testing.assert_array_equal(clusters.assign(features), distances.argmin(axis=1))
    clusters.save(tmp_path / "kmeans.npz")
    with np.load(tmp_path / "kmeans.npz") as arrays:
        np.testing.assert_array_equal(arrays["centroids"], clusters.centroids)


def test_clusters_find_groups_and_depend_on_the_seed_alone():
    generator = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]], dtype=np.float32)
    truth = generator.integers(3, size=300)
    features = centres[truth] + 0.1 * generator.normal(size=(300, 2)).astype(np.float32)
    clusters = fit_clusters(features, 3, seed=1)
    labels = clusters.assign(features)
    assert len({(a, b) for a, b in zip(truth, labels)}) == 3
    again = fit_clusters(features, 3, seed=1)
    np.testing.assert_array_equal(clusters.centroids, again.centroids)


def test_more_clusters_than_frames_is_an_error():
    with pytest.raises(ConfigError, match="units.clusters: 9 clusters of 20 frames"):
        fit_clusters(np.repeat(np.eye(4, dtype=np.float32), 5, axis=0), 9, seed=1)


ROWS = [("a.wav", 1.0), ("a.wav", 0.0), ("b.wav", 0.0)]
EVENTS = [
    [[0.0, "_"], [0.1, "h"], [0.2, "aɪ"], [0.4, "_"]],
    [[0.0, "_"], [0.05, "n"], [0.3, "oʊ"], [0.45, "_"]],
    [[0.0, "_"], [0.1, "s"], [0.4, "_"]],
]


def write_release(folder, rows=ROWS, events=EVENTS):
    lines = [f"- {{duration: 0.5, offset: {at}, speaker_id: s, wav: {wav}}}\n" for wav, at in rows]
    (folder / "train.yaml").write_text("".join(lines), encoding="utf-8")
    texts = [each if isinstance(each, str) else json.dumps(each) for each in events]
    (folder / "train.phones").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder / "train.phones"


def test_phones_are_found_by_the_segments_id(tmp_path):
    events = PhoneEvents(write_release(tmp_path))
    # Ids count the segments of a talk by time: the second row is the first of its talk.
    assert events["a_0"][1] == (0.05, "n")
    assert events["a_1"][1] == (0.1, "h")
    labels = events.labels("b_0", 8_000)
    assert len(labels) == count_frames(8_000) == 24
    # Frame i is heard around 20·i + 10 ms.
    assert labels[:5] == ["_"] * 5 and labels[5:20] == ["s"] * 15 and labels[20:] == ["_"] * 4


def test_phones_of_frames_of_40_ms(tmp_path):
    labels = PhoneEvents(write_release(tmp_path)).labels("b_0", 8_000, 2 * FRAME_SHIFT)
    assert len(labels) == count_frames(8_000, 2 * FRAME_SHIFT) == 12
    # Frame i is heard around 40·i + 20 ms.
    assert labels == ["_"] * 2 + ["s"] * 8 + ["_"] * 2


def test_phones_of_another_release(tmp_path):
    events = PhoneEvents(write_release(tmp_path))
    with pytest.raises(ReleaseError, match="no line for segment 'c_0' of the manifest"):
        events["c_0"]
    with pytest.raises(ReleaseError, match=r"train.phones:1: the last phone begins at 0.40 s"):
        events.labels("a_1", 3_200)


@pytest.mark.parametrize("line", ["{", "[[0.1]]", '[["x", "h"]]', "[]", '[[0.5, "h"], [0.1, "a"]]'])
def test_a_broken_line_is_named(tmp_path, line):
    events = PhoneEvents(write_release(tmp_path, events=[EVENTS[0], line, EVENTS[2]]))
    with pytest.raises(ReleaseError, match="train.phones:2"):
        events["a_0"]


def test_phones_and_yaml_of_different_length(tmp_path):
    path = write_release(tmp_path, events=EVENTS[:2])
    with pytest.raises(ReleaseError, match="2 lines, but .*train.yaml has 3 rows"):
        PhoneEvents(path)


def test_phones_of_several_target_languages(tmp_path):
    """Their ids begin with the language, as prepare-mustc makes them."""
    folders = {code: tmp_path / code for code in ("de", "pt_BR")}
    files = {}
    for code, folder in folders.items():
        folder.mkdir()
        events = EVENTS if code == "de" else [EVENTS[0], EVENTS[1], EVENTS[0]]
        files[f"{code}:train"] = write_release(folder, events=events)
        files[f"{code}:dev"] = tmp_path / "not read"
    labels = phone_events(files, "train")
    alone = {code: PhoneEvents(files[f"{code}:train"]) for code in folders}
    for code in folders:
        assert labels(f"{code}_b_0", 8_000) == alone[code].labels("b_0", 8_000)
    assert labels("de_b_0", 8_000) != labels("pt_BR_b_0", 8_000)
    with pytest.raises(ReleaseError, match="'fr_b_0' of train is of none of .*: de, pt_BR"):
        labels("fr_b_0", 8_000)


def test_phones_of_one_language(tmp_path):
    path = write_release(tmp_path)
    assert phone_events({"train": path}, "train")("b_0", 8_000) == PhoneEvents(path).labels(
        "b_0", 8_000
    )
