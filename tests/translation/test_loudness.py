"""Loudness of what is translated: far too quiet speech is lifted, a corpus's own is left alone."""

import numpy as np
import pytest

from cress_svcd.translation.loudness import HIGHEST_DB, LOWEST_DB, USUAL_DB, at_usual_loudness


def tone(level: float) -> np.ndarray:
    """A second of a tone of so many dB below full scale, in power."""
    wave = np.sqrt(2) * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)
    return (wave * 10 ** (level / 20)).astype(np.float32)


def level(wave: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(wave.astype(np.float64) ** 2))))


@pytest.mark.parametrize("given", [LOWEST_DB + 0.1, -28.0, HIGHEST_DB - 0.1])
def test_speech_of_a_corpus_stays_as_it_is(given):
    wave = tone(given)
    assert at_usual_loudness(wave) is wave


@pytest.mark.parametrize("given", [-70.0, -58.0, LOWEST_DB - 0.1, HIGHEST_DB + 0.1])
def test_what_is_far_from_it_is_brought_there(given):
    found = at_usual_loudness(tone(given))
    assert level(found) == pytest.approx(USUAL_DB, abs=0.01) and found.dtype == np.float32


@pytest.mark.parametrize("wave", [np.zeros(100, np.float32), np.full(100, 5e-5, np.float32)])
def test_silence_stays_silent(wave):
    assert at_usual_loudness(wave) is wave
