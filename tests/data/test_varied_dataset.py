"""Datasets whose cuts are varied: lengths and batches follow, epoch by epoch; so do features."""

import json

import numpy as np
import pandas
import pytest
import soundfile
import torch
from fairseq.data import Dictionary

from cress_svcd.data.cut_variation import CutVariation
from cress_svcd.data.dataset import Places, SpeechTranslationDataset
from cress_svcd.data.feature_cache import (
    DEFAULT_LONGEST,
    FeatureCache,
    cuts_entry,
    segments_digest,
    variant_name,
    writing_features,
)
from cress_svcd.errors import ConfigError, ManifestError
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


def test_a_length_that_is_not_the_recordings_names_its_line(folder):
    places = Places([("train.tsv", [f"s{k}" for k in range(COUNT)])])
    dataset = varied(folder, share=1, places=places)
    dataset.n_frames[3] += 1000
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        with pytest.raises(ManifestError, match="train.tsv:5: segment s3: column n_frames says 90"):
            dataset[3]


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

    def test_of_one_variant_the_batches_are_those_of_all_epochs(self, folder):
        for variants in (1, 2):
            self.write(folder, variants)
            dataset = varied(folder, features=FeatureCache(folder, "train", self.frame))
            assert dataset.can_reuse_epoch_itr_across_epochs is (variants == 1)
            found = []
            for epoch in (1, 2, 3):
                dataset.set_epoch(epoch)
                found.append(dataset.lengths.tolist())
            assert (found[0] == found[1]) is (variants == 1) and found[0] == found[2]

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"hubert": "other"}, "its encoder is other, there x"),
            ({"layer": "convolutions"}, "its layer is convolutions, there output"),
            (
                {"cuts": {**cuts_entry(CutVariation(0.5, 1), 480_000, 1, 2)}},
                "its --vary-cuts is 0.5",
            ),
            ({"cuts": {**cuts_entry(CutVariation(0.8, 2), 480_000, 1, 2)}}, "its seed is 2"),
            (
                {"cuts": {**cuts_entry(CutVariation(0.8, 1), 9_000, 1, 2)}},
                "longest segment is 9000",
            ),
            ({"cuts": {**cuts_entry(CutVariation(0.8, 1), 480_000, 1, 3)}}, "of variants is 3"),
        ],
    )
    def test_variants_of_several_extractions_are_refused(self, folder, change, message):
        self.write(folder, 2)
        about = {"hubert": "x", "layer": "output"}
        for variant in (0, 1):
            path = folder / f"{variant_name('train', variant)}.json"
            entry = json.loads(path.read_text()) | about | {"variants": 2}
            entry["cuts"] = cuts_entry(CutVariation(0.8, 1), DEFAULT_LONGEST, variant, 2)
            if variant:
                del entry["variants"]
            path.write_text(json.dumps(entry))
        assert FeatureCache(folder, "train", self.frame).variants == 2
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(ConfigError, match=f"{message}.*extract-features") as raised:
            FeatureCache(folder, "train", self.frame)
        assert str(raised.value).startswith(f"{folder / 'train-variant1.npy'}: is of another")

    def test_of_some_time_ago_they_are_read_as_they_were(self, folder):
        """Their json has neither the longest segment nor the share of joined ones."""
        self.write(folder, 3)
        for variant in range(3):
            path = folder / f"{variant_name('train', variant)}.json"
            about = json.loads(path.read_text())
            about["cuts"]["variant"] = variant
            path.write_text(json.dumps(about))
        cache = FeatureCache(folder, "train", self.frame, join_segments=0.05)
        assert cache.variants == 3 and cache.longest == DEFAULT_LONGEST

    def test_another_share_of_joined_segments_is_named(self, folder):
        self.write(folder, 1)
        path = folder / "train.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "join_segments": 0.1}))
        with pytest.raises(ConfigError, match="with --join-segments 0.1, and 0 is wanted"):
            FeatureCache(folder, "train", self.frame, join_segments=0.0)
        with pytest.raises(ConfigError, match="or with another --join-segments; make it again"):
            FeatureCache(folder, "train", self.frame.iloc[:-1], join_segments=0.1)

    @pytest.mark.parametrize(
        "content", ["[]", "{}", '{"segments": 3}', "VARIANTS", "CUTS", "{", "null"]
    )
    def test_a_json_that_no_extraction_wrote(self, folder, content):
        self.write(folder, 1)
        path = folder / "train.json"
        about = json.loads(path.read_text())
        content = {
            "VARIANTS": json.dumps({**about, "variants": "many"}),
            "CUTS": json.dumps({**about, "cuts": {"share": "half", "seed": 1}}),
        }.get(content, content)
        path.write_text(content)
        with pytest.raises(ConfigError, match="train.npy: cannot be read .*extract-features"):
            FeatureCache(folder, "train", self.frame)

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


def pretraining(folder, cuts, n_frames=FRAMES, **options) -> SegmentHubertDataset:
    """Its labels count from 10."""
    count = (FRAMES - 400) // 320 + 1
    rows = "".join(f"{audio}\t{n_frames}\n" for audio in AUDIO)
    (folder / "train.tsv").write_text(f"{folder}\n{rows}")
    (folder / "train.km").write_text((" ".join(map(str, range(10, 10 + count))) + "\n") * COUNT)
    return SegmentHubertDataset(
        str(folder / "train.tsv"),
        16_000,
        [str(folder / "train.km")],
        label_rates=[50.0],
        pad_list=[1],
        eos_list=[2],
        label_processors=[labels_of],
        pad_audio=True,
        cuts=cuts,
        **options,
    )


@pytest.mark.parametrize("cuts", [None, CutVariation(1, seed=1)])
def test_pretraining_refuses_a_length_that_is_not_the_recordings(folder, cuts):
    dataset = pretraining(folder, cuts, n_frames=FRAMES - 100)
    message = r"train.tsv: column n_frames says 7900 .*talk.wav:24000:8000 has 8000"
    with pytest.raises(ManifestError, match=message):
        dataset[2]


def test_pretraining_lets_no_neighbours_in_where_there_are_none(folder):
    heard = [
        pretraining(folder, CutVariation(1, seed=1), neighbours=neighbours)
        for neighbours in (True, False)
    ]
    assert heard[0].sizes.tolist() == heard[1].sizes.tolist()
    differs = [not torch.equal(heard[0][k]["source"], heard[1][k]["source"]) for k in range(COUNT)]
    grown = (heard[0].plan.before > 0) | (heard[0].plan.after > 0)
    inner = slice(1, -1)  # before the first segment and behind the last one there is nothing
    assert differs[inner] == grown[inner].tolist() and grown.mean() > 0.5


def test_labels_of_frames_move_with_the_cut(folder):
    count = (FRAMES - 400) // 320 + 1
    dataset = pretraining(folder, CutVariation(1, seed=1))
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
