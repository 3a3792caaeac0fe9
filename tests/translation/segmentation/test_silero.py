"""Silero's model, where its package is installed."""

import numpy as np
import pytest

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.translation.segmentation import Segmentation, cut, silero

RATE = 16_000
SILERO = Segmentation(segmenter="silero")


def test_without_its_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(silero, "PACKAGE", "silero_vad_that_is_not_there")
    with pytest.raises(ConfigError, match=r"pip install cress_svcd\[vad\]"):
        cut([np.zeros(RATE, np.float32)], RATE, SILERO)


def test_frames_are_as_the_model_wants_them():
    blocks = np.split(np.arange(1100, dtype=np.float32), [100, 700])
    frames = list(silero.in_frames(blocks))
    assert [len(frame) for frame in frames] == [512] * 3
    assert np.array_equal(np.concatenate(frames)[:1100], np.arange(1100))
    assert not np.concatenate(frames)[1100:].any()


class TestInstalled:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("torch")
        try:
            silero.find_weights()
        except ConfigError:
            pytest.skip("silero-vad is not installed")

    @pytest.fixture(scope="class")
    def spoken(self, prepared, release):
        """Four sentences with a second of silence before each, and where they begin."""
        parts, starts, position = [], [], 0.0
        for spec in read_manifest(prepared / "tst-COMMON.tsv")["audio"][:4]:
            wave = read_audio(spec, root=release / "en-de" / "data")
            first = np.flatnonzero(np.abs(wave) > 0.01)[0] / RATE
            starts.append(position + 1 + first)
            parts += [np.zeros(RATE, np.float32), wave]
            position += 1 + len(wave) / RATE
        return np.concatenate([*parts, np.zeros(RATE, np.float32)]), starts

    @pytest.mark.parametrize("rate", [RATE, 8_000])
    def test_sentences_are_found(self, spoken, rate):
        wave, starts = spoken
        wave = wave[:: RATE // rate]
        found = cut(np.array_split(wave, 7), rate, SILERO)
        assert len(found) == 4
        for start, span in zip(starts, found):
            assert span.offset / rate == pytest.approx(start - 0.1, abs=0.12)

    def test_neither_noise_nor_silence_nor_a_tone_is_speech(self):
        generator = np.random.default_rng(1)
        noise = (0.05 * generator.standard_normal(5 * RATE)).astype(np.float32)
        tone = (0.3 * np.sin(np.arange(5 * RATE) / 6)).astype(np.float32)
        assert cut([noise, np.zeros(5 * RATE, np.float32), tone], RATE, SILERO) == []
