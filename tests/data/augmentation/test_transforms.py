import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import Dictionary

from cress_svcd.data.augmentation.transforms import SHARES, SPEEDS, AudioTransforms
from cress_svcd.data.dataset import SpeechTranslationDataset
from cress_svcd.errors import ConfigError

RATE = 16_000
LENGTHS = np.array([8_000, 12_345, 16_000, 30_000, 24_000, 9_999])


def tone(samples, hertz=440.0):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)).astype(np.float32)


@pytest.fixture
def audio(tmp_path):
    """Names of recordings of a tone each, of LENGTHS samples."""
    for number, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / f"{number}.wav", tone(length), RATE)
    return tmp_path, [f"{number}.wav" for number in range(len(LENGTHS))]


def dataset(audio, text="all", seed=1, **options):
    root, names = audio
    transforms = AudioTransforms.parse(text, seed)
    return SpeechTranslationDataset(
        names, LENGTHS, None, None, Dictionary(), root, transforms=transforms, **options
    )


def waves(segments, workers=0):
    loader = (
        torch.utils.data.DataLoader(
            segments, batch_size=None, num_workers=workers, multiprocessing_context="fork"
        )
        if workers
        else segments
    )
    return [item["audio"].numpy() for item in loader]


class TestParse:
    def test_names_and_shares(self):
        assert AudioTransforms.parse("noise=0.25, speed").shares == {"speed": 0.7, "noise": 0.25}
        assert AudioTransforms.parse("all").shares == SHARES
        assert AudioTransforms.parse("all,room=0").shares == {
            name: share for name, share in SHARES.items() if name != "room"
        }
        assert AudioTransforms.parse("") is None and AudioTransforms.parse("noise=0") is None

    @pytest.mark.parametrize("text", ["reverb", "noise=2", "noise=x", "noise=", "=1", "speed=-1"])
    def test_what_is_wrong_is_named(self, text):
        with pytest.raises(ConfigError, match=f"--audio-transforms: '{text}'; expected"):
            AudioTransforms.parse(f"mask,{text}")


class TestSpeeds:
    def test_they_are_drawn_anew_in_each_epoch(self):
        transforms, lengths = AudioTransforms({"speed": 0.5}, 3), np.full(4000, 16_000)
        speeds = transforms.speeds(2, lengths)
        assert (speeds != 1).mean() == pytest.approx(0.5, abs=0.05)
        assert SPEEDS[0] <= speeds.min() < 0.9 and 1.15 < speeds.max() <= SPEEDS[1]
        np.testing.assert_array_equal(speeds, transforms.speeds(2, lengths))
        assert (speeds != transforms.speeds(3, lengths)).any()
        assert (speeds != AudioTransforms({"speed": 0.5}, 4).speeds(2, lengths)).any()

    def test_no_segment_grows_beyond_the_longest(self):
        transforms, lengths = AudioTransforms({"speed": 1.0}), np.full(500, 16_000)
        speeds = transforms.speeds(1, lengths, longest=16_500)
        stretched = transforms.lengths(lengths, speeds)
        assert stretched.max() <= 16_500 and stretched.min() < 14_000

    def test_pitch_and_length_go_together(self):
        wave = AudioTransforms({"speed": 1.0}).apply(tone(16_000), 1.2, epoch=1, index=0)
        assert len(wave) == 13_333
        peak = np.abs(np.fft.rfft(wave[:12_000])).argmax() * RATE / 12_000
        assert peak == pytest.approx(440 * 1.2, abs=2)


class TestDataset:
    def test_a_segment_is_as_long_as_batches_are_filled_for(self, audio):
        segments = dataset(audio)
        for epoch in (1, 2, 5):
            segments.set_epoch(epoch)
            assert [len(wave) for wave in waves(segments)] == segments.lengths.tolist()
            assert segments.sizes[:, 0].tolist() == segments.lengths.tolist()
        assert (segments.lengths != LENGTHS).any()

    def test_each_epoch_sounds_otherwise_and_again_the_same(self, audio):
        segments = dataset(audio, "all,noise=1")
        first = waves(segments)
        segments.set_epoch(2)
        second = waves(segments)
        segments.set_epoch(1)
        for old, other, again in zip(first, second, waves(segments)):
            np.testing.assert_array_equal(old, again)
            assert len(old) != len(other) or (old != other).any()

    def test_the_number_of_workers_changes_nothing(self, audio):
        segments = dataset(audio)
        segments.set_epoch(3)
        for alone, together in zip(waves(segments), waves(segments, workers=2)):
            np.testing.assert_array_equal(alone, together)

    def test_one_more_transform_leaves_the_others_as_they_are(self, audio):
        band = waves(dataset(audio, "band=1"))
        both = waves(dataset(audio, "band=1,gain=1"))
        for one, two in zip(band, both):
            loudest = np.abs(two) == np.abs(two).max()
            if np.abs(two).max() < 0.99:  # else clipped
                gain = two[loudest][0] / one[loudest][0]
                np.testing.assert_allclose(two, one * gain, atol=1e-5)

    def test_without_them_all_is_as_before(self, audio):
        segments = dataset(audio, "")
        assert segments.can_reuse_epoch_itr_across_epochs
        assert not dataset(audio).can_reuse_epoch_itr_across_epochs
        np.testing.assert_allclose(waves(segments)[2], tone(16_000), atol=1e-4)
