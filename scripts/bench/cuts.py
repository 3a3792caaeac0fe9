"""BLEU of a model when its test segments are cut, disturbed or recorded otherwise.

  python scripts/bench/cuts.py demo/en-de/data demo/en-de/packed.pt -o cuts.json

Each row translates all segments of a split after one change: silence before or behind them, noise
below the speech, another loudness.  It needs a prepared folder and checkpoints; seeded.
"""

import argparse
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cress_svcd.atomic_files import write_json
from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.corpus.prepared import audio_folder, read_config
from cress_svcd.evaluation import bleu_chrf
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.translator import Translator

LEADS_MS = (10, 50, 100, 200, 500, 1000)
TRAILS_MS = (100, 500, 1000)
NOISES_DB = (20, 10)  # so far below the speech
GAINS_DB = (-30, 6)

Change = Callable[[np.ndarray], np.ndarray]


def silence(milliseconds: int) -> np.ndarray:
    return np.zeros(SAMPLE_RATE * milliseconds // 1000, np.float32)


def changes(seed: int) -> dict[str, Change]:
    """Rows of the table: name → what is done to a waveform (samples,)."""
    random = np.random.default_rng(seed)

    def noisy(db: int) -> Change:
        def change(wave: np.ndarray) -> np.ndarray:
            level = np.sqrt(np.mean(np.square(wave))) * 10 ** (-db / 20)
            return (wave + level * random.standard_normal(len(wave))).astype(np.float32)

        return change

    def louder(db: int) -> Change:
        return lambda wave: np.clip(wave * np.float32(10 ** (db / 20)), -1, 1)

    rows: dict[str, Change] = {"as the corpus has them": lambda wave: wave}
    for ms in LEADS_MS:
        rows[f"{ms} ms of silence before"] = lambda wave, ms=ms: np.append(silence(ms), wave)
    for ms in TRAILS_MS:
        rows[f"{ms} ms of silence after"] = lambda wave, ms=ms: np.append(wave, silence(ms))
    for db in NOISES_DB:
        rows[f"white noise {db} dB below"] = noisy(db)
    for db in GAINS_DB:
        rows[f"{db:+d} dB"] = louder(db)
    return rows


def score(translator: Translator, waves: list[np.ndarray], references: list[str]) -> float:
    segments = (Segment(wave, 0.0, len(wave) / SAMPLE_RATE) for wave in waves)
    found = [translation.text for _, translation in translator.translate_segments(segments)]
    return bleu_chrf.measure(found, references)["bleu"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of prepare-mustc")
    parser.add_argument("models", type=Path, nargs="+", help="checkpoints")
    parser.add_argument("--split", default="tst-COMMON", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    frame = read_manifest(args.data / f"{args.split}.tsv")
    root = audio_folder(args.data, read_config(args.data))
    waves = [read_audio(audio, root) for audio in frame["audio"]]
    references = list(frame["tgt_text"])
    results: dict[str, dict[str, float]] = {}
    for model in args.models:
        translator = Translator.load(model, data=args.data)
        results[str(model)] = {
            name: score(translator, [change(wave) for wave in waves], references)
            for name, change in changes(args.seed).items()
        }
    for name in changes(args.seed):
        row = "".join(f"{found[name]:>9.2f}" for found in results.values())
        print(f"{name:<26}{row}")
    if args.output:
        write_json(args.output, results)


if __name__ == "__main__":
    main()
