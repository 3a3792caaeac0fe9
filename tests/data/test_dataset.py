"""Datasets of the task: packed sentences and paths, segments of speech, batches."""

import numpy as np
import pandas
import pytest
import soundfile
import torch
from fairseq.data import Dictionary, data_utils
from hypothesis import given
from hypothesis import strategies as st

from cress_svcd.data.audio import standardize
from cress_svcd.data.dataset import (
    EncodedSentences,
    PackedStrings,
    Places,
    SpeechTranslationDataset,
    check_language,
    text_dataset,
)
from cress_svcd.errors import AudioError, ConfigError, ManifestError

WORDS = ["a", "dog", "sees", "the", "red", "house"]
TARGETS = ["the dog", "a red house sees the dog", "house", "the red dog sees"]
SOURCES = ["a dog", "house", "the red house", "sees a dog"]
OFFSETS = [100, 2_000, 9_000, 5_000]
FRAMES = [1_500, 700, 2_900, 700]


@pytest.fixture
def dictionary() -> Dictionary:
    dictionary = Dictionary()
    for word in WORDS:
        dictionary.add_symbol(word)
    return dictionary


def words(dictionary, tokens) -> str:
    """The sentence of a padded row."""
    return dictionary.string(tokens[tokens != dictionary.pad()])


def encoded(sentences, dictionary) -> EncodedSentences:
    return EncodedSentences(sentences, lambda sentence: sentence, dictionary, "here")


@pytest.fixture
def recording(tmp_path) -> np.ndarray:
    """A recording in which every sample differs from its neighbours, written to talk.wav."""
    wave = np.random.default_rng(0).uniform(-0.9, 0.9, 12_000).astype(np.float32)
    soundfile.write(tmp_path / "talk.wav", wave, 16_000, subtype="FLOAT")
    return wave


@pytest.fixture
def make(tmp_path, recording, dictionary):
    """Makes a dataset of four segments of the recording."""

    def make(**options) -> SpeechTranslationDataset:
        options.setdefault("targets", encoded(TARGETS, dictionary))
        options.setdefault("sources", encoded(SOURCES, dictionary))
        audio = [f"talk.wav:{offset}:{frames}" for offset, frames in zip(OFFSETS, FRAMES)]
        return SpeechTranslationDataset(
            audio, FRAMES, dictionary=dictionary, audio_root=tmp_path, **options
        )

    return make


class TestPackedStrings:
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
    def test_gives_back_any_strings(self, strings):
        packed = PackedStrings(strings)
        assert len(packed) == len(strings)
        assert [packed[i] for i in range(len(packed))] == strings

    def test_takes_a_column_of_a_frame_and_numpys_indices(self):
        packed = PackedStrings(pandas.Series(["a", "", "größe"]))
        assert [packed[i] for i in np.arange(3)] == ["a", "", "größe"]


def test_places_count_lines_in_each_manifest():
    places = Places([("a.tsv", ["x", "y"]), ("b.tsv", pandas.Series(["z"]))])
    assert [places[i] for i in range(3)] == [
        "a.tsv:2: segment x",
        "a.tsv:3: segment y",
        "b.tsv:2: segment z",
    ]


class TestEncodedSentences:
    def test_gives_back_what_the_dictionary_encodes(self, dictionary):
        sentences = encoded(TARGETS, dictionary)
        assert len(sentences) == len(TARGETS)
        for index, text in enumerate(TARGETS):
            assert sentences[index].dtype == torch.long
            assert sentences.sizes[index] == len(sentences[index]) == len(text.split()) + 1
            assert sentences[index][-1] == dictionary.eos()
            assert dictionary.string(sentences[index]) == text

    def test_a_changed_tensor_does_not_change_the_data(self, dictionary):
        sentences = encoded(TARGETS, dictionary)
        sentences[1].zero_()
        assert dictionary.string(sentences[1]) == TARGETS[1]

    def test_none_is_fine(self, dictionary):
        assert len(encoded([], dictionary)) == 0

    def test_many_unknown_tokens_are_an_error_that_says_where(self, dictionary):
        with pytest.raises(ConfigError, match=r"here: 4 of 5 tokens \(80.00%\)"):
            encoded(["der Hund sieht", "das dog"], dictionary)

    def test_few_unknown_tokens_are_a_warning(self, dictionary, caplog):
        sentences = encoded(["the dog sees a cat", "the red house"], dictionary)
        assert "1 of 8 tokens" in caplog.text
        assert (sentences[0] == dictionary.unk()).sum() == 1


class TestSegments:
    def test_each_is_its_part_of_the_recording(self, make, recording, dictionary):
        dataset = make()
        assert len(dataset) == 4
        for index, (offset, frames) in enumerate(zip(OFFSETS, FRAMES)):
            item = dataset[index]
            assert item["id"] == index and item["audio"].dtype == torch.float32
            assert np.array_equal(item["audio"].numpy(), recording[offset : offset + frames])
            assert dictionary.string(item["target"]) == TARGETS[index]
            assert dictionary.string(item["source"]) == SOURCES[index]

    def test_normalised_if_asked_for(self, make, recording):
        wave = make(normalize=True)[0]["audio"].numpy()
        np.testing.assert_array_equal(wave, standardize(recording[100:1_600]))
        assert abs(wave.mean()) < 1e-6 and abs(wave.std() - 1) < 1e-3

    def test_sizes(self, make):
        dataset = make()
        assert dataset.sizes.tolist() == [[1_500, 3], [700, 7], [2_900, 2], [700, 5]]
        assert [dataset.size(i) for i in range(4)] == [tuple(row) for row in dataset.sizes.tolist()]
        assert [dataset.num_tokens(i) for i in range(4)] == FRAMES
        assert dataset.num_tokens_vec(np.array([2, 0])).tolist() == [2_900, 1_500]

    def test_without_references_there_are_no_targets(self, make):
        dataset = make(targets=None, sources=None)
        batch = dataset.collater([dataset[i] for i in range(2)])
        assert dataset.sizes[:, 1].tolist() == [0] * 4 and dataset.size(1) == (700, 0)
        assert batch["target"] is None and "source_text" not in batch
        assert "prev_output_tokens" not in batch["net_input"]

    def test_filter(self, make):
        dataset, indices = make(), np.array([3, 2, 1, 0])
        kept, left_out = dataset.filter_indices_by_size(indices, (1_500, 6))
        assert kept.tolist() == [3, 0] and left_out == [2, 1]
        kept, left_out = dataset.filter_indices_by_size(indices, (None, 6))
        assert kept.tolist() == [3, 2, 0] and left_out == [1]
        assert dataset.filter_indices_by_size(indices, None) == (indices, [])


class TestLengths:
    """What a manifest says of its audio is compared with it."""

    def segment(self, tmp_path, dictionary, audio, n_frames):
        places = Places([("dev.tsv", ["ted_1"])])
        dataset = SpeechTranslationDataset(
            [audio], [n_frames], None, None, dictionary, tmp_path, places=places
        )
        return dataset[0]["audio"]

    @pytest.mark.parametrize("n_frames", [750, 3_000])
    def test_of_other_audio(self, tmp_path, recording, dictionary, n_frames):
        message = rf"dev.tsv:2: segment ted_1: .* {n_frames} samples.* talk.wav:0:1500 has 1500"
        with pytest.raises(ManifestError, match=message):
            self.segment(tmp_path, dictionary, "talk.wav:0:1500", n_frames)

    @pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
    @pytest.mark.parametrize("rounding", [np.floor, np.ceil])
    def test_rounded_in_another_way(self, tmp_path, dictionary, rate, rounding):
        soundfile.write(tmp_path / "x.wav", np.zeros(10_007), rate)
        n_frames = int(rounding(5_003 / rate * 16_000))
        assert len(self.segment(tmp_path, dictionary, "x.wav:7:5003", n_frames)) > 0

    def test_of_a_waveform_in_npy(self, tmp_path, dictionary):
        np.save(tmp_path / "x.npy", np.zeros(2_000, np.float32))
        assert len(self.segment(tmp_path, dictionary, "x.npy", 2_000)) == 2_000
        with pytest.raises(ManifestError, match="x.npy has 2000"):
            self.segment(tmp_path, dictionary, "x.npy", 1_000)

    def test_cached_features_are_not_audio(self, make):
        assert make(features=[np.zeros((3, 5), np.float32)] * 4)[0]["audio"].shape == (3, 5)

    def test_audio_that_cannot_be_read_is_named_with_its_segment(self, tmp_path, dictionary):
        with pytest.raises(AudioError, match="dev.tsv:2: segment ted_1: .*gone.wav: does not"):
            self.segment(tmp_path, dictionary, "gone.wav", 10)


class TestOrder:
    def test_by_length_and_as_they_come(self, make):
        assert make().ordered_indices().tolist() == [1, 3, 0, 2]

    def test_shuffling_draws_the_order_of_equal_lengths_by_the_seed(self, make):
        dataset = make(shuffle=True)
        orders = []
        for seed in (*range(8), *range(8)):
            with data_utils.numpy_seed(seed):
                orders.append(tuple(dataset.ordered_indices().tolist()))
        assert orders[:8] == orders[8:]
        assert set(orders) == {(1, 3, 0, 2), (3, 1, 0, 2)}


class TestCollater:
    def test_longest_first_and_padded_with_zeros(self, make, recording):
        dataset = make()
        batch = dataset.collater([dataset[i] for i in (1, 0, 2)])
        assert batch["id"].tolist() == [2, 0, 1] and batch["nsentences"] == 3
        waves, lengths = batch["net_input"]["src_tokens"], batch["net_input"]["src_lengths"]
        assert waves.shape == (3, 2_900) and lengths.tolist() == [2_900, 1_500, 700]
        for wave, length, offset in zip(waves, lengths, (9_000, 100, 2_000)):
            assert np.array_equal(wave[:length].numpy(), recording[offset : offset + length])
            assert not wave[length:].any()

    def test_padded_to_a_multiple(self, make):
        dataset = make(length_multiple=1_000)
        batch = dataset.collater([dataset[i] for i in (1, 2)])
        waves, lengths = batch["net_input"]["src_tokens"], batch["net_input"]["src_lengths"]
        assert waves.shape == (2, 3_000) and lengths.tolist() == [2_900, 700]
        assert not waves[0, 2_900:].any()

    def test_features_are_padded_to_the_same_time(self, make):
        dataset = make(length_multiple=8_000)
        frames = [torch.ones(length, 4) for length in (26, 3)]
        samples = [dataset[index] | {"audio": frames[index]} for index in (0, 1)]
        batch = dataset.collater(samples)["net_input"]
        assert batch["src_tokens"].shape == (2, 50, 4) and batch["src_lengths"].tolist() == [26, 3]

    def test_texts_follow_the_order_of_the_speech(self, make, dictionary):
        dataset = make()
        batch = dataset.collater([dataset[i] for i in (1, 0, 2)])
        pad, eos = dictionary.pad(), dictionary.eos()
        target, text = batch["target"], batch["source_text"]
        assert [words(dictionary, row) for row in target] == [TARGETS[i] for i in (2, 0, 1)]
        assert target.tolist()[0] == [dictionary.index("house"), eos] + [pad] * 5
        assert batch["ntokens"] == 2 + 3 + 7 == (target != pad).sum()
        assert [words(dictionary, row) for row in text["src_tokens"]] == [
            SOURCES[i] for i in (2, 0, 1)
        ]
        assert text["src_lengths"].tolist() == [4, 3, 2]

    def test_the_decoder_reads_the_target_shifted_by_one(self, make, dictionary):
        dataset = make()
        batch = dataset.collater([dataset[i] for i in range(4)])
        previous, target = batch["net_input"]["prev_output_tokens"], batch["target"]
        assert (previous[:, 0] == dictionary.eos()).all()
        for shifted, row in zip(previous, target):
            size = int((row != dictionary.pad()).sum())
            assert torch.equal(shifted[1:size], row[: size - 1])
            assert (shifted[size:] == dictionary.pad()).all()

    def test_of_nothing_is_nothing(self, make):
        assert make().collater([]) == {}


@pytest.mark.slow
def test_spawned_workers_give_the_same_batches(make):
    dataset = make()
    batches = [[1, 0], [2, 3]]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collater,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    for batch, indices in zip(loader, batches, strict=True):
        expected = dataset.collater([dataset[i] for i in indices])
        assert torch.equal(batch["net_input"]["src_tokens"], expected["net_input"]["src_tokens"])
        assert torch.equal(batch["target"], expected["target"])


def test_workers_share_the_data(make):
    """Python objects would be copied into each worker as soon as they are looked at."""
    dataset = make()
    kept = [
        value
        for part in (dataset, dataset.audio, dataset.targets, dataset.sources)
        for value in vars(part).values()
    ]
    assert sum(isinstance(value, np.ndarray) for value in kept) == 9
    assert not any(isinstance(value, (list, tuple, dict, pandas.Series)) for value in kept)


def test_text_is_padded_on_the_right(dictionary):
    dataset = text_dataset(
        encoded(SOURCES, dictionary), encoded(TARGETS, dictionary), dictionary, dictionary, False
    )
    batch = dataset.collater([dataset[i] for i in range(4)])
    tokens = batch["net_input"]["src_tokens"]
    assert batch["net_input"]["src_lengths"].tolist() == [4, 4, 3, 2]
    assert sorted(words(dictionary, row) for row in tokens) == sorted(SOURCES)
    assert (tokens[:, 0] != dictionary.pad()).all() and (tokens[3, 2:] == dictionary.pad()).all()


class TestLanguages:
    frame = pandas.DataFrame({"tgt_lang": ["de", "", "de"], "src_lang": ["en", "en", "en"]})

    def test_of_the_right_language_or_of_none(self):
        for asked in ("de", None, ""):
            assert check_language(self.frame, "tgt_lang", asked, "train.tsv") is None
        assert set(self.frame["tgt_lang"]) == {"de", ""}  # a row that says nothing may be of any

    @pytest.mark.parametrize(
        "column, flag, found",
        [("tgt_lang", "--tgt-lang", "de"), ("src_lang", "--source-lang", "en")],
    )
    def test_of_another_is_an_error_with_the_remedy(self, column, flag, found):
        message = rf"train.tsv: column {column} holds {found}.*fr.*{flag} {found}"
        with pytest.raises(ConfigError, match=message):
            check_language(self.frame, column, "fr", "train.tsv")


def test_batches_of_text_have_few_shapes_and_lose_nothing(dictionary):
    draw = np.random.default_rng(2)
    sources, targets = (
        [" ".join(draw.choice(WORDS, size)) for size in draw.integers(1, 40, 300)] for _ in range(2)
    )
    sources.append(" ".join(["dog"] * 90))
    targets.append("house")
    pair = encoded(sources, dictionary), encoded(targets, dictionary)
    dataset = text_dataset(*pair, dictionary, dictionary, True)
    plain = text_dataset(*pair, dictionary, dictionary, False)
    dataset.batch_shapes = 3
    order = dataset.ordered_indices()
    batches = dataset.batch_by_size(order[order != 300], max_tokens=400)
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    assert len(dataset.shapes.lengths) == 3 and dataset.shapes.lengths[-1] < 50
    shapes = set()
    for indices in [*batches, [300]]:  # which is longer than all shapes
        batch = dataset.collater([dataset[index] for index in indices])
        source, target = batch["net_input"]["src_tokens"], batch["target"]
        if 300 not in indices:
            assert max(source.numel(), target.numel()) <= 400
            shapes.add((*source.shape[1:], *target.shape[1:]))
        for row, index in enumerate(batch["id"].tolist()):
            assert words(dictionary, source[row]) == sources[index]
            assert words(dictionary, target[row]) == targets[index]
        wanted = plain.collater([plain[index] for index in batch["id"].tolist()])
        assert batch["ntokens"] == wanted["ntokens"]
        assert batch["net_input"]["prev_output_tokens"].shape == target.shape
    assert len(shapes) <= 3 * 4
