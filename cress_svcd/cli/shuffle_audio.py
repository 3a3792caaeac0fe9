"""Give every sentence of a manifest the recording of another one: a control experiment.

  cress-svcd shuffle-audio data/tst-COMMON.tsv -o data/tst-shuffled.tsv

A model that listens must score close to nothing on the result (fairseq-generate --gen-subset
tst-shuffled); one that has learnt only what sentences are likely scores as before.
"""

import argparse
import random
from collections import Counter
from pathlib import Path

from cress_svcd.errors import ManifestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", type=Path, help="TSV of a split")
    parser.add_argument("-o", "--output", type=Path, required=True, help="TSV to write")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")


def run(args: argparse.Namespace) -> None:
    from cress_svcd.data.corpus.manifest import read_manifest, write_manifest

    frame = read_manifest(args.manifest)
    texts = frame["tgt_text"].tolist()
    order = other_sentences(texts, args.seed, args.manifest)
    for column in ("audio", "n_frames", "speaker"):
        frame[column] = frame[column].to_numpy()[order]
    write_manifest(args.output, frame.to_dict("records"))
    print(f"{args.output}: {len(frame)} sentences, each with the recording of another")


def other_sentences(texts: list[str], seed: int, path: Path) -> list[int]:
    """For each sentence the index of one with another text, each index once.

    Raises:
        ManifestError: more than half of the sentences have the same text.
    """
    # Sentences of one text stand together, the texts in random order; a turn by the size of the
    # largest such group brings each sentence to one of another text.
    counts = Counter(texts)
    random_state = random.Random(seed)
    places = {text: random_state.random() for text in counts}
    order = sorted(range(len(texts)), key=lambda index: (places[texts[index]], index))
    largest = max(counts.values())
    if 2 * largest > len(texts):
        raise ManifestError(
            f"{path}: one sentence makes up more than half of it; there are too few others"
        )
    others = [0] * len(texts)
    for place, index in enumerate(order):
        others[index] = order[(place + largest) % len(order)]
    return others
