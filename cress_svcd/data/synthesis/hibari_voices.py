"""Hibari: a neural American voice, distilled from Kokoro.

The wheel ``hibari-tts`` has the model and all it reads inside; Apache-2.0.  Its other voices would
be downloaded: they are not offered.  It takes some 50 ms for a sentence, on one core.
"""

import functools
import importlib.metadata
import importlib.util

import numpy as np

from cress_svcd.data.synthesis.espeak import SpeechError

WORDS_A_MINUTE = 180.0
REMEDY = "\"pip install 'cress_svcd[voices]'\" (hibari-tts) brings it with its voice"


def _require() -> None:
    for name in ("hibari", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise SpeechError(f"the synthesiser hibari is not installed ({name}); {REMEDY}")


def version() -> str:
    _require()
    return importlib.metadata.version("hibari-tts")


def voices() -> tuple[str, ...]:
    _require()
    from hibari.voices import VOICES

    return tuple(sorted(name for name, voice in VOICES.items() if voice.get("bundled")))


@functools.cache
def _model(voice: str):
    from hibari import Hibari

    return Hibari(voice)


def speak(text: str, voice: str, speed: float, seed: int) -> tuple[np.ndarray, int]:
    _require()
    model = _model(voice)
    wave = model(text, speed=speed, seed=seed)
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16), model.sample_rate
