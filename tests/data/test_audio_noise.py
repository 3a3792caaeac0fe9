"""A channel of noise does not drown another; a broken sample does not drown what is around it."""

import io
import logging

import numpy as np
import pytest
import soundfile

from cress_svcd.data.audio import AudioSpec, NotFiniteError, mono_waveform, read_audio, read_blocks
from cress_svcd.data.audio_mixing import find_noise
from tests.helpers.odd_audio import RATE, encoded


def speech(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Syllables of four to a second with gaps between them, (samples,), as speech has."""
    time = np.arange(round(seconds * rate)) / rate
    random = np.random.default_rng(seed)
    loud = np.repeat(random.uniform(0, 1, int(seconds * 4) + 1) ** 3, rate // 4)[: len(time)]
    pitch = 110 + 40 * np.sin(2 * np.pi * time * 0.7 + seed)
    buzz = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / rate) / k for k in range(1, 20))
    sound = 0.15 * buzz * loud * np.abs(np.sin(2 * np.pi * 4 * time))
    return (sound + 1e-4 * random.standard_normal(len(time))).astype(np.float32)


def noise(kind: str, samples: int, rms: float, rate: int = RATE) -> np.ndarray:
    time = np.arange(samples) / rate
    white = np.random.default_rng(9).standard_normal(samples)
    if kind.startswith("hum"):
        wave = sum(np.sin(2 * np.pi * int(kind[3:]) * k * time + k) / k for k in range(1, 8))
    else:
        spectrum = np.fft.rfft(white)
        frequency = np.maximum(20, np.arange(len(spectrum)) * rate / samples)
        power = {"white": 0, "pink": 0.5, "brown": 1}[kind]
        wave = np.fft.irfft(spectrum / frequency**power, samples)
    return (wave * rms / np.sqrt(np.mean(np.square(wave)))).astype(np.float32)


X, Y = speech(12), speech(12, seed=4)
LEVEL = float(np.sqrt(np.mean(X**2)))
KINDS = ["white", "pink", "brown", "hum50", "hum60"]


def share(mono, sound):
    """Of the power of ``mono``, what is ``sound``."""
    return float((mono @ sound) ** 2 / (sound @ sound) / (mono @ mono))


class TestChannels:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("gain", [0.5, 1, 6])
    def test_speech_and_noise(self, kind, gain, caplog):
        other = noise(kind, len(X), gain * LEVEL)
        for channels, number in (([X, other], 2), ([other, X], 1)):
            caplog.clear()
            np.testing.assert_array_equal(mono_waveform(np.stack(channels, axis=1)), X)
            assert f"waveform: channel {number} of 2 holds nothing but steady noise" in caplog.text
        three = mono_waveform(np.stack([other, X, Y], axis=1))
        np.testing.assert_allclose(three, (X + Y) / 2, atol=1e-7)

    @pytest.mark.parametrize(
        "channels",
        {
            "two speakers": [X, Y],
            "a quiet speaker": [X, 0.05 * Y],
            "silence": [X, 0 * X],
            "dither": [X, noise("white", len(X), 1e-5)],
            "a speaker in noise": [X, Y + noise("pink", len(X), 0.7 * LEVEL)],
            "noise alone": [noise("white", len(X), 0.1), noise("pink", len(X), 0.01)],
            "noise and a tone": [noise("white", len(X), 0.1), noise("hum50", len(X), 0.1)],
        }.values(),
    )
    def test_others_are_averaged(self, channels, caplog):
        wave = np.stack(channels, axis=1)
        np.testing.assert_array_equal(mono_waveform(wave), wave.mean(axis=1))
        assert not caplog.records

    def test_opposite_speech_with_noise_beside_it(self):
        hum = noise("hum50", len(X), LEVEL)
        assert share(mono_waveform(np.stack([X, hum, -X], axis=1)), X) > 0.99

    @pytest.mark.parametrize("format", ["FLAC", "OGG", "MP3", "npy"])
    def test_in_files(self, tmp_path, format, caplog):
        wave = np.stack([X, noise("white", len(X), 2 * LEVEL)], axis=1)
        path = tmp_path / f"a.{format.lower()}"
        if format == "npy":
            np.save(path, wave)
        else:
            path.write_bytes(encoded(wave, format))
        whole = read_audio(str(path))
        assert share(whole[: len(X)], X) > 0.97
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.7))), whole)
        for start in (0, 15_990, 90_001):
            segment = read_audio(AudioSpec(str(path), start, 20_000))
            np.testing.assert_allclose(segment, whole[start : start + 20_000], atol=1e-5)
        (record,) = caplog.records
        assert f"{path}: channel 2 of 2 holds nothing but steady noise" in record.getMessage()

    def test_few_places_are_looked_at(self):
        """A recording of days costs no more than one of a minute."""
        seen = []

        def look(start, stop):
            seen.append(stop - start)
            return np.zeros((stop - start, 2), np.float32)

        assert find_noise(10**10, 2, RATE, look) == ()
        assert sum(seen) <= 20 * RATE
        assert find_noise(1, 2, RATE, look) == find_noise(10**9, 1, RATE, look) == ()


FLOATS = [
    (format, subtype)
    for format in soundfile.available_formats()
    for subtype in ("FLOAT", "DOUBLE")
    if format != "RAW" and soundfile.check_format(format, subtype)
]


class TestBrokenSamples:
    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("format, subtype", [*FLOATS, ("npy", "FLOAT"), ("npy", "DOUBLE")])
    def test_each_is_silence(self, tmp_path, format, subtype, channels, caplog):
        wave = np.stack([X, Y], axis=1)[: 5 * RATE, :channels].astype(np.float64)
        odd = wave.copy()
        places = 20_000 + 700 * np.arange(6)
        values = [np.nan, np.inf, -np.inf, 1e30, -3e38, 1e5]
        odd[places, channels - 1] = values
        wave[places, channels - 1] = 0
        path = tmp_path / f"a.{format.lower()}"
        if format == "npy":
            np.save(path, odd.astype(np.float32 if subtype == "FLOAT" else np.float64))
        else:
            file = io.BytesIO()
            soundfile.write(file, odd, RATE, format=format, subtype=subtype)
            path.write_bytes(file.getvalue())
        whole = read_audio(str(path))
        np.testing.assert_allclose(whole, wave.mean(axis=1), atol=1e-6)
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.7))), whole)
        for start, length in ((19_990, 20), (20_695, 3000), (0, 40_000), (20_001, 600)):
            segment = read_audio(AudioSpec(str(path), start, length))
            np.testing.assert_array_equal(segment, whole[start : start + length])
        (said,) = (line for line in caplog.messages if "tells no length" not in line)
        assert said == (
            f"{path}: has samples that are NaN, infinite or far beyond all others, such as at "
            f"1.25 s; they are taken for silence"
        )

    def test_in_memory(self, caplog):
        for value in (np.nan, np.inf, 1e30, 1e300, 1e5):
            odd = X.astype(np.float64)
            odd[30_000] = value
            expected = X.copy()
            expected[30_000] = 0
            np.testing.assert_array_equal(mono_waveform(odd), expected)
        wide = np.rint(X.astype(np.float64) * 20_000)
        wide[30_000] = 1e30
        np.testing.assert_allclose(mono_waveform(wide), expected * 20_000 / 32_768, atol=1e-4)
        assert all("waveform: has samples that are NaN" in line for line in caplog.messages)

    def test_what_is_not_broken(self, caplog):
        click = np.zeros(RATE, np.float32)
        click[500] = 1.5
        for wave in (3 * X, 200 * X, 30_000 * X, click, np.float32([1e9, -1e9, 0])):
            found = mono_waveform(wave)
            assert np.corrcoef(found, wave)[0, 1] > 0.999
        assert not caplog.records

    def test_more_of_them_than_sound(self, tmp_path, caplog):
        odd = X[: 3 * RATE].copy()
        odd[RATE:] = np.nan
        path = tmp_path / "a.wav"
        soundfile.write(path, odd, RATE, subtype="FLOAT")
        with pytest.raises(NotFiniteError, match="a.wav: 32000 of 48000 samples are NaN, infin"):
            read_audio(str(path))
        with pytest.raises(NotFiniteError, match="a.wav:20000:900: 900 of 900 samples are NaN"):
            read_audio(f"{path}:20000:900")
        assert len(read_audio(f"{path}:0:17000")) == 17_000
        blocks = np.concatenate(list(read_blocks(path)))
        np.testing.assert_array_equal(blocks, np.where(np.isnan(odd), 0, odd))
        soundfile.write(path, odd[RATE:], RATE, subtype="FLOAT")
        with pytest.raises(NotFiniteError, match="a.wav: 32000 of 32000 samples"):
            list(read_blocks(path))
        with pytest.raises(NotFiniteError, match="waveform: 32000 of 48000 samples"):
            mono_waveform(odd)
        assert {record.levelno for record in caplog.records} == {logging.WARNING}
