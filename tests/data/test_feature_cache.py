"""Cached features of a frozen encoder: the same training as from audio."""

import pickle

import numpy as np
import pandas
import pytest

from cress_svcd.data.feature_cache import FeatureCache, segments_digest, writing_features
from cress_svcd.errors import ConfigError


@pytest.fixture
def frame():
    return pandas.DataFrame({"id": ["a", "b", "c"], "audio": ["a.wav", "b.wav:0:9", "c.wav"]})


@pytest.fixture
def segments():
    return [np.random.default_rng(i).normal(size=(i + 2, 5)).astype(np.float16) for i in range(3)]


def write(folder, frame, segments):
    about = {"segments": segments_digest(frame), "hubert": "x"}
    with writing_features(folder, "train", 5, about) as add:
        for features in segments:
            add(features)


def test_what_is_written_is_read(tmp_path, frame, segments):
    write(tmp_path, frame, segments)
    cache = FeatureCache(tmp_path, "train", frame)
    assert len(cache) == 3 and cache.about["frames"] == 9
    assert np.load(tmp_path / "train.npy").shape == (9, 5)
    for copy in (cache, pickle.loads(pickle.dumps(cache))):
        for index, features in enumerate(segments):
            assert copy[index].dtype == np.float16
            np.testing.assert_array_equal(copy[index], features)


def test_other_segments_are_refused(tmp_path, frame, segments):
    write(tmp_path, frame, segments)
    with pytest.raises(ConfigError, match="other segments"):
        FeatureCache(tmp_path, "train", frame.iloc[::-1])


def test_what_broke_off_is_no_cache(tmp_path, frame, segments):
    write(tmp_path, frame, segments)

    def breaking():
        yield segments[0]
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write(tmp_path, frame, breaking())
    assert not FeatureCache.exists(tmp_path, "train")
    assert not list(tmp_path.glob(".*.part"))


def test_a_truncated_file_is_a_clear_error(tmp_path, frame, segments):
    write(tmp_path, frame, segments)
    file = tmp_path / "train.npy"
    file.write_bytes(file.read_bytes()[:140])
    with pytest.raises(ConfigError, match="extract-features"):
        FeatureCache(tmp_path, "train", frame)


@pytest.mark.parametrize("name", ["train.npy", "train.ends.npy"])
@pytest.mark.parametrize("damage", [b"", 300 * b"(", b"{'descr': '|O', ", b"{'shape': (9,), '"])
def test_a_damaged_header_is_a_clear_error(tmp_path, frame, segments, name, damage):
    write(tmp_path, frame, segments)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(
        content[:10] + damage + content[10 + len(damage) :] if damage else b""
    )
    with pytest.raises(ConfigError, match="train.npy: cannot be read .*extract-features"):
        FeatureCache(tmp_path, "train", frame)


@pytest.mark.parametrize(
    "ends",
    [[2.0, 5.0, 9.0], [5, 2, 9], [[2, 5, 9]], [-1, 5, 9]],
    ids=["float", "falls", "2d", "< 0"],
)
def test_ends_that_are_none(tmp_path, frame, segments, ends):
    write(tmp_path, frame, segments)
    np.save(tmp_path / "train.ends.npy", np.array(ends))
    with pytest.raises(ConfigError, match="cannot be read"):
        FeatureCache(tmp_path, "train", frame)
