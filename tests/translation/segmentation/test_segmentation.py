"""Cutting at pauses: synthetic signals whose pauses are known, and spoken sentences."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.translation.recordings import read_segments
from cress_svcd.translation.segmentation import Segmentation, Span, cut, find_segments
from cress_svcd.translation.segmentation import divide as divide_module
from cress_svcd.translation.segmentation.divide import divide

RATE = 16_000


def noise(seconds: float, level: float = 0.002, seed: int = 1, rate: int = RATE) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (level * generator.standard_normal(round(seconds * rate))).astype(np.float32)


def recording(sounds: list[tuple[float, float]], seconds: float, rate: int = RATE) -> np.ndarray:
    """Loud noise that changes as syllables do at each (start, stop) in seconds, faint noise all
    along."""
    wave = noise(seconds, rate=rate)
    for start, stop in sounds:
        part = slice(round(start * rate), round(stop * rate))
        loud = noise(stop - start + 1, 0.1, seed=2, rate=rate)[: len(wave[part])]
        syllables = 0.7 + 0.3 * np.cos(8 * np.pi * np.arange(len(loud)) / rate)
        wave[part] += (loud * syllables).astype(np.float32)
    return wave


def times(spans: list[Span], rate: int = RATE) -> list[tuple[float, float]]:
    return [
        (round(span.offset / rate, 2), round((span.offset + span.frames) / rate, 2))
        for span in spans
    ]


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100])
def test_cuts_lie_in_the_pauses(rate):
    sounds = [(1.0, 4.0), (5.0, 8.0), (8.9, 12.0)]
    found = times(cut([recording(sounds, 14, rate)], rate), rate)
    assert len(found) == 3
    for (start, stop), (begin, end) in zip(sounds, found):
        assert 0.05 <= start - begin <= 0.15 and 0.15 <= end - stop <= 0.25


@pytest.mark.parametrize("lower_db", [30, 45, 60])
@pytest.mark.parametrize("integers", [False, True])
def test_quiet_recordings_are_cut_as_others_are(lower_db, integers):
    """Of 16 bits, the softest sound has few steps left: it is heard all the same."""
    wave = recording([(1.0, 4.0), (5.0, 8.0)], 9.5)
    quiet = wave * 10 ** (-lower_db / 20)
    if integers:
        quiet = np.round(quiet * 32768) / 32768
    expected, found = times(cut([wave], RATE)), times(cut([quiet.astype(np.float32)], RATE))
    assert np.allclose(found, expected, atol=0.06)


def test_the_last_step_of_16_bits_alone_is_no_speech():
    blips = np.zeros(10 * RATE, np.float32)
    blips[3 * RATE : 5 * RATE : 3] = 1 / 32768
    assert cut([blips], RATE) == []


def test_what_is_short_and_without_pause_stays_whole():
    """As fairseq-generate would take it: its silences at both ends are kept."""
    wave = recording([(0.2, 5.0), (5.3, 6.0)], 6.3)
    assert cut([wave], RATE) == [Span(0, len(wave))]


def test_silence_around_a_single_sentence_is_cut_off():
    """A model mistranslates what begins with long silence."""
    for zeros in (True, False):
        wave = recording([(3.0, 5.0), (5.3, 6.0)], 15)
        if zeros:
            wave[: 3 * RATE], wave[6 * RATE :] = 0, 0
        assert times(cut([wave], RATE)) == [
            (pytest.approx(2.9, abs=0.02), pytest.approx(6.2, abs=0.02))
        ]


def test_short_speech_is_joined_to_the_nearer_neighbour():
    wave = recording([(1, 4), (5.5, 5.8), (6.5, 9)], 10)
    (first, second) = times(cut([wave], RATE))
    assert first[1] < 4.5 and second == (pytest.approx(5.4, abs=0.03), pytest.approx(9.2, abs=0.03))
    assert len(cut([wave], RATE, Segmentation(min_seconds=0.2))) == 3


def test_speech_without_a_pause_is_cut_at_its_longest_silence():
    wave = recording([(1, 12), (12.3, 15), (15.1, 24)], 40)
    assert [round(start, 1) for start, _ in times(cut([wave], RATE))] == [0.9, 12.2]


def test_where_there_is_no_silence_at_all_the_quietest_place_is_cut():
    wave = recording([(0.5, 29.5)], 40)
    dip = slice(round(14.0 * RATE), round(14.1 * RATE))
    wave[dip] *= 0.2
    first, second = times(cut([wave], RATE))
    assert first[1] == second[0] == pytest.approx(14.05, abs=0.03)


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(5 * RATE, np.float32),
        np.full(5 * RATE, 0.3, np.float32),
        noise(5),
        noise(5, level=0.1),
        noise(60, level=0.1),
        noise(0.001),
        np.zeros(0, np.float32),
    ],
    ids=["zeros", "constant", "hiss", "loud hiss", "long hiss", "16 samples", "nothing"],
)
def test_nothing_said_no_segment(wave):
    assert cut([wave], RATE) == []


def test_a_click_is_not_speech():
    wave = noise(30)
    wave[10 * RATE : 10 * RATE + 50] = 0.9
    assert cut([wave], RATE) == []


@settings(max_examples=40, deadline=None)
@given(
    # Of a sound of 0.1 s too few frames may be loud: a click.
    lengths=st.lists(st.floats(0.15, 30), min_size=1, max_size=8),
    pauses=st.lists(st.floats(0.05, 3), min_size=9, max_size=9),
    longest=st.floats(2, 20),
    block=st.integers(100, 50_000),
)
def test_spans_are_ordered_apart_within_bounds_and_not_too_long(lengths, pauses, longest, block):
    rate, sounds, position = 2_000, [], 2.0
    for length, pause in zip(lengths, pauses):
        sounds.append((position, position + length))
        position += length + pause
    wave = recording(sounds, position + sum(lengths) / 4, rate)
    options = Segmentation(max_seconds=longest)
    spans = cut([wave], rate, options)
    assert spans
    assert all(0 < span.frames <= longest * rate for span in spans)
    assert all(a.offset + a.frames <= b.offset for a, b in zip(spans, spans[1:]))
    assert spans[0].offset >= 0 and spans[-1].offset + spans[-1].frames <= len(wave)
    blocks = [wave[start : start + block] for start in range(0, len(wave), block)]
    assert cut(blocks, rate, options) == spans
    covered = np.zeros(len(wave), bool)
    for span in spans:
        covered[span.offset : span.offset + span.frames] = True
    for start, stop in sounds:
        assert covered[round(start * rate) + 40 : round(stop * rate) - 40].mean() > 0.9


@pytest.mark.parametrize(
    "options",
    [{"max_seconds": 0}, {"min_seconds": 15}, {"pause_seconds": 0}, {"threshold_db": float("nan")}],
)
def test_options_that_cannot_be_met_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Segmentation(**options)


@pytest.fixture(scope="module")
def spoken(prepared, release):
    """Sentences of the tiny release, one after the other, and where each lies, in seconds."""
    audio = read_manifest(prepared / "tst-COMMON.tsv")["audio"]
    parts, places, position = [noise(1.0)], [], 1.0
    for number, spec in enumerate(audio):
        wave = read_audio(spec, root=release / "en-de" / "data")
        heard = np.flatnonzero(np.abs(wave) > 0.01) / RATE
        places.append((position + heard[0], position + heard[-1]))
        parts += [wave, noise(0.7, seed=number)]
        position += len(wave) / RATE + 0.7
    wave = np.concatenate(parts)
    return wave + noise(len(wave) / RATE, 0.0005, seed=99), places


def test_spoken_sentences_are_found_one_by_one(spoken):
    wave, places = spoken
    found = times(cut([wave], RATE))
    assert len(found) == len(places)
    for (start, stop), (begin, end) in zip(places, found):
        assert begin <= start + 0.05 and end >= stop - 0.05
        assert end - begin < stop - start + 0.6


@pytest.mark.parametrize("name", ["talk.flac", "talk.wav", "talk.npy"])
def test_a_file_gives_what_its_samples_give(spoken, tmp_path, name):
    wave, _ = spoken
    if name.endswith("npy"):
        np.save(tmp_path / name, wave)
    else:
        soundfile.write(tmp_path / name, wave, RATE)
        wave, _ = soundfile.read(tmp_path / name, dtype="float32")
    assert find_segments(tmp_path / name) == cut([wave], RATE)


def test_a_broken_sample_is_silence(tmp_path):
    wave = recording([(1, 3)], 30)
    whole = cut([wave], RATE)
    wave[-5] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, RATE, subtype="FLOAT")
    assert find_segments(tmp_path / "nan.wav") == whole


def words(seconds: float, background: float = 0.002, seed: int = 3) -> np.ndarray:
    """A second of buzzing after each second of noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    buzz = 0.3 * np.sign(np.sin(2 * np.pi * 150 * time)) * (time % 2 >= 1)
    buzz *= np.random.default_rng(seed).uniform(0.5, 1, len(time))
    return (buzz + noise(seconds, background, seed)).astype(np.float32)


ZEROS = np.zeros(8 * RATE, np.float32)


@pytest.mark.parametrize(
    "parts",
    [
        [ZEROS, words(20)],
        [words(10), ZEROS, words(10)],
        [*[ZEROS] * 40, words(20), *[ZEROS] * 40],
        [noise(8, 1.5 / 32768), words(20)],
        [words(10), noise(20, 2e-4), words(10)],
        [words(10, 0.0005), words(10, 0.02)],
        [words(10, 0.02), words(10, 0.0005)],
        [words(20, 0.0)],
        [ZEROS, words(20, 0.0)],
        [0.03 * words(20)],
        [words(10, 0.001), 0.08 * words(10, 0.0) + noise(10, 0.001)],
    ],
    ids=[
        "zeros before",
        "zeros within",
        "hardly anything but zeros",
        "dither before",
        "faint noise within",
        "noise becomes louder",
        "noise becomes fainter",
        "zeros between the words",
        "zeros before and between",
        "30 dB less",
        "another is less loud",
    ],
)
def test_digital_silence_and_other_noise_elsewhere_change_no_cut(parts):
    found = times(cut([np.concatenate(parts)], RATE))
    assert len(found) == 10
    assert all(1.08 <= stop - start <= 1.34 for start, stop in found)


@pytest.mark.parametrize("snr", [20, 12, 8, 5])
@pytest.mark.parametrize("before", [ZEROS, ZEROS[:0]], ids=["zeros", "none"])
def test_speech_hardly_above_the_noise_is_heard(snr, before):
    power = 0.3**2 * 7 / 12
    wave = words(20, (power / 10 ** (snr / 10)) ** 0.5)
    assert len(cut([np.concatenate([before, wave])], RATE)) == 10


def coloured(seconds: float, level: float, exponent: float) -> np.ndarray:
    """Noise whose power falls with the frequency to this power."""
    spectrum = np.fft.rfft(noise(seconds, 1.0))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (exponent / 2)
    spectrum[0] = 0
    wave = np.fft.irfft(spectrum, round(seconds * RATE))
    return (level * wave / wave.std()).astype(np.float32)


@pytest.mark.parametrize(
    "wave",
    [
        np.concatenate([ZEROS, noise(60, 0.01)]),
        np.concatenate([noise(60, 0.01), ZEROS]),
        coloured(120, 0.05, 1.0),
        noise(60, 0.0005) + 0.01 * np.sin(np.arange(60 * RATE) * 2 * np.pi * 50 / RATE),
    ],
    ids=["zeros before hiss", "zeros after hiss", "pink noise", "hum"],
)
def test_noise_alone_is_nothing(wave):
    assert cut([wave.astype(np.float32)], RATE) == []


KINDS = {
    "white": noise,
    "pink": lambda seconds, level: coloured(seconds, level, 1.0),
    "brown": lambda seconds, level: coloured(seconds, level, 2.0),
    "hum": lambda seconds, level: level * tones(seconds, 50, 100, 150),
    "chord": lambda seconds, level: level * tones(seconds, 220, 275, 330),
}


def tones(seconds: float, *frequencies: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * np.outer(frequencies, time)).mean(axis=0).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [6, 20, 30])
def test_steady_noise_is_no_speech_however_loud_it_becomes(kind, step):
    faint, loud = (KINDS[kind](12, 0.003 * 10 ** (rise / 20)) for rise in (0, step))
    for parts in ([faint, loud], [loud, faint], [faint, loud, faint], [ZEROS, faint, loud]):
        assert cut([np.concatenate(parts)], RATE) == []


@pytest.mark.parametrize("kind", KINDS)
def test_steady_noise_next_to_digital_silence_is_no_speech(kind):
    for seconds in (5, 20, 60):
        sound = KINDS[kind](seconds, 0.05)
        for parts in ([ZEROS, sound], [sound, ZEROS], [ZEROS, sound, ZEROS, sound]):
            assert cut([np.concatenate(parts)], RATE) == []


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_steady_noise_of_other_rates(rate):
    wave = np.concatenate([noise(20, 0.003, rate=rate), noise(20, 0.05, rate=rate)])
    assert cut([wave], rate) == []


def test_noise_that_fades_in_is_no_speech():
    rising = np.linspace(0, 1, 60 * RATE, dtype=np.float32)
    assert cut([noise(60, 0.003) * 10**rising], RATE) == []


@pytest.mark.parametrize("kind", ["white", "brown", "hum"])
def test_speech_is_heard_before_and_in_noise_that_is_switched_on(spoken, kind):
    wave, places = spoken
    later = wave + KINDS[kind](len(wave) / RATE, 0.003)[: len(wave)]
    found = times(cut([np.concatenate([wave, later])], RATE))
    assert len(found) == 2 * len(places)


def test_a_sentence_in_an_hour_of_nothing():
    hiss = noise(600)
    sentence = recording([(0.5, 3.0)], 4)
    (found,) = times(cut([*[hiss] * 3, sentence, *[hiss] * 3], RATE))
    assert found == (pytest.approx(1800.4, abs=0.02), pytest.approx(1803.2, abs=0.02))


def test_a_long_region_is_divided_at_its_deepest_gaps():
    probabilities = np.full(300, 0.9, np.float32)
    probabilities[100:110], probabilities[200:206], probabilities[50:70] = 0.2, 0.0, 0.45
    assert divide(probabilities, (0, 300), 120, 20) == [(0, 100), (110, 200), (206, 300)]
    assert divide(probabilities, (0, 100), 60, 20) == [(0, 50), (70, 100)]
    flat = np.full(100, 0.8, np.float32)
    flat[30] = 0.7
    assert divide(flat, (0, 100), 75, 20) == [(0, 30), (30, 100)]
    assert all(b - a <= 40 for a, b in divide(flat, (0, 100), 40, 20))


def test_an_unknown_segmenter_is_refused():
    with pytest.raises(ConfigError, match="'ear' is not known; expected auto, energy"):
        cut([noise(1)], RATE, Segmentation(segmenter="ear"))


@pytest.mark.parametrize("rate", [11_025, 16_000])
def test_a_waveform_is_cut_as_its_file_is(tmp_path, rate):
    wave = recording([(1.0, 6.0), (7.0, 13.0), (14.5, 24.0)], 25, rate)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    in_file = list(read_segments(tmp_path / "a.wav"))
    in_memory = list(read_segments(wave, rate))
    assert len(in_file) == len(in_memory) == 3
    for one, other in zip(in_file, in_memory):
        assert (one.start, one.end) == (other.start, other.end)
        np.testing.assert_array_equal(one.wave, other.wave)


@pytest.mark.parametrize("deepest", ["gaps at the end", "dips at the beginning"])
def test_hours_without_a_pause_are_not_looked_through_for_each_cut(deepest, monkeypatch):
    """Each gap is deeper than those before it, or nothing falls below the threshold."""
    count = 3 * 360_000
    gaps = np.arange(count) % 300 < 20
    rising = np.linspace(0, 0.3, count)
    probabilities = 0.6 + rising
    if deepest == "gaps at the end":
        probabilities = np.where(gaps, 0.4 - rising, 0.9)
    looked = []
    for name in ("_deepest_gap", "_least_speech_like"):
        search = getattr(divide_module, name)

        def counted(values, start, stop, *rest, search=search):
            looked.append(stop - start)
            return search(values, start, stop, *rest)

        monkeypatch.setattr(divide_module, name, counted)
    chunks = divide(probabilities.astype(np.float32), (0, count), 3000, 50)
    assert max(stop - start for start, stop in chunks) <= 3000
    assert sum(looked) < 100 * count
