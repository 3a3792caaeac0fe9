"""Synthesisers next to espeak-ng; each is tried where it is installed."""

import json

import numpy as np
import pytest

from cress_svcd.cli.main import main
from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.synthesis.espeak import SpeechError, read_catalogue
from cress_svcd.data.synthesis.speech import Speaker, SpeechOptions, speak_text
from cress_svcd.data.synthesis.spoken_files import ascii_text
from cress_svcd.data.synthesis.synthesisers import SYNTHESISERS, load, resolve, speak, versions
from cress_svcd.errors import ConfigError

TEXT = "Two young males are near many bushes."
OTHER = "Something else, and rather longer than that!"


@pytest.fixture(params=SYNTHESISERS)
def voice(request):
    """An English voice of each synthesiser that is installed."""
    try:
        there = load(request.param).voices()
    except SpeechError as error:
        pytest.skip(str(error))
    known = {"en-GB", "heart", "kal_diphone", "ked_diphone", "slt"}
    names = [f"{request.param}:{name}" for name in there if name in known]
    return names[0] if names else pytest.skip(f"no English voice of {request.param}")


def spoken(voice, text=TEXT, rate=165, pitch=50, seed=1):
    return speak(text, voice, rate, pitch, seed, longest_seconds=60)


def seconds(utterance):
    loud = np.flatnonzero(np.abs(utterance.samples) > 300)
    return (loud[-1] - loud[0]) / utterance.sample_rate


def test_an_utterance_does_not_depend_on_earlier_ones(voice):
    first = spoken(voice)
    spoken(voice, OTHER)
    again = spoken(voice)
    assert first.samples.dtype == np.int16 and first.samples.ndim == 1
    assert np.abs(first.samples).max() > 3000
    np.testing.assert_array_equal(first.samples, again.samples)


def test_its_pace_is_about_that_of_espeak(voice):
    reference = spoken(read_catalogue().resolve("en-us"))
    assert seconds(spoken(voice)) == pytest.approx(seconds(reference), rel=0.35)


def test_pitch_moves_the_spectrum(voice):
    """By half an octave from 25 to 75."""

    def centre(utterance):
        power = np.abs(np.fft.rfft(utterance.samples.astype(float))) ** 2
        frequencies = np.fft.rfftfreq(len(utterance.samples), 1 / utterance.sample_rate)
        return (power * frequencies).sum() / power.sum()

    low, high = spoken(voice, pitch=25), spoken(voice, pitch=75)
    assert centre(high) / centre(low) == pytest.approx(2**0.5, rel=0.15)


def test_what_cannot_be_spoken_is_no_error(voice):
    for text in ("…", "?!", " "):
        assert len(spoken(voice, text).samples) < SAMPLE_RATE


def test_text_is_no_script(voice):
    """Quotes, brackets, options and markup are text."""
    for text in ('Say "yes" (quit) \\', "-o elsewhere", "<speed level='500'>fast</speed> & wide"):
        assert seconds(spoken(voice, text)) > 0.4


def test_speech_at_16_khz(voice):
    speech = speak_text(TEXT, Speaker("spk.x-0", voice, 165, 55, 0.0), seed=1)
    assert speech.wave.dtype == np.float32
    assert 1.5 < len(speech.wave) / SAMPLE_RATE < 5


def test_a_voice_has_its_full_name(voice):
    name, _, own = voice.partition(":")
    assert resolve(f"{name}:{own.upper()}", None) == voice
    with pytest.raises(SpeechError, match=f"unknown voice 'nobody'.*{name} has "):
        resolve(f"{name}:nobody", None)
    assert list(versions((voice, "gmw/en-US"))) == [name]
    assert versions((voice,))[name] != "unknown"


def test_an_unknown_synthesiser_is_named():
    with pytest.raises(SpeechError, match="unknown synthesiser 'mbrola'.*festival, flite"):
        resolve("mbrola:us1", None)


@pytest.mark.parametrize("name", SYNTHESISERS)
def test_what_is_missing_is_named(name, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpeechError, match="is not installed.*install"):
        resolve(f"{name}:x", None)


def test_phones_are_of_espeak_alone():
    options = SpeechOptions("en", "de", ("flite:slt",), ("gmw/en-US",), phones=True)
    with pytest.raises(ConfigError, match="--phones.*flite:slt does not"):
        options.check()


def test_accents_are_taken_off():
    assert ascii_text("Çà  et là, ‘naïve’\n") == "Ca et la, 'naive'"


def test_a_corpus_of_several(voice, tmp_path):
    """The same whatever the workers; the version of each synthesiser is noted."""
    (tmp_path / "t.en").write_text(f"…\n{TEXT}\n{OTHER}\n{TEXT}\n")
    (tmp_path / "t.de").write_text("Eins.\nZwei.\nDrei.\nVier.\n")
    texts = [str(tmp_path / name) for name in ("t.en", "t.de")]
    audio = []
    for workers in (1, 2):
        release = tmp_path / f"release{workers}"
        command = ["speak", "--split", "train", *texts, "--tgt-lang", "de", "-o", str(release)]
        command += ["--voices", "en-us", voice, "--speaker-per", "segment"]
        command += ["--segments-per-file", "1", "--workers", str(workers)]
        assert main(command) == 0
        data = release / "en-de" / "data" / "train"
        audio.append({path.name: path.read_bytes() for path in sorted(data.glob("wav/*"))})
    assert audio[0] == audio[1] and len(audio[0]) == 4
    done = json.loads((data / "txt" / "train.speak.json").read_text())
    assert list(done["settings"]["synthesisers"]) == [voice.partition(":")[0]]
    assert {entry["voice"] for entry in done["speakers"].values()} == {"gmw/en-US", voice}
