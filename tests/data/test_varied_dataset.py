"""Datasets whose cuts are varied: lengths and batches follow, epoch by epoch; so do features."""

import json

import numpy as np
import pandas
import pytest
import soundfile
import torch
from fairseq.data import Dictionary

from cress_svcd.data.cut_variation import CutVariation
from cress_svcd.data.dataset import SpeechTranslationDataset
from cress_svcd.data.feature_cache import (
    FeatureCache,
    segments_digest,
    variant_name,
    writing_features,
)
from cress_svcd.errors import ConfigError
from cress_svcd.pretraining.dataset import SegmentHubertDataset

COUNT, FRAMES = 40, 8000
AUDIO = [f"talk.wav:{12_000 * k}:{FRAMES}" for k in range(COUNT)]


@pytest.fixture
def folder(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 12_000 * COUNT + 8000).astype(np.float32)
    soundfile.write(tmp_path / "talk.wav", wave, 16_000, subtype="FLOAT")
    return tmp_path


def varied(folder, share=0.8, **options) -> SpeechTranslationDataset:
    cuts = CutVariation(share, seed=1)
    return SpeechTranslationDataset(
        AUDIO, [FRAMES] * COUNT, None, None, Dictionary(), str(folder), cuts=cuts, **options
    )


def test_segments_are_as_long_as_the_batches_are_told(folder):
    dataset = varied(folder)
    for epoch in (1, 5):
        dataset.set_epoch(epoch)
        found = [len(dataset[index]["audio"]) for index in range(COUNT)]
        assert found == dataset.num_tokens_vec(np.arange(COUNT)).tolist()
        assert found == dataset.sizes[:, 0].tolist()
        assert len(set(found)) > COUNT / 2
        order = dataset.ordered_indices()
        assert (np.diff(dataset.lengths[order]) >= 0).all()


def test_an_epoch_is_heard_again_as_it_was(folder):
    once, again = varied(folder), varied(folder)
    once.set_epoch(4)
    for epoch in (1, 2, 3, 4):
        again.set_epoch(epoch)
    for index in range(COUNT):
        np.testing.assert_array_equal(once[index]["audio"], again[index]["audio"])
    again.set_epoch(5)
    assert any(len(once[k]["audio"]) != len(again[k]["audio"]) for k in range(COUNT))


def test_batches_are_made_for_each_epoch_only_where_they_differ(folder):
    assert not varied(folder).can_reuse_epoch_itr_across_epochs
    plain = SpeechTranslationDataset(AUDIO, [FRAMES] * COUNT, None, None, Dictionary(), str(folder))
    assert plain.can_reuse_epoch_itr_across_epochs
    plain.set_epoch(7)
    assert plain.lengths.tolist() == [FRAMES] * COUNT


class TestFeatures:
    frame = pandas.DataFrame({"id": [str(k) for k in range(COUNT)], "audio": AUDIO})

    def write(self, folder, variants):
        about = {"segments": segments_digest(self.frame), "variants": variants}
        about["cuts"] = {"share": 0.8, "seed": 1}
        for variant in range(variants):
            with writing_features(folder, variant_name("train", variant), 2, about) as add:
                for index in range(COUNT):
                    add(np.full((3, 2), 100 * variant + index))

    def test_epochs_take_the_variants_in_turn(self, folder):
        self.write(folder, 3)
        features = FeatureCache(folder, "train", self.frame)
        assert features.cuts == CutVariation(0.8, seed=1)
        dataset = varied(folder, features=features)
        for epoch in range(1, 8):
            dataset.set_epoch(epoch)
            assert dataset[5]["audio"][0, 0] == 100 * (epoch % 3) + 5
            plan = CutVariation(0.8, seed=1).plan(epoch % 3, dataset.n_frames)
            assert dataset.lengths.tolist() == (FRAMES + plan.before + plan.after).tolist()

    def test_features_without_variants_are_as_before(self, folder):
        about = {"segments": segments_digest(self.frame)}
        with writing_features(folder, "train", 2, about) as add:
            for index in range(COUNT):
                add(np.full((3, 2), index))
        features = FeatureCache(folder, "train", self.frame)
        assert features.cuts is None and features.variants == 1 and features[7][0, 0] == 7

    def test_a_variant_that_is_missing_is_told(self, folder):
        self.write(folder, 2)
        (folder / "train-variant1.npy").unlink()
        with pytest.raises(ConfigError, match="train-variant1.npy: cannot be read"):
            FeatureCache(folder, "train", self.frame)

    def test_a_variant_of_other_segments_is_refused(self, folder):
        self.write(folder, 2)
        path = folder / "train-variant1.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "segments": "other"}))
        with pytest.raises(ConfigError, match="train-variant1.npy: made from other segments"):
            FeatureCache(folder, "train", self.frame)


def test_labels_of_frames_move_with_the_cut(folder):
    count = (FRAMES - 400) // 320 + 1
    rows = "".join(f"{audio}\t{FRAMES}\n" for audio in AUDIO)
    (folder / "train.tsv").write_text(f"{folder}\n{rows}")
    (folder / "train.km").write_text((" ".join(map(str, range(10, 10 + count))) + "\n") * COUNT)
    dataset = SegmentHubertDataset(
        str(folder / "train.tsv"),
        16_000,
        [str(folder / "train.km")],
        label_rates=[50.0],
        pad_list=[1],
        eos_list=[2],
        label_processors=[labels_of],
        pad_audio=True,
        cuts=CutVariation(1, seed=1),
    )
    dataset.set_epoch(2)
    moved = 0
    for index in range(COUNT):
        labels, wave = dataset.get_label(index, 0).tolist(), dataset[index]["source"]
        edges = dataset.plan.before[index], dataset.plan.after[index]
        before, after = (round(int(edge) / 320) for edge in edges)
        expected = list(range(10, 10 + count))[max(0, -before) : count - max(0, -after)]
        assert labels == [1] * max(0, before) + expected + [1] * max(0, after)
        assert len(wave) == dataset.sizes[index]
        moved += before > 0
    assert moved > COUNT / 2


def labels_of(text: str) -> torch.Tensor:
    return torch.tensor([int(each) for each in text.split()])
