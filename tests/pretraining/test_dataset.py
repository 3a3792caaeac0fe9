import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import Dictionary
from fairseq.tasks.hubert_pretraining import LabelEncoder

from cress_svcd.data.audio import read_audio
from cress_svcd.data.augmentation.transforms import AudioTransforms
from cress_svcd.data.batch_shapes import BatchShapes
from cress_svcd.pretraining.dataset import SegmentHubertDataset


def dictionary(symbols):
    result = Dictionary()
    for symbol in symbols:
        result.add_symbol(symbol)
    return result


@pytest.fixture
def dataset(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 60_000).astype(np.float32)
    soundfile.write(tmp_path / "talk.flac", wave, 16_000)
    soundfile.write(tmp_path / "other.wav", wave[:24_000], 8_000)
    audio = ["talk.flac:1000:8000", "talk.flac:20000:9600", "other.wav:0:4000", "talk.flac:0:900"]
    samples = [8_000, 9_600, 8_000, 900]
    rows = "".join(f"{a}\t{n}\n" for a, n in zip(audio, samples))
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n{rows}")
    frames = [(n - 400) // 320 + 1 for n in samples]
    units = [[(7 * i + t) % 5 for t in range(count)] for i, count in enumerate(frames)]
    (tmp_path / "train.km").write_text("".join(" ".join(map(str, u)) + "\n" for u in units))
    texts = ["é t é", "n o ñ", "ж у к", "x"]
    (tmp_path / "train.ltr").write_text("\n".join(texts) + "\n", encoding="utf-8")
    dictionaries = [dictionary("01234"), dictionary("étnoñжукx")]
    result = SegmentHubertDataset(
        str(tmp_path / "train.tsv"),
        16_000,
        [str(tmp_path / "train.km"), str(tmp_path / "train.ltr")],
        label_rates=[50.0, -1.0],
        pad_list=[1, 1],
        eos_list=[2, 2],
        label_processors=[LabelEncoder(each) for each in dictionaries],
        min_keep_sample_size=1_000,
        pad_audio=True,
    )
    result.test = (tmp_path, audio, units, texts, dictionaries)
    return result


def test_segments_are_those_of_the_manifest(dataset):
    folder, audio, *_ = dataset.test
    assert len(dataset) == 3  # one is too short
    for index in range(3):
        expected = read_audio(audio[index], folder)
        np.testing.assert_array_equal(dataset[index]["source"].numpy(), expected)
        assert dataset.size(index) == len(expected)


def test_labels_are_right_also_beyond_ascii(dataset):
    *_, units, texts, dictionaries = dataset.test
    for index in range(3):
        frames, letters = dataset[index]["label_list"]
        assert dictionaries[0].string(frames) == " ".join(map(str, units[index]))
        assert dictionaries[1].string(letters) == texts[index]
        assert frames.dtype == letters.dtype == torch.int64


def test_batches_are_padded_to_a_multiple(dataset):
    dataset.length_multiple = 8_000
    batch = dataset.collater([dataset[index] for index in (0, 1)])
    assert batch["net_input"]["source"].shape == (2, 16_000)
    assert batch["net_input"]["padding_mask"].sum(dim=1).tolist() == [8_000, 6_400]
    assert batch["target_lengths_list"][0].tolist() == [24, 29]


def test_batches_are_padded(dataset):
    batch = dataset.collater([dataset[index] for index in (0, 1)])
    assert batch["net_input"]["source"].shape == (2, 9_600)
    assert batch["net_input"]["padding_mask"].sum(dim=1).tolist() == [1_600, 0]
    frames, letters = batch["target_list"]
    assert batch["target_lengths_list"][0].tolist() == [24, 29]
    assert frames.shape == (2, 29) and (frames[0, 24:] == 1).all()
    assert letters.shape == (2, 3)


class TestTransforms:
    """Segments that sound otherwise in each epoch."""

    @pytest.fixture
    def varied(self, dataset):
        dataset.transforms = AudioTransforms.parse("all,speed=1")
        dataset.set_epoch(2)
        return dataset

    def test_segments_have_the_length_that_batches_are_made_for(self, varied):
        assert (varied.sizes != varied.n_frames).all()
        assert not varied.can_reuse_epoch_itr_across_epochs
        for index in range(3):
            assert len(varied[index]["source"]) == varied.sizes[index] == varied.size(index)

    def test_labels_of_frames_follow_the_speed_and_letters_stay(self, varied):
        *_, units, texts, dictionaries = varied.test
        for index in range(3):
            frames, letters = varied[index]["label_list"]
            speed = varied.speeds[index]
            assert len(frames) == round(len(units[index]) / speed)
            for place, label in enumerate(dictionaries[0].string(frames).split()):
                assert int(label) == units[index][int((place + 0.5) * speed)]
            assert dictionaries[1].string(letters) == texts[index]

    def test_slower_segments_are_not_longer_than_the_longest(self, dataset):
        dataset.transforms, dataset.max_sample_size = AudioTransforms.parse("speed=1"), 9_700
        for epoch in range(1, 9):
            dataset.set_epoch(epoch)
            assert dataset.sizes.max() <= 9_700

    def test_a_batch(self, varied):
        batch = varied.collater([varied[index] for index in range(3)])
        assert batch["net_input"]["source"].shape == (3, varied.sizes.max())


class TestShapes:
    """Batches of few shapes, letters and units included."""

    @pytest.fixture
    def shaped(self, dataset):
        dataset.token_counts = dataset._letters()
        dataset.shapes = BatchShapes.choose(
            dataset.lengths, dataset.token_counts, 1, 1_600, token_shapes=1
        )
        return dataset

    def test_letters_are_counted(self, shaped):
        assert shaped.token_counts.tolist() == [3, 3, 3]

    def test_every_batch_has_one(self, shaped):
        batches = shaped.batch_by_size(np.arange(3), max_tokens=20_000)
        assert sorted(map(len, batches)) == [1, 2]
        for batch in batches:
            sample = shaped.collater([shaped[index] for index in batch])
            assert sample["net_input"]["source"].shape == (len(batch), 9_600)
            units, letters = sample["target_list"]
            assert units.shape == (len(batch), 30) and letters.shape == (len(batch), 4)
            counts = sample["target_lengths_list"]
            assert [of.sum().item() for of in counts] == sample["ntokens_list"]
            assert all((row[int(count) :] == 1).all() for row, count in zip(units, counts[0]))

    def test_more_letters_than_were_known(self, shaped):
        samples = [shaped[index] for index in range(2)]
        samples[0]["label_list"][1] = torch.full((4,), 5)
        assert shaped.collater(samples)["target_list"][1].shape == (2, 4)
        samples[0]["label_list"][1] = torch.full((70,), 5)
        _, letters = shaped.collater(samples)["target_list"]
        assert letters.shape == (2, 128) and (letters[0, :70] == 5).all()
