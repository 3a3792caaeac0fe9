"""Turn parallel text into fairseq's binary format, with the vocabulary of prepared speech data.

  cress-svcd prepare-text data/en-de -o data/en-de/mt --split train wmt.en wmt.de

For training on text alone, or next to speech (--text-data FOLDER --ext-mt-training).  DATA is the
output of prepare-mustc; its sentencepiece model and dictionary are used.  With --with-speech-text
the pairs of transcripts and translations that DATA holds come in too: those of its train.tsv after
the other training pairs, those of its dev.tsv as dev unless a dev split is given.

Of DATA of several target languages, --tgt-lang says which one TARGET is in, and whose rows
--with-speech-text takes: give the command once for each language, with the same OUTPUT.

Writes SPLIT.SRC-TGT.{SRC,TGT}.{bin,idx} and dict.{SRC,TGT}.txt.  Pairs with an empty side are left
out and counted, as are the source sentences of --without (a test set, for example), so that no
test sentence gets into training.
"""

import argparse
import os
from pathlib import Path

from cress_svcd.cli.arguments import thread_count
from cress_svcd.errors import ConfigError

Pairs = list[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="output of prepare-mustc")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--split",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "SOURCE", "TARGET"),
        help="name of a split and its two line-aligned files; may be repeated, also for one name",
    )
    parser.add_argument(
        "--tgt-lang", metavar="XX", help="which one, where DATA has several target languages"
    )
    parser.add_argument(
        "--with-speech-text", action="store_true", help="add the texts of DATA's train and dev"
    )
    parser.add_argument(
        "--without",
        type=Path,
        action="append",
        default=[],
        metavar="TSV",
        help="manifest whose source sentences are to be left out of train; may be repeated",
    )
    parser.add_argument("--clean", action="store_true", help="replace control characters")
    parser.add_argument(
        "--workers",
        type=thread_count,
        default=os.cpu_count(),
        help="processes (default: all cores)",
    )


def run(args: argparse.Namespace) -> None:
    from cress_svcd.atomic_files import write_json
    from cress_svcd.data.corpus.binary_text import binarize_pairs, write_dictionaries
    from cress_svcd.data.corpus.prepared import read_config, target_languages

    config = read_config(args.data)
    targets = target_languages(config, args.tgt_lang)
    if len(targets) > 1:
        raise ConfigError(f"{args.data}: is of {', '.join(targets)}: choose one with --tgt-lang")
    several = bool(config.get("tgt_langs"))
    splits, counts = collect(args, targets[0] if several else None)
    if not splits:
        raise ConfigError("nothing to do: give --split, --with-speech-text, or both")
    model = args.data / config["bpe_tokenizer"]["sentencepiece_model"]
    dictionary = args.data / config["vocab_filename"]
    source, target = config.get("src_lang", "en"), targets[0]
    args.output.mkdir(parents=True, exist_ok=True)
    for name, pairs in splits.items():
        texts = {source: [pair[0] for pair in pairs], target: [pair[1] for pair in pairs]}
        counts[name]["tokens"] = binarize_pairs(
            name, texts, model, dictionary, args.output, args.workers
        )
    write_dictionaries(dictionary, args.output, (source, target))
    summary = f"summary.{target}.json" if several else "summary.json"
    write_json(args.output / summary, counts)
    for name, count in counts.items():
        dropped = ", ".join(f"{key} {count[key]:,}" for key in ("empty", "held_out") if count[key])
        left_out = f"  (left out: {dropped})" if dropped else ""
        print(f"{name:<12}{count['pairs']:>10,} pairs{left_out}")


def collect(
    args: argparse.Namespace, language: str | None = None
) -> tuple[dict[str, Pairs], dict[str, dict]]:
    """The pairs of each split, and what was counted on the way.

    Args:
        language: of the rows of DATA's manifests that are taken; None: all.
    """
    from cress_svcd.data.corpus.parallel_text import read_parallel

    splits: dict[str, Pairs] = {}
    counts: dict[str, dict] = {}

    def add(name: str, pairs: Pairs, empty: int) -> None:
        count = counts.setdefault(name, {"pairs": 0, "empty": 0, "held_out": 0})
        splits.setdefault(name, []).extend(pairs)
        count["empty"] += empty

    for name, source, target in args.split:
        text = read_parallel(name, source, target, clean=args.clean)
        add(name, [(line.source, line.target) for line in text.lines], text.n_empty)
    if args.with_speech_text:
        add("train", *manifest_pairs(args.data / "train.tsv", language))
        if "dev" not in splits and (args.data / "dev.tsv").is_file():
            add("dev", *manifest_pairs(args.data / "dev.tsv", language))
    held_out = {source for path in args.without for source, _ in manifest_pairs(path)[0]}
    if "train" in splits:
        kept = [pair for pair in splits["train"] if pair[0] not in held_out]
        counts["train"]["held_out"] = len(splits["train"]) - len(kept)
        splits["train"] = kept
    for name, pairs in splits.items():
        counts[name]["pairs"] = len(pairs)
        if not pairs:
            raise ConfigError(
                f"split {name}: no pairs are left ({counts[name]['empty']} with an empty side, "
                f"{counts[name]['held_out']} held out); check --split and --without"
            )
    return splits, counts


def manifest_pairs(path: Path, language: str | None = None) -> tuple[Pairs, int]:
    """(transcript, translation) of each row that has both, and how many have not.

    Args:
        language: of the translations; None: all.
    """
    from cress_svcd.data.corpus.manifest import read_manifest

    frame = read_manifest(path)
    if language is not None:
        frame = frame[frame["tgt_lang"] == language]
    pairs = [pair for pair in zip(frame["src_text"], frame["tgt_text"]) if all(pair)]
    return pairs, len(frame) - len(pairs)
