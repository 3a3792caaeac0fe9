import io
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.corpus.parallel_text import Line, ParallelText
from cress_svcd.data.synthesis.espeak import PAUSE, SpeechError, read_catalogue
from cress_svcd.data.synthesis.speech import (
    DEFAULT_VARIANTS,
    GRID,
    Speaker,
    SpeechOptions,
    Unspeakable,
    default_voices,
    draw_speaker,
    encode_audio,
    frame_phones,
    plan_talks,
    speak_talk,
    speak_text,
)
from cress_svcd.errors import ConfigError

MARGIN = SAMPLE_RATE // 10
OPTIONS = SpeechOptions(
    "en", "de", ("gmw/en-US", "gmw/en-US+f3", "gmw/en+m3"), ("gmw/en+f1",), segments_per_file=2
)
SENTENCES = (
    "A little girl climbs into a wooden playhouse.",
    "Two men are at the stove, preparing food.",
    "…",
    "He leaves at 7:45.",
    "Why?",
)
TEXT = ParallelText(
    "train", tuple(Line(n, text, f"Satz {n}") for n, text in enumerate(SENTENCES, 1)), n_empty=0
)


def speaker(voice="gmw/en-US", gain_db=0.0):
    return Speaker("spk.x-0", voice, rate=175, pitch=50, gain_db=gain_db)


def test_silence_is_trimmed_to_the_margins():
    speech = speak_text(SENTENCES[0], speaker(), seed=1)
    audible = np.flatnonzero(np.abs(speech.wave) > 0)
    assert speech.wave.dtype == np.float32 and speech.wave.ndim == 1
    assert len(speech.wave) % GRID == 0
    assert MARGIN <= audible[0] < MARGIN + GRID
    assert MARGIN <= len(speech.wave) - 1 - audible[-1] <= MARGIN + GRID
    assert 2.0 < len(speech.wave) / SAMPLE_RATE < 4.0


# The loudest voices of the library; at its own volume they reach full scale.
@pytest.mark.parametrize("variant", ["", "+paul", "+klatt4", "+linda", "+Andy"])
def test_no_clipping(variant):
    wave = speak_text("Bob's big dog barked: wow, wow!", speaker(f"gmw/en-US{variant}"), 1).wave
    assert 0.2 < np.abs(wave).max() <= 0.951


def test_gain_is_in_decibels():
    loud, soft = (speak_text("Hello there.", speaker(gain_db=db), 1).wave for db in (-2.0, -8.0))
    assert np.abs(loud).max() / np.abs(soft).max() == pytest.approx(10 ** (6 / 20), rel=1e-4)


def test_phones_follow_the_trimmed_speech():
    speech = speak_text("Hello, hello!", speaker(), seed=1)
    times = [seconds for seconds, _ in speech.phones]
    names = [name for _, name in speech.phones]
    assert names == [PAUSE, "h", "@", "l", "oU", PAUSE, "h", "@", "l", "oU", PAUSE]
    assert times == sorted(times)
    assert times[0] == 0.0
    assert times[1] == pytest.approx(0.1, abs=0.03)
    assert times[-1] == pytest.approx(len(speech.wave) / SAMPLE_RATE - 0.1, abs=0.05)
    middle = [n for n, name in enumerate(names) if name == PAUSE][1]
    pause = speech.wave[int(times[middle] * SAMPLE_RATE) : int(times[middle + 1] * SAMPLE_RATE)]
    vowel = speech.wave[int(times[4] * SAMPLE_RATE) : int(times[5] * SAMPLE_RATE)]
    assert np.abs(pause[len(pause) // 4 : -len(pause) // 4]).max() < 0.05 * np.abs(vowel).max()


@pytest.mark.parametrize("text", ["…", "...", "«»", "?"])
def test_nothing_to_hear(text):
    with pytest.raises(Unspeakable, match="nothing to hear"):
        speak_text(text, speaker(), seed=1)


def test_frame_phones_takes_the_middle_of_each_frame():
    phones = [[0.0, "_"], [0.05, "a"], [0.05, "b"], [0.089, "c"], [0.1, "_"]]
    assert frame_phones(phones, 7) == ["_", "_", "b", "b", "c", "_", "_"]
    assert frame_phones(phones, 3, frames_per_second=25) == ["_", "b", "_"]
    assert frame_phones(phones, 0) == []


def test_speakers_depend_on_seed_split_and_number_alone():
    assert draw_speaker(OPTIONS, "train", 5) == draw_speaker(OPTIONS, "train", 5)
    others = [
        draw_speaker(OPTIONS, "train", 6),
        draw_speaker(replace(OPTIONS, test_voices=OPTIONS.voices), "dev", 5),
        draw_speaker(replace(OPTIONS, seed=2), "train", 5),
    ]
    here = draw_speaker(OPTIONS, "train", 5)
    assert all(replace(other, name=here.name, voice=here.voice) != here for other in others)


def test_speakers_keep_to_their_ranges_and_share_the_voices():
    options = replace(OPTIONS, rate=(150, 152), pitch=(40, 40), gain_db=(-3.0, -1.0))
    cast = [draw_speaker(options, "train", number) for number in range(60)]
    assert {s.rate for s in cast} == {150, 151, 152}
    assert {s.pitch for s in cast} == {40}
    assert all(-3.0 <= s.gain_db <= -1.0 for s in cast)
    for start in range(0, 60, 3):
        assert {s.voice for s in cast[start : start + 3]} == set(options.voices)
    assert len({tuple(s.voice for s in cast[start : start + 3]) for start in range(0, 60, 3)}) > 1
    assert draw_speaker(options, "dev", 0).voice == "gmw/en+f1"


def test_talks_hold_the_lines_in_order():
    talks = plan_talks(TEXT, OPTIONS)
    assert [[line.number for line in talk.lines] for talk in talks] == [[1, 2], [3, 4], [5]]
    assert all(len(set(talk.speakers)) == 1 for talk in talks)
    assert len({talk.speakers[0].name for talk in talks}) == 3
    assert [talk.file_name("wav") for talk in talks][1] == "train_00001.wav"
    each = plan_talks(TEXT, replace(OPTIONS, speaker_per="segment"))
    names = [speaker.name for talk in each for speaker in talk.speakers]
    assert names == [f"spk.train-{number}" for number in range(1, 6)]


def test_a_talk_is_its_segments_with_pauses_between():
    talk = plan_talks(TEXT, replace(OPTIONS, segments_per_file=5))[0]
    samples, spoken = speak_talk(talk, OPTIONS)
    assert samples.dtype == np.int16
    assert [segment.line for segment in spoken.segments] == [1, 2, 4, 5]
    assert spoken.skipped == {"nothing to hear": [3]}
    end = 0
    for segment in spoken.segments:
        assert segment.offset % GRID == segment.frames % GRID == 0
        assert segment.offset - end >= SAMPLE_RATE // 5
        assert not samples[end : segment.offset].any()
        assert samples[segment.offset : segment.offset + segment.frames].any()
        end = segment.offset + segment.frames
    assert len(samples) > end and not samples[end:].any()


def test_a_segment_does_not_depend_on_its_neighbours():
    options = replace(OPTIONS, speaker_per="segment")
    alone = speak_talk(plan_talks(replace(TEXT, lines=TEXT.lines[3:4]), options)[0], options)
    talk = speak_talk(plan_talks(TEXT, options)[1], options)
    assert alone[1].segments == talk[1].segments
    np.testing.assert_array_equal(alone[0], talk[0])


def test_phones_are_json_only_on_demand():
    talk = plan_talks(TEXT, OPTIONS)[0]
    plain, asked = (speak_talk(talk, replace(OPTIONS, phones=phones)) for phones in (False, True))
    np.testing.assert_array_equal(plain[0], asked[0])
    assert {segment.phones for segment in plain[1].segments} == {""}
    phones = json.loads(asked[1].segments[0].phones)
    assert phones[0] == [0.0, PAUSE]
    assert len(phones) > 20


def test_noise_lies_below_the_speech_by_the_ratio_asked_for():
    talk = plan_talks(TEXT, replace(OPTIONS, gain_db=(-20.0, -20.0)))[0]
    clean, spoken = speak_talk(talk, OPTIONS)
    noisy, spoken_in_noise = speak_talk(talk, replace(OPTIONS, noise_snr_db=10.0))
    assert spoken == spoken_in_noise
    noise = noisy.astype(np.float64) - clean
    parts = [clean[s.offset : s.offset + s.frames].astype(np.float64) for s in spoken.segments]
    speech_power = np.mean(np.concatenate(parts) ** 2)
    assert 10 * np.log10(speech_power / np.mean(noise**2)) == pytest.approx(10.0, abs=0.2)


def test_heavy_noise_does_not_clip():
    samples, _ = speak_talk(
        plan_talks(TEXT, OPTIONS)[0], replace(OPTIONS, noise_snr_db=-10.0, gain_db=(0.0, 0.0))
    )
    assert np.abs(samples.astype(np.int32)).max() <= 0.951 * 32767


# Seven minutes: libsndfile's Vorbis encoder overflows the stack on a long array in one call.
@pytest.mark.parametrize("audio_format, tolerance", [("wav", 0), ("flac", 0), ("ogg", 3000)])
def test_encoded_audio_has_every_sample(audio_format, tolerance):
    rng = np.random.default_rng(0)
    samples = (3000 * np.sin(np.arange(420 * SAMPLE_RATE) * 0.05)).astype(np.int16)
    samples[1000:2000] += rng.integers(-99, 99, 1000, dtype=np.int16)
    data = io.BytesIO(encode_audio(samples, audio_format))
    info = soundfile.info(data)
    assert (info.samplerate, info.channels, info.frames) == (SAMPLE_RATE, 1, len(samples))
    data.seek(0)
    decoded, _ = soundfile.read(data, dtype="int16")
    assert np.abs(decoded.astype(np.int32) - samples).max() <= tolerance


def test_default_voices():
    catalogue = read_catalogue()
    english = default_voices("en", catalogue)
    assert len(set(english)) == len(DEFAULT_VARIANTS)
    assert {voice.partition("+")[0] for voice in english} == {"gmw/en-US", "gmw/en"}
    assert {voice.partition("+")[0] for voice in default_voices("ro", catalogue)} == {"roa/ro"}
    with pytest.raises(SpeechError, match="--source-lang xx: no voice .* choose --voices"):
        default_voices("xx", catalogue)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target_lang": "en"}, "--tgt-lang 'en' is the source language too"),
        ({"target_lang": "../x"}, "--tgt-lang '../x': expected a language code"),
        ({"source_lang": "e/n"}, "--source-lang"),
        ({"rate": (60, 190)}, "--rate 60 190: expected values from 80 to 450"),
        ({"pitch": (60, 40)}, "--pitch 60 40: .*the lesser first"),
        ({"gain_db": (-5.0, 3.0)}, "--gain"),
        ({"gain_db": (float("nan"), 0.0)}, "--gain"),
        ({"noise_snr_db": 1000.0}, "--noise"),
        ({"segments_per_file": 0}, "--segments-per-file 0: expected at least 1"),
        ({"audio_format": "mp3"}, "--format 'mp3'"),
        ({"speaker_per": "word"}, "--speaker-per 'word'"),
    ],
)
def test_options_that_make_no_sense(change, message):
    OPTIONS.check()
    with pytest.raises(ConfigError, match=message):
        replace(OPTIONS, **change).check()
