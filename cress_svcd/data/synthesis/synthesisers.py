"""Synthesisers next to espeak-ng: a voice names its own, as in ``flite:slt``.

Each is a module of this folder with

- ``WORDS_A_MINUTE``: its own pace, as espeak-ng counts words;
- ``REMEDY``: what to install where it is missing;
- ``version() -> str``;
- ``voices() -> tuple[str, ...]``, those that are installed;
- ``speak(text, voice, speed, seed) -> (samples, sample_rate)``: int16 of shape (n,), none where
  there is nothing to say; the same for the same arguments, whatever was spoken before.

All of them bring their voices along, and download nothing when they speak.  None of them is needed:
what is missing is named when a voice of it is asked for.
"""

import difflib
import importlib
from types import ModuleType
from typing import Protocol, cast

import numpy as np

from cress_svcd.data.synthesis.espeak import Catalogue, Espeak, SpeechError, Utterance

ESPEAK = "espeak-ng"
# name in a voice → module
SYNTHESISERS = {
    "festival": "festival_voices",
    "flite": "flite_voices",
    "hibari": "hibari_voices",
    "pico": "pico_voices",
}

# Pitches, 0 to 99, of one octave.
_OCTAVE = 100


class Synthesiser(Protocol):
    """What a module has; see above."""

    WORDS_A_MINUTE: float
    REMEDY: str

    def version(self) -> str: ...

    def voices(self) -> tuple[str, ...]: ...

    def speak(self, text: str, voice: str, speed: float, seed: int) -> tuple[np.ndarray, int]: ...


def synthesiser_of(voice: str) -> str:
    """The name of the synthesiser that a voice is of."""
    name, colon, _ = voice.partition(":")
    return name if colon else ESPEAK


def resolve(voice: str, catalogue: Catalogue) -> str:
    """The full name of a voice: ``flite:SLT`` → ``flite:slt``, ``en-us`` → ``gmw/en-US``.

    Raises:
        SpeechError: no such synthesiser or voice, or it is not installed.
    """
    if ":" not in voice:
        return catalogue.resolve(voice)
    name, _, asked = voice.partition(":")
    if name not in SYNTHESISERS:
        raise SpeechError(
            f"unknown synthesiser {name!r} in {voice!r}; expected one of {', '.join(SYNTHESISERS)} "
            "before the colon, or a voice of espeak-ng without one"
        )
    there = load(name).voices()
    found = {each.lower(): each for each in there}.get(asked.strip().lower())
    if found is None:
        near = difflib.get_close_matches(asked.lower(), there, n=3, cutoff=0.4) or there
        raise SpeechError(
            f"unknown voice {asked!r} in {voice!r}; {name} has {', '.join(near)} here"
        )
    return f"{name}:{found}"


def load(name: str) -> Synthesiser:
    """The module of a synthesiser."""
    module: ModuleType = importlib.import_module(f"{__package__}.{SYNTHESISERS[name]}")
    return cast(Synthesiser, module)


def versions(voices: tuple[str, ...]) -> dict[str, str]:
    """Name → version of the synthesisers of these voices, espeak-ng's aside."""
    names = sorted({synthesiser_of(voice) for voice in voices} - {ESPEAK})
    return {name: load(name).version() for name in names}


def speak(
    text: str, voice: str, rate: int, pitch: int, seed: int, longest_seconds: float
) -> Utterance:
    """Speak a text with any synthesiser; the arguments are those of ``Espeak.speak``.

    Others than espeak-ng speak slower and are played back faster for a higher pitch, or the other
    way round: this moves the formants as well, as a shorter throat does.  They give no phones.
    """
    name = synthesiser_of(voice)
    if name == ESPEAK:
        with Espeak() as engine:
            return engine.speak(text, voice, rate, pitch, seed, longest_seconds)
    module = load(name)
    playback = 2.0 ** ((pitch - 50) / _OCTAVE)
    speed = rate / playback / module.WORDS_A_MINUTE
    samples, sample_rate = module.speak(text, voice.partition(":")[2], speed, seed)
    sample_rate = round(sample_rate * playback)
    longest = int(longest_seconds * sample_rate)
    return Utterance(samples[:longest], sample_rate, (), len(samples) <= longest)
