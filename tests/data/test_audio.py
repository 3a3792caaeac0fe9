"""Reading segments: the same samples as decoding the whole file, for every kind of file."""

import re
import struct
import unicodedata

import numpy as np
import pytest
import soundfile
import soxr

from cress_svcd.data.audio import (
    AudioInfo,
    AudioSpec,
    audio_info,
    is_silent,
    mono_waveform,
    parse_audio_spec,
    read_audio,
    read_blocks,
    resampled_length,
    standardize,
)
from cress_svcd.errors import AudioError


def chirp(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """A sweep with noise, so that a shift of one sample is seen; shape (frames, channels)."""
    time = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(rate + channels).standard_normal((len(time), channels))
    sweep = 0.3 * np.sin(2 * np.pi * (150 + 60 * time) * time) * (1 + 0.5 * np.sin(7 * time))
    return np.clip(sweep[:, None] + 0.05 * noise, -1, 1).astype(np.float32)


def write_sound(path, wave, rate, subtype=None, format=None):
    """In blocks: libsndfile's Vorbis encoder crashes on long arrays."""
    channels = wave.shape[1]
    with soundfile.SoundFile(path, "w", rate, channels, subtype=subtype, format=format) as sound:
        for start in range(0, len(wave), rate):
            sound.write(wave[start : start + rate])
    return path


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a.wav", AudioSpec("a.wav")),
        ("a.wav:16:32", AudioSpec("a.wav", 16, 32)),
        ("a.wav:16:-1", AudioSpec("a.wav", 16, -1)),
        ("talk 3: été.wav:0:5", AudioSpec("talk 3: été.wav", 0, 5)),
        ("12:30:45.wav", AudioSpec("12:30:45.wav")),
        ("C:7:12:30:45", AudioSpec("C:7:12", 30, 45)),
        ("a.wav:16", AudioSpec("a.wav:16")),
        ("a.wav:x:16", AudioSpec("a.wav:x:16")),
    ],
)
def test_spec_takes_the_last_two_numbers(text, expected):
    assert parse_audio_spec(text) == expected
    assert parse_audio_spec(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "a.wav:-1:5", "a.wav:0:0", "a.wav:3:-2"])
def test_spec_that_means_nothing_is_refused(text):
    with pytest.raises(AudioError):
        parse_audio_spec(text)


FORMATS = {
    "pcm16.wav": (16_000, 1, "PCM_16", "WAV"),
    "pcm24-stereo.wav": (44_100, 2, "PCM_24", "WAV"),
    "float.WAV": (8_000, 1, "FLOAT", "WAV"),
    "double.wav": (22_050, 3, "DOUBLE", "WAVEX"),
    "unsigned8.wav": (8_000, 1, "PCM_U8", "WAV"),
    "big.rf64": (16_000, 1, "PCM_16", "RF64"),
    "a.flac": (16_000, 2, "PCM_16", "FLAC"),
    "vorbis.ogg": (16_000, 1, "VORBIS", "OGG"),
    "vorbis-stereo.OGG": (44_100, 2, "VORBIS", "OGG"),
    "opus.opus": (16_000, 1, "OPUS", "OGG"),
    "opus-stereo.ogg": (48_000, 2, "OPUS", "OGG"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_segments_equal_slices_of_the_whole(tmp_path, name):
    rate, channels, subtype, format = FORMATS[name]
    path = write_sound(tmp_path / name, chirp(rate, 12, channels), rate, subtype, format)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    assert audio_info(path) == AudioInfo(rate, len(whole), channels)

    length = rate // 10
    starts = np.random.default_rng(1).integers(0, len(whole) - length, 60)
    tail = np.linspace(len(whole) - 3 * rate, len(whole) - length, 60).astype(int)
    for start in [0, 1, *starts, *tail]:
        segment = read_audio(AudioSpec(str(path), int(start), length), sample_rate=rate)
        np.testing.assert_allclose(segment, whole[start : start + length], atol=1e-6, rtol=0)
    np.testing.assert_allclose(read_audio(str(path), sample_rate=rate), whole, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("subtype, rate", [("VORBIS", 44_100), ("OPUS", 16_000)])
def test_ogg_with_pages_of_many_seconds_is_sample_exact(tmp_path, subtype, rate):
    wave = np.zeros((20 * rate, 1), np.float32)
    wave[:rate] = wave[-rate:] = chirp(rate, 1)
    path = write_sound(tmp_path / "quiet.ogg", wave, rate, subtype, "OGG")
    whole = soundfile.read(path, dtype="float32")[0]
    for start in np.linspace(0, len(whole) - 500, 150).astype(int):
        segment = read_audio(AudioSpec(str(path), int(start), 500), sample_rate=rate)
        np.testing.assert_allclose(segment, whole[start : start + 500], atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 12_345])
def test_length_after_resampling_is_what_the_manifest_says(tmp_path, rate):
    path = write_sound(tmp_path / "a.wav", chirp(rate, 0.5), rate)
    for frames in [1, 2, 3, 5, 100, 101, 1001, 2500]:
        segment = read_audio(AudioSpec(str(path), 7, frames))
        assert segment.shape == (resampled_length(frames, rate),)
        assert segment.dtype == np.float32 and segment.flags.c_contiguous


def test_resampling_is_that_of_soxr(tmp_path):
    wave = chirp(44_100, 1)
    path = write_sound(tmp_path / "a.wav", wave, 44_100, "FLOAT")
    segment = read_audio(f"{path.name}:4410:22050", root=tmp_path)
    np.testing.assert_allclose(segment, soxr.resample(wave[4410:26460, 0], 44_100, 16_000))


def test_channels_are_averaged(tmp_path):
    wave = chirp(16_000, 0.2, 2)
    path = write_sound(tmp_path / "a.wav", wave, 16_000, "FLOAT")
    np.testing.assert_allclose(read_audio(str(path)), wave.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("shape", ["(n,)", "(n, 2)", "(2, n)"])
@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int16", "int32"])
def test_npy(tmp_path, kind, shape):
    wave = chirp(16_000, 0.1, 2) / 2
    stored = {"(n,)": wave[:, 0], "(n, 2)": wave, "(2, n)": wave.T}[shape]
    if kind.startswith("int"):
        stored = stored.astype(np.float64) * 2.0 ** (np.iinfo(kind).bits - 1)
    path = tmp_path / "a.npy"
    np.save(path, stored.astype(kind))
    expected = wave[:, 0] if shape == "(n,)" else wave.mean(axis=1)
    tolerance = 1e-3 if kind == "float16" else 1e-4
    np.testing.assert_allclose(read_audio(f"{path}:100:500"), expected[100:600], atol=tolerance)
    assert audio_info(path) == AudioInfo(16_000, 1600, 1 if shape == "(n,)" else 2)


def test_npy_of_features_is_no_waveform(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 80), np.float32))
    with pytest.raises(AudioError, match=r"float32 of shape \(100, 80\).*expected a waveform"):
        audio_info(tmp_path / "a.npy")


def test_npy_with_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(AudioError, match=r"a.npy: holds object of shape \(1,\)"):
        read_audio(str(tmp_path / "a.npy"))


def test_missing_empty_foreign_and_soundless_files(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not a sound" * 100)
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    (tmp_path / "folder.wav").mkdir()
    write_sound(tmp_path / "none.wav", np.zeros((0, 1), np.float32), 16_000)
    for name, problem in {
        "absent.wav": "does not exist",
        "empty.wav": r"empty \(0 bytes\)",
        "text.wav": "not audio",
        "a.raw": "not audio",
        "folder.wav": "no regular file",
        "none.wav": "no samples",
    }.items():
        for read in (audio_info, lambda path: read_audio(str(path))):
            with pytest.raises(AudioError, match=f"{name}.*{problem}"):
                read(tmp_path / name)


TRUNCATABLE = {
    "a.wav": ("PCM_16", "WAV"),
    "a24.wav": ("PCM_24", "WAVEX"),
    "a.rf64": ("PCM_16", "RF64"),
    "a.flac": ("PCM_16", "FLAC"),
    "vorbis.ogg": ("VORBIS", "OGG"),
    "opus.ogg": ("OPUS", "OGG"),
    "a.npy": (None, None),
}


@pytest.mark.parametrize("part", [0.5, 0.97])
@pytest.mark.parametrize("name", TRUNCATABLE)
def test_truncated_files_are_read_as_far_as_they_decode(tmp_path, name, part, caplog):
    subtype, format = TRUNCATABLE[name]
    path = tmp_path / name
    wave = chirp(16_000, 6)
    if format is None:
        np.save(path, wave)
    else:
        write_sound(path, wave, 16_000, subtype, format)
    whole = read_audio(str(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) - 101])
    frames = audio_info(path).frames
    assert 0.4 * part < frames / len(wave) < part
    np.testing.assert_allclose(read_audio(str(path)), whole[:frames], atol=1e-6)
    assert sum(map(len, read_blocks(path, 0.7))) == frames
    with pytest.raises(AudioError, match=f"{name}:{len(wave) - 900}:900: .*the file at {frames}"):
        read_audio(f"{path}:{len(wave) - 900}:900")
    (record,) = caplog.records
    said = "its last Ogg page is cut" if format == "OGG" else r"of the 6.\d+ s that its header"
    assert re.search(rf"{name}: has {frames / 16_000:.1f}\d* s.* {said}", record.message)


def test_what_nothing_decodes_of_is_an_error(tmp_path):
    for name, (subtype, format) in TRUNCATABLE.items():
        path = tmp_path / name
        if format is None:
            np.save(path, chirp(16_000, 1))
        else:
            write_sound(path, chirp(16_000, 1), 16_000, subtype, format)
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(AudioError, match=rf"{name}: (holds no samples|is not audio|is trunc)"):
            audio_info(path)


def test_sizes_that_recorders_leave_open_are_no_truncation(tmp_path):
    path = write_sound(tmp_path / "a.wav", chirp(16_000, 0.5), 16_000)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    for size in (0xFFFFFFFF, 16_000 + 44):
        content[at : at + 4] = struct.pack("<I", size)
        path.write_bytes(content)
        assert audio_info(path).frames == 8_000
        assert len(read_audio(str(path))) == 8_000


def test_segment_past_the_end(tmp_path):
    path = write_sound(tmp_path / "a.wav", chirp(8_000, 1), 8_000)
    assert len(read_audio(f"{path}:7000:1000")) == 2_000
    for spec, end in (("7000:1001", 8001), ("8000:-1", 8001), ("9000:5", 9005)):
        message = f"a.wav:{spec}: .* ends at sample {end}, the file at 8000"
        with pytest.raises(AudioError, match=message):
            read_audio(f"{path}:{spec}")
    np.save(tmp_path / "a.npy", np.zeros(100))
    with pytest.raises(AudioError, match="ends at sample 101, the file at 100"):
        read_audio(f"{tmp_path}/a.npy:1:100")


def test_paths_with_spaces_colons_and_letters_of_any_script(tmp_path):
    folder = tmp_path / "часть 1: début"
    folder.mkdir()
    write_sound(folder / "講演 7:30.wav", chirp(16_000, 0.1), 16_000)
    assert len(read_audio("часть 1: début/講演 7:30.wav:100:200", root=tmp_path)) == 200


def test_standardize():
    wave = chirp(16_000, 1)[:, 0] * 0.1 + 0.2
    result = standardize(wave)
    assert result.dtype == np.float32
    assert abs(result.mean()) < 1e-5 and abs(result.std() - 1) < 0.01
    assert np.abs(standardize(np.full(100, 0.3, np.float32))).max() < 1e-3


def test_silence():
    assert is_silent(np.zeros(100, np.float32))
    assert is_silent(np.full(100, 0.25, np.float32))
    assert not is_silent(chirp(16_000, 0.1)[:, 0] * 0.01)


@pytest.mark.parametrize("name", [*FORMATS, "wave.npy"])
def test_blocks_are_the_whole_file(tmp_path, name):
    if name.endswith(".npy"):
        rate = 16_000
        np.save(tmp_path / name, chirp(rate, 3.3, 2))
    else:
        rate, channels, subtype, format = FORMATS[name]
        write_sound(tmp_path / name, chirp(rate, 3.3, channels), rate, subtype, format)
    blocks = list(read_blocks(tmp_path / name, seconds=0.7))
    assert [len(block) for block in blocks[:-1]] == [round(0.7 * rate)] * (len(blocks) - 1)
    whole = read_audio(str(tmp_path / name), sample_rate=audio_info(tmp_path / name).sample_rate)
    assert len(blocks) > 3 and np.array_equal(np.concatenate(blocks), whole)


@pytest.mark.skipif("MP3" not in soundfile.available_formats(), reason="libsndfile without MP3")
def test_segments_of_mp3_are_those_of_the_whole(tmp_path):
    wave = chirp(16_000, 9)
    wave[np.arange(len(wave)) // 2_000 % 2 == 0] = 0  # so that loud packets borrow from silent ones
    write_sound(tmp_path / "a.mp3", wave, 16_000, "MPEG_LAYER_III", "MP3")
    whole = read_audio(str(tmp_path / "a.mp3"))
    for offset in range(1_000, 100_000, 3_001):
        part = read_audio(AudioSpec(str(tmp_path / "a.mp3"), offset, 20_000))
        np.testing.assert_allclose(part, whole[offset : offset + 20_000], atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_samples_in_memory_are_taken_as_those_of_a_file(tmp_path, rate):
    wave = chirp(rate, 1.3, 2)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    expected = read_audio(str(tmp_path / "a.wav"))
    assert np.array_equal(mono_waveform(wave, rate), expected)
    assert np.array_equal(mono_waveform(wave.T, rate), expected)
    steps = np.round(wave[:, 0] * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    soundfile.write(tmp_path / "b.wav", steps, rate)
    assert np.array_equal(mono_waveform(steps, rate), read_audio(str(tmp_path / "b.wav")))


@pytest.mark.parametrize(
    "samples",
    [np.zeros(0), np.zeros((20, 20)), np.zeros(5, complex), np.full(2, np.inf), np.array("x")],
)
def test_samples_that_are_no_waveform_are_refused(samples):
    with pytest.raises(AudioError, match="waveform"):
        mono_waveform(samples)
    with pytest.raises(AudioError, match="rate"):
        mono_waveform(np.ones(5), 0)


@pytest.mark.parametrize("there, asked", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("suffix", [".wav", ".npy"])
def test_a_name_may_have_its_letters_composed_otherwise(tmp_path, there, asked, suffix):
    """As where the manifest was made on one system and the audio copied from another."""
    wave = chirp(16_000, 1)
    name, other = (unicodedata.normalize(form, f"é/été{suffix}") for form in (there, asked))
    assert name != other
    path = tmp_path / name
    path.parent.mkdir()
    if suffix == ".npy":
        np.save(path, wave)
    else:
        write_sound(path, wave, 16_000, "FLOAT")
    np.testing.assert_array_equal(read_audio(f"{other}:100:300", tmp_path), wave[100:400, 0])
    assert audio_info(tmp_path / other) == audio_info(path)
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(tmp_path / other))), wave[:, 0])
    with pytest.raises(AudioError, match="does not exist"):
        read_audio(f"{other}x", tmp_path)


@pytest.mark.parametrize("rate", [0, -1, 8000.5, "16000", None, float("nan"), float("inf")])
def test_sampling_rates_that_are_none_are_refused(rate):
    with pytest.raises(AudioError, match="sampling rate .*: expected a positive number"):
        mono_waveform(np.zeros(100, np.float32), rate)


def test_a_sampling_rate_may_be_a_whole_float():
    wave = np.ones(100, np.float32)
    assert np.array_equal(mono_waveform(wave, 16_000.0), mono_waveform(wave, 16_000))
