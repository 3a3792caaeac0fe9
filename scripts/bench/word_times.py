"""How right the times of words are, against those of the synthesiser that says them.

  python scripts/bench/word_times.py demo/en-de/st/averaged.pt TEXT --data demo/en-de/data

espeak-ng says when each word of the source begins.  The CTC head's words are compared where they
are those that were said, the translation's (from attention) where a word is the same in both
languages and comes once: names.
"""

import argparse
import collections
import difflib
import logging
import re
import statistics
import warnings
from pathlib import Path

import numpy as np
import soxr

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.synthesis import espeak
from cress_svcd.translation.translator import Translator

WORD = 1  # espeakEVENT_WORD


def word_events(events):
    """(sample, place of the word in the text), in the place of the phones."""
    index = 0
    while events[index].type != 0:
        if events[index].type == WORD:
            yield events[index].sample, str(events[index].text_position - 1)
        index += 1


def plain(word: str) -> str:
    return re.sub(r"\W", "", word).lower()


def speak(text: str, voice: str) -> tuple[np.ndarray, list[tuple[str, float]]]:
    """Samples at 16 kHz, and the words with the seconds at which they begin."""
    with espeak.Espeak() as engine:
        voice = engine.catalogue().resolve(voice)
        spoken = engine.speak(text, voice, 160, 50, 1, 60.0)
    begins = {int(place): sample / spoken.sample_rate for sample, place in spoken.phones}
    words = [
        (plain(m[0]), begins[m.start()]) for m in re.finditer(r"\S+", text) if m.start() in begins
    ]
    wave = spoken.samples.astype(np.float32) / 32768
    return soxr.resample(wave, spoken.sample_rate, SAMPLE_RATE), words


def once(words) -> dict[str, float]:
    counts = collections.Counter(word for word, _ in words)
    return {word: begin for word, begin in words if counts[word] == 1}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, help="sentences of the source language, one a line")
    parser.add_argument("--data", type=Path, help="folder of prepare-mustc")
    parser.add_argument("--voice", default="en-us", help="default: %(default)s")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    espeak._phones = word_events
    spoken = [speak(line, args.voice) for line in args.text.read_text("utf-8").splitlines() if line]
    translator = Translator.load(
        args.model, data=args.data, word_times=True, transcripts=True, segmentation=None
    )
    found = translator.translate_batch(wave for wave, _ in spoken)
    errors: dict[str, list[float]] = {"CTC": [], "attention": []}
    for (_, said), one in zip(spoken, found):
        heard = [(plain(word.text), word.start) for word in one.transcript_words]
        matcher = difflib.SequenceMatcher(None, [w for w, _ in said], [w for w, _ in heard], False)
        for block in matcher.get_matching_blocks():
            pairs = zip(said[block.a :][: block.size], heard[block.b :][: block.size])
            errors["CTC"] += [abs(begin - time) for (_, begin), (_, time) in pairs]
        translated = once([(plain(word.text), word.start) for word in one.words])
        errors["attention"] += [
            abs(begin - translated[word])
            for word, begin in once(said).items()
            if word in translated and len(word) > 2
        ]
    for name, values in errors.items():
        if values:
            late = np.percentile(values, 90)
            print(
                f"{name}: {len(values)} words, median {statistics.median(values):.3f} s, "
                f"9 of 10 within {late:.3f} s"
            )


if __name__ == "__main__":
    main()
