import numpy as np
import pytest

from cress_svcd.data.augmentation import effects
from cress_svcd.data.augmentation.effects import CODECS, EFFECTS, loudness
from cress_svcd.data.augmentation.transforms import SHARES

RATE = 16_000


def noise(samples=RATE, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def power_between(wave, low, high):
    power = np.abs(np.fft.rfft(wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    return power[(low <= hertz) & (hertz < high)].sum()


def test_all_have_a_share():
    assert set(EFFECTS) == set(SHARES) - {"speed"}


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("samples", [1, 7, 400, 12_345])
def test_samples_stay_as_many_and_finite(name, samples):
    for seed in range(6):
        changed = EFFECTS[name](noise(samples), np.random.default_rng(seed))
        assert changed.shape == (samples,) and changed.dtype == np.float32
        assert np.isfinite(changed).all()


@pytest.mark.parametrize("name", EFFECTS)
def test_silence_stays_silent(name):
    silence = np.zeros(4000, np.float32)
    assert np.abs(EFFECTS[name](silence, np.random.default_rng(1))).max() < 0.01


def test_noise_is_as_far_below_as_was_drawn(monkeypatch):
    monkeypatch.setattr(effects, "NOISES_DB", (10.0, 10.0))
    wave = noise()
    added = effects.add_noise(wave, np.random.default_rng(1)) - wave
    assert 20 * np.log10(loudness(wave) / added.std()) == pytest.approx(10, abs=0.01)


def test_a_band_is_left(monkeypatch):
    monkeypatch.setattr(effects, "LOWEST_HZ", (300.0, 300.0))
    monkeypatch.setattr(effects, "HIGHEST_HZ", (3000.0, 3000.0))
    wave = noise(4 * RATE)
    left = effects.limit_band(wave, np.random.default_rng(5))
    assert power_between(left, 600, 2000) > 0.8 * power_between(wave, 600, 2000)
    assert power_between(left, 6000, 8000) < 0.4 * power_between(wave, 6000, 8000)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec[1])
def test_codecs_keep_what_is_said_where_it_is(codec, monkeypatch):
    """A chirp below 3 kHz comes back nearly as it was, and not later."""
    monkeypatch.setattr(effects, "CODECS", (codec,))
    time = np.arange(RATE) / RATE
    chirp = (0.4 * np.sin(2 * np.pi * (300 + 600 * time) * time)).astype(np.float32)
    heard = effects.encode(chirp, np.random.default_rng(1))
    assert (heard != chirp).any()
    assert np.corrcoef(chirp[800:-800], heard[800:-800])[0, 1] > 0.95


def test_masks_hide_times_and_bands():
    wave, hidden = noise(), 0
    for seed in range(20):
        masked = effects.mask(wave, np.random.default_rng(seed))
        hidden += (masked == 0).sum()
        assert (masked == 0).mean() < 0.25
        assert 0.6 < loudness(masked) / loudness(wave) <= 1
    assert hidden > 1000


def test_a_room_rings_on():
    wave = np.zeros(RATE, np.float32)
    wave[:1600] = noise(1600)
    heard = effects.put_into_room(wave, np.random.default_rng(2))
    assert loudness(heard[1700:3000]) > 0.01 * loudness(heard[:1600])
    assert loudness(heard) == pytest.approx(loudness(wave), rel=1e-4)
    assert np.abs(heard[12_000:]).max() < 1e-6  # 0.3 s of answer
