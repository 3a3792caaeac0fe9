#!/usr/bin/env python3
"""How often the engine in C cuts and translates recordings as cress-svcd translate does.

    python scripts/bench/engine_recordings.py demo/en-de/packed.pt demo/en-de/data --lang de

Needs `make -C native` and the extra export.  Utterances of the test set, with pauses and a little
noise, make six recordings of a minute each: of 8 to 48 kHz and one to three channels, in one of
which two channels have opposite poles.  Printed for each segmenter: segments of Python, those that
begin and end at the same millisecond in the engine, and those of them that have the same words.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from engine_equality import ENGINE, audio_root, export, require_engine
from server_process import PROGRAM

from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.data.corpus.manifest import read_manifest

SECONDS = 60
# Samples a second, and how loud speech is in each channel.
FORMS = (
    (8000, (1.0,)),
    (16000, (1.0,)),
    (22050, (1.0, 0.5, 0.25)),
    (32000, (1.0, -1.0)),
    (44100, (1.0, 0.7)),
    (48000, (1.0,)),
)

Cuts = dict[tuple[str, float, float], str]  # recording, beginning and end -> words


def make_recordings(manifest: Path, root: Path, folder: Path) -> list[Path]:
    chance = np.random.default_rng(1)
    utterances = iter(read_manifest(manifest)["audio"])
    paths = []
    for number, (rate, gains) in enumerate(FORMS):
        parts, count = [], 0
        while count < SECONDS * SAMPLE_RATE:
            pause = np.zeros(int(SAMPLE_RATE * chance.uniform(0.1, 1.5)), np.float32)
            parts += [read_audio(next(utterances), root=root), pause]
            count += len(parts[-2]) + len(pause)
        wave = np.concatenate(parts)
        wave += 1e-3 * chance.standard_normal(len(wave)).astype(np.float32)
        wave = soxr.resample(wave, SAMPLE_RATE, rate)
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], wave[:, None] * np.array(gains), rate)
    return paths


def cuts_of(command: list) -> Cuts:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr[-2000:]}")
    records = map(json.loads, done.stdout.splitlines())
    return {(Path(one["source"]).name, one["start"], one["end"]): one["text"] for one in records}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a packed model")
    parser.add_argument("data", type=Path, help="its prepared corpus")
    parser.add_argument("--lang", required=True, help="the target language")
    parser.add_argument("--subset", default="tst-COMMON")
    parser.add_argument("--audio", type=Path, help="folder that the manifest's paths begin at")
    args = parser.parse_args()
    require_engine()
    with tempfile.TemporaryDirectory() as folder:
        files = make_recordings(args.data / f"{args.subset}.tsv", audio_root(args), Path(folder))
        cress = export(args, folder)
        print("segmenter  segments  same times  same words")
        for segmenter in ("energy", "learnt"):
            options = [*files, "--output-format", "jsonl", "--segmenter", segmenter]
            by_python = [*PROGRAM, "translate", args.model, *options, "--batch-seconds", 0]
            expected = cuts_of([*by_python, "--device", "cpu"])
            found = cuts_of([ENGINE, "translate", cress, *options])
            same = expected.keys() & found.keys()
            words = sum(expected[key] == found[key] for key in same)
            print(f"{segmenter:9}  {len(expected):8}  {len(same):10}  {words:10}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
