"""Time and memory of prepare-mustc on a release as large as MuST-C, generated on the spot.

usage: python scripts/bench/prepare_scale.py [--segments 270000] [--folder DIR] [--workers N]

The release has the proportions of MuST-C: talks of some 108 segments of 6 seconds, 18 words a
sentence, words drawn by Zipf's law from two invented languages of 60,000 words each.  The audio
files are sparse: they are as long as real talks and take no room on disk.  The command runs as a
process of its own; what is reported is its wall time and the largest memory (resident set) of it
and its children.  The folder is deleted at the end unless --keep is given.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from cress_svcd.data.audio import SAMPLE_RATE

SEGMENTS_A_TALK = 108
EVALUATION_SEGMENTS = 1_400
WORDS = 60_000
WORDS_A_SENTENCE = 18
BYTES_A_SAMPLE = 2
SYLLABLES = [
    a + b
    for a in ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "sch", "st"]
    for b in "aeiouäö"
]


def make_words(rng: np.random.Generator) -> np.ndarray:
    lengths = rng.integers(1, 5, WORDS)
    return np.array(["".join(rng.choice(SYLLABLES, length)) for length in lengths])


def make_sentences(rng: np.random.Generator, words: np.ndarray, count: int) -> list[str]:
    lengths = np.maximum(1, rng.poisson(WORDS_A_SENTENCE, count))
    weights = 1 / np.arange(1, len(words) + 1)
    ranks = rng.choice(len(words), lengths.sum(), p=weights / weights.sum())
    return [" ".join(part) for part in np.split(words[ranks], np.cumsum(lengths)[:-1])]


def write_sparse_wav(path: Path, samples: int) -> None:
    """A silent 16-bit file of ``samples`` samples whose sound is a hole in the file."""
    soundfile.write(path, np.zeros(0, np.int16), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    header = bytearray(path.read_bytes())
    size = samples * BYTES_A_SAMPLE
    header[4:8] = (len(header) - 8 + size).to_bytes(4, "little")
    header[-4:] = size.to_bytes(4, "little")
    path.write_bytes(header)
    os.truncate(path, len(header) + size)


def make_split(folder: Path, split: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (folder / split / "wav").mkdir(parents=True)
    (folder / split / "txt").mkdir()
    durations = np.round(rng.gamma(3.0, 2.0, count) + 0.1, 6)
    rows = []
    for talk, start in enumerate(range(0, count, SEGMENTS_A_TALK)):
        time_in_talk = 15.0
        for duration in durations[start : start + SEGMENTS_A_TALK]:
            rows.append(
                f"- {{duration: {duration:.6f}, offset: {time_in_talk:.6f}, rW: 18, uW: 0, "
                f"speaker_id: spk.{talk}, wav: ted_{split}_{talk}.wav}}\n"
            )
            time_in_talk += duration + 0.5
        path = folder / split / "wav" / f"ted_{split}_{talk}.wav"
        write_sparse_wav(path, int(time_in_talk * SAMPLE_RATE))
    (folder / split / "txt" / f"{split}.yaml").write_text("".join(rows))
    for language, language_seed in (("en", 1), ("de", 2)):
        words = make_words(np.random.default_rng(language_seed))
        sentences = make_sentences(rng, words, count)
        text = "".join(f"{sentence}.\n" for sentence in sentences)
        (folder / split / "txt" / f"{split}.{language}").write_text(text, encoding="utf-8")


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; wall seconds and the largest resident set, in GB, of any of its processes."""
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return time.monotonic() - start, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=270_000, help="of the training split")
    parser.add_argument("--folder", type=Path, help="empty or new; default: a temporary one")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--keep", action="store_true", help="do not delete the folder")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="prepare_scale."))
    try:
        data = folder / "release" / "en-de" / "data"
        make_split(data, "train", args.segments, seed=1)
        make_split(data, "dev", EVALUATION_SEGMENTS, seed=2)
        command = [sys.executable, "-m", "cress_svcd.cli.main", "prepare-mustc"]
        command += [str(folder / "release"), "-o", str(folder / "prepared"), "--tgt-lang", "de"]
        command += ["--text-data", "--workers", str(args.workers), "--no-audio-samples"]
        report = {"segments": args.segments, "workers": args.workers}
        for name in ("first", "second, all up to date"):
            seconds, gigabytes = measure(command)
            report[name] = {"seconds": round(seconds, 1), "peak_gb": round(gigabytes, 2)}
        print(json.dumps(report, indent=2))
    finally:
        if not args.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
