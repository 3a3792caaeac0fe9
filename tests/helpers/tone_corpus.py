"""A tiny prepared folder whose speech can be learnt: each letter is a tone."""

from pathlib import Path

import numpy as np
import soundfile
import yaml

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.corpus.manifest import Segment, write_manifest

LETTERS = "abcd"
LETTER_SECONDS = 0.12
PAUSE = SAMPLE_RATE // 4


def speak(text: str, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A tone for each letter, silence for a space, and some noise."""
    time = np.arange(round(LETTER_SECONDS * rate)) / rate
    generator = np.random.default_rng(len(text))
    parts = [
        np.sin(2 * np.pi * (300 + 500 * LETTERS.index(c)) * time) if c in LETTERS else 0 * time
        for c in text
    ]
    wave = 0.3 * np.concatenate(parts)
    return (wave + 0.01 * generator.normal(size=len(wave))).astype(np.float32)


def random_text(generator: np.random.Generator) -> str:
    """Two words of two or three letters."""
    lengths = generator.integers(2, 4, size=2)
    return " ".join("".join(generator.choice(list(LETTERS), size=n)) for n in lengths)


def write_prepared(folder: Path, train: int = 24, dev: int = 6, extra=()) -> Path:
    """Write train.tsv, dev.tsv, config.yaml and one recording for each split.

    extra: rows (text to speak, transcript) added to the training split.
    """
    generator = np.random.default_rng(1)
    (folder / "wav").mkdir(parents=True)
    for split, count in (("train", train), ("dev", dev)):
        texts = [random_text(generator) for _ in range(count)]
        spoken = [(text, text) for text in texts] + (list(extra) if split == "train" else [])
        rows, waves, position = [], [], 0
        for number, (sound, transcript) in enumerate(spoken):
            wave = speak(sound)
            audio = f"wav/{split}.wav:{position}:{len(wave)}"
            rows.append(
                Segment(f"{split}_{number}", audio, len(wave), "x", "s", transcript, "en", "de")
            )
            waves += [wave, np.zeros(PAUSE, np.float32)]
            position += len(wave) + PAUSE
        soundfile.write(folder / "wav" / f"{split}.wav", np.concatenate(waves), SAMPLE_RATE)
        write_manifest(folder / f"{split}.tsv", rows)
    config = {"audio_root": str(folder), "use_audio_input": True, "src_lang": "en"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder
