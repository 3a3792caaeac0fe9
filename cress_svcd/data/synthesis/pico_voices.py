"""SVOX Pico: a voice each of English (GB, US), German, Spanish, French and Italian.

The wheel ``py-nanotts`` has library and voices inside; Apache-2.0.  The library keeps state between
utterances, so each has a process of its own, which takes a tenth of a second.
"""

import importlib.metadata
import importlib.util
import sys

import numpy as np

from cress_svcd.data.synthesis.espeak import SpeechError
from cress_svcd.data.synthesis.spoken_files import speak_to_file

WORDS_A_MINUTE = 155.0
REMEDY = "\"pip install 'cress_svcd[voices]'\" (py-nanotts) brings it with its voices"

_NO_MARKUP = str.maketrans("<>&", "   ")


def _require() -> None:
    if importlib.util.find_spec("py_nanotts") is None:
        raise SpeechError(f"the synthesiser pico is not installed; {REMEDY}")


def version() -> str:
    _require()
    return importlib.metadata.version("py-nanotts")


def voices() -> tuple[str, ...]:
    _require()
    from py_nanotts import Voice

    return tuple(sorted(voice.value for voice in Voice))


def speak(text: str, voice: str, speed: float, seed: int) -> tuple[np.ndarray, int]:
    _require()
    spoken = " ".join(text.translate(_NO_MARKUP).split())
    if not any(letter.isalnum() for letter in spoken):
        return np.zeros(0, np.int16), 16_000
    options = ["-v", voice, "--speed", f"{speed:.4f}"]
    program = [sys.executable, "-m", "py_nanotts", *options]
    return speak_to_file(lambda path: [*program, "-o", path, "--", spoken])
