"""Channels that cancel each other are not silence, nor are 16-bit samples of a wide type."""

import numpy as np
import pytest
import soundfile

from cress_svcd.data.audio import (
    AudioSpec,
    is_silent,
    mono_waveform,
    read_audio,
    read_blocks,
)
from cress_svcd.errors import AudioError
from tests.helpers.odd_audio import RATE, encoded, sweep

X, Y = sweep(5.4)[:, 0], sweep(5.4, seed=3)[::-1, 0]
QUIET = 0.01 * np.random.default_rng(5).standard_normal((len(X), 8)).astype(np.float32)
SWAPPED = np.where(np.arange(len(X)) < 2 * RATE, X, -X)


def heard(mono, sound):
    """How much of ``sound`` is in ``mono``, as a share of its amplitude."""
    return float(mono @ sound / (sound @ sound))


@pytest.mark.parametrize(
    "channels, sounds",
    {
        "opposite": ([X, -X], [X]),
        "opposite and quieter": ([X, -0.7 * X], [X]),
        "quieter first": ([-0.7 * X, X], [X]),
        "with noise": ([X + QUIET[:, 0], -X + QUIET[:, 1]], [X]),
        "with an offset": ([X + 0.2, 0.1 - X], [X]),
        "one is silent": ([X, 0 * X], [X]),
        "the other is silent": ([0 * X, X], [X]),
        "two voices": ([X, Y], [X, Y]),
        "two voices, one opposite": ([X, -X, Y], [X, Y]),
        "three that add up to nothing": ([X, -0.5 * X, -0.5 * X], [X]),
        "four": ([X, X, -X, -X], [X]),
        "one of eight": ([*QUIET.T[:7], X], [X]),
        "opposite from the third second on": ([X, SWAPPED], [X]),
    }.values(),
)
def test_a_channel_that_is_heard_stays(tmp_path, channels, sounds):
    wave = np.stack(channels, axis=1).astype(np.float32)
    mono = mono_waveform(wave)
    for sound in sounds:
        for start in range(0, len(X), RATE):
            second = slice(start, start + RATE)
            assert abs(heard(mono[second], sound[second])) > 0.1
    for name, subtype in (("a.wav", "FLOAT"), ("a.flac", "PCM_24"), ("a.npy", None)):
        path = tmp_path / name
        np.save(path, wave) if subtype is None else soundfile.write(path, wave, RATE, subtype)
        whole = read_audio(str(path))
        np.testing.assert_allclose(whole, mono, atol=1e-5)
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.7))), whole)
        for start, length in ((0, 100), (15_990, 20), (31_000, 3000), (len(X) - 700, 700)):
            segment = read_audio(AudioSpec(str(path), start, length))
            np.testing.assert_array_equal(segment, whole[start : start + length])


@pytest.mark.parametrize("format", ["OGG", "MP3"])
def test_channels_that_cancel_in_lossy_files(tmp_path, format):
    path = tmp_path / f"a.{format.lower()}"
    path.write_bytes(encoded(np.stack([X, -X], axis=1), format))
    whole = read_audio(str(path))
    assert abs(heard(whole[: len(X)], X)) > 0.8
    np.testing.assert_allclose(read_audio(f"{path}:20000:9000"), whole[20_000:29_000], atol=1e-5)


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_others_are_averaged_as_ever(channels):
    wave = sweep(3.3, channels=channels)
    np.testing.assert_array_equal(mono_waveform(wave), wave.mean(axis=1))
    noise = np.random.default_rng(1).standard_normal((5000, channels)).astype(np.float32)
    np.testing.assert_array_equal(mono_waveform(noise), noise.mean(axis=1))


@pytest.mark.parametrize("kind", ["int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("bits", [16, 24, 32])
def test_wide_types_by_their_peak(tmp_path, kind, bits):
    if kind == "float32" and bits == 32:
        pytest.skip("float32 has 24 bits")
    stored = np.rint(X.astype(np.float64) * (2 ** (bits - 1) - 1)).astype(kind)
    np.testing.assert_allclose(mono_waveform(stored), X, atol=1e-4)
    np.save(tmp_path / "a.npy", stored)
    np.testing.assert_allclose(read_audio(f"{tmp_path}/a.npy"), X, atol=1e-4)
    # A quiet segment has the scale of the whole.
    np.testing.assert_allclose(read_audio(f"{tmp_path}/a.npy:7:3"), X[7:10], atol=1e-4)
    stereo = np.stack([stored, stored], axis=1)
    np.testing.assert_allclose(mono_waveform(stereo), X, atol=1e-4)


@pytest.mark.parametrize("kind", ["int16", "int8", "uint8"])
def test_narrow_types_have_a_scale_of_their_own(kind):
    bits = np.iinfo(kind).bits
    quiet = X / 100 if kind == "int16" else X
    steps = np.rint(quiet * (2 ** (bits - 1) - 1)) + (128 if kind == "uint8" else 0)
    found = mono_waveform(steps.astype(kind))
    np.testing.assert_allclose(found, quiet, atol=1e-4 if kind == "int16" else 0.01)


def test_floats_somewhat_beyond_full_scale_stay():
    for gain in (3.0, 30.0):
        np.testing.assert_array_equal(mono_waveform(gain * X), gain * X)


@pytest.mark.parametrize(
    "samples, said",
    [
        (np.full(9, 10**12), r"int64 samples with a peak of 1e\+12"),
        (np.full(9, 1e20), r"float64 samples with a peak of 1e\+20"),
        (np.arange(9, dtype=np.uint16) + 65_000, "uint16 .* from 65000 to 65008"),
        (np.zeros(9, bool), "holds bool"),
        (np.zeros(9, complex), "holds complex128"),
        (np.zeros(9, object), "holds object"),
    ],
)
def test_others_are_refused_with_their_peak(tmp_path, samples, said):
    with pytest.raises(AudioError, match=f"waveform: .*{said}.*expected"):
        mono_waveform(samples)
    if samples.dtype != object:
        np.save(tmp_path / "a.npy", samples)
        with pytest.raises(AudioError, match=f"a.npy: .*{said}.*expected"):
            read_audio(f"{tmp_path}/a.npy")


def test_extremes():
    lowest = np.array([-(2**63), 0, 5])
    with pytest.raises(AudioError, match="peak of 9.223e"):
        mono_waveform(lowest)
    assert mono_waveform(np.array([-(2**31), 0], dtype=np.int32))[0] == -1
    assert mono_waveform(np.array([-(2**15), 0]))[0] == -1
    assert is_silent(mono_waveform(np.zeros(9, np.int64)))
    with pytest.raises(AudioError, match="2 of 3 samples are NaN"):
        mono_waveform(np.array([np.inf, np.nan, 5]))
