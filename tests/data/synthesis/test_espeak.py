import ctypes
import os
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest

from cress_svcd.data.synthesis import espeak
from cress_svcd.data.synthesis.espeak import PAUSE, Espeak, SpeechError

TEXT = "Two young males are near many bushes."


def speak(text=TEXT, voice="gmw/en-US", rate=175, pitch=50, seed=1, longest=30.0, data_path=None):
    with Espeak(data_path) as engine:
        return engine.speak(text, voice, rate, pitch, seed, longest)


@pytest.fixture(scope="module")
def catalogue():
    return espeak.read_catalogue()


def test_structures_are_laid_out_as_the_library_does():
    pointer = ctypes.sizeof(ctypes.c_void_p)
    assert ctypes.sizeof(espeak.EventId) == 8
    assert espeak.Event.user_data.offset == 24
    assert espeak.Event.id.offset == 24 + pointer
    assert ctypes.sizeof(espeak.VoiceInfo) == 3 * pointer + 8 + pointer


# f3 and whisper breathe (seeded noise), the klatt voices come from another wave generator.
@pytest.mark.parametrize("variant", ["", "+f3", "+whisper", "+klatt4", "+klatt6", "+croak"])
def test_an_utterance_does_not_depend_on_earlier_ones(variant):
    voice = f"gmw/en-US{variant}"
    first = speak(voice=voice)
    speak("Something else, and rather longer than that!", voice=voice, seed=5)
    again = speak(voice=voice)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.phones == again.phones


def test_the_seed_changes_the_breath():
    assert not np.array_equal(
        speak(voice="gmw/en-US+f3", seed=1).samples, speak(voice="gmw/en-US+f3", seed=2).samples
    )


@pytest.mark.parametrize(
    "change", [{"voice": "gmw/en-US+f3"}, {"voice": "gmw/en"}, {"rate": 140}, {"pitch": 70}]
)
def test_voice_rate_and_pitch_change_the_speech(change):
    plain, changed = speak().samples, speak(**change).samples
    assert len(plain) != len(changed) or not np.array_equal(plain, changed)


def test_rate_is_words_a_minute():
    slow, fast = (len(speak(rate=rate).samples) for rate in (120, 240))
    assert 1.6 < slow / fast < 2.4


def test_phones_of_a_known_word_lie_in_the_speech():
    spoken = speak("Hello.")
    assert [name for _, name in spoken.phones if name != PAUSE] == ["h", "@", "l", "oU"]
    starts = [sample for sample, _ in spoken.phones]
    assert starts == sorted(starts)
    assert 0 < starts[1] < starts[-1] <= len(spoken.samples)


@pytest.mark.parametrize(
    "name, plain",
    [
        ("t", "t"),
        ("'aI@", "aI@"),
        (",i@3", "i@3"),
        ("%%I", "I"),
        ("_:", PAUSE),
        ("_!", PAUSE),
        ("", PAUSE),
        ("'", PAUSE),
        ("(fr)", PAUSE),
    ],
)
def test_plain_phone(name, plain):
    assert espeak.plain_phone(name) == plain


def test_speaking_stops_at_the_longest_duration():
    spoken = speak("This is a sentence. " * 20, longest=3.0)
    assert not spoken.complete
    assert 3.0 < len(spoken.samples) / spoken.sample_rate < 4.0
    assert speak().complete


def test_text_is_spoken_as_it_is_written():
    """Neither markup nor phoneme codes are interpreted."""
    spelled_out = speak("<break time='3s'/>[[h@l'oU]]")
    assert sum(name != PAUSE for _, name in spelled_out.phones) > 12


def test_data_path_longer_than_the_library_can_keep(tmp_path):
    link = tmp_path / ("x" * 200)
    link.symlink_to(Path(espeakng_loader.get_data_path()).parent)
    open_before = set(os.listdir("/proc/self/fd"))
    far = speak(data_path=link / "espeak-ng-data")
    assert set(os.listdir("/proc/self/fd")) == open_before
    np.testing.assert_array_equal(far.samples, speak().samples)


def test_missing_data(tmp_path):
    with pytest.raises(SpeechError, match="espeak-ng finds no data there"):
        speak(data_path=tmp_path / "nothing")
    assert len(speak().samples) > 0


def test_missing_library(tmp_path):
    with pytest.raises(SpeechError, match="cannot be loaded .* reinstall"):
        espeak._load(str(tmp_path / "libespeak-ng.so"))


def test_a_loaded_copy_is_never_shared():
    with Espeak():
        with pytest.raises(RuntimeError, match="loaded in this process already"):
            speak()


def test_unknown_voice_at_the_library():
    with pytest.raises(SpeechError, match="'nonesuch'.*cannot load"):
        speak(voice="nonesuch")


@pytest.mark.parametrize(
    "voice, identifier",
    [
        ("en-us", "gmw/en-US"),
        ("EN-US+F3", "gmw/en-US+f3"),
        ("en-gb", "gmw/en"),
        ("gmw/en-US+m3", "gmw/en-US+m3"),
        ("English (Scotland)", "gmw/en-GB-scotland"),
        ("ro+Mr serious", "roa/ro+Mr serious"),
    ],
)
def test_resolve(catalogue, voice, identifier):
    assert catalogue.resolve(voice) == identifier
    assert len(speak("Hello.", voice=identifier).samples) > 5000


@pytest.mark.parametrize(
    "voice, message",
    [
        ("en-uk", r"unknown voice 'en-uk'.*en-us"),
        ("en-us+f33", r"unknown voice variant 'f33'.*f3"),
        ("en-us+", r"unknown voice variant ''"),
        ("", r"unknown voice ''"),
    ],
)
def test_unknown_names_list_near_ones(catalogue, voice, message):
    with pytest.raises(SpeechError, match=message):
        catalogue.resolve(voice)


def test_every_must_c_language_has_a_voice(catalogue):
    for language in ["de", "en", "es", "fr", "it", "nl", "pt", "ro", "ru"]:
        assert catalogue.resolve(language)
