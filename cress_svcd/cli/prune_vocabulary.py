"""Make a model and its vocabulary smaller: keep the tokens that a corpus uses.

  cress-svcd prune-vocabulary deltalm-base.pt --spm-model spm.model --dictionary dict.txt \\
      --text MUSTC/en-de/data/train/txt/train.en MUSTC/en-de/data/train/txt/train.de -o pruned

writes pruned/{deltalm-base.pt,spm.model,dict.txt}.  DeltaLM's embedding has 250,000 rows for a
hundred languages, more than half of the base model; two languages use a part of them.  Afterwards:

  cress-svcd prepare-mustc … --spm-model pruned/spm.model --dictionary pruned/dict.txt
  fairseq-train … --arch hubert_deltalm --deltalm-model-path pruned/deltalm-base.pt

CHECKPOINT is DeltaLM as released, or any full-precision checkpoint of fairseq-train (--text then
includes all that it shall translate; the data folder is prepared again with the new vocabulary).
--text takes plain text, one sentence a line, and manifests of prepare-mustc (.tsv).  Also kept
are all characters of those tokens, so that other words can still be spelt.

What changes: sentences of --text are segmented as before, and the model computes the same encoder
states and the same scores (before the softmax) of the kept tokens.  The probability of the tokens
that are gone is shared out among the others.  Greedy translations stay the same as long as the
large model chooses kept tokens; a beam also compares sums of log-probabilities, in which that share
shows where it is large.  In a model that was fine-tuned on the corpus it is next to nothing.
"""

import argparse
from pathlib import Path

from cress_svcd.cli.quick_imports import import_models
from cress_svcd.errors import CheckpointError, ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="model to make smaller")
    parser.add_argument(
        "--spm-model", type=Path, required=True, metavar="FILE", help="its sentencepiece model"
    )
    parser.add_argument(
        "--dictionary", type=Path, required=True, metavar="FILE", help="its fairseq dictionary"
    )
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="texts of all languages that shall be kept: plain, or .tsv manifests",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write to"
    )


def run(args: argparse.Namespace) -> None:
    import_models()
    from cress_svcd.atomic_files import write_checkpoint
    from cress_svcd.data.config import dictionary_digest, load_dictionary
    from cress_svcd.data.corpus.vocabulary_pruning import prune
    from cress_svcd.models.checkpoints import read_checkpoint
    from cress_svcd.models.vocabulary_rows import select_rows

    inputs = [args.checkpoint, args.spm_model, args.dictionary]
    outputs = [args.output / file.name for file in inputs]
    for file, output in zip(inputs, outputs):
        if output.exists() and file.exists() and output.samefile(file):
            raise ConfigError(f"-o {args.output}: {file} lies there; name another folder")
    sentences = [line for file in args.text for line in read_text(file)]
    if not any(sentences):
        raise ConfigError("--text: the files hold no text")
    vocabulary = prune(args.spm_model, args.dictionary, sentences)
    large = load_dictionary(args.dictionary)
    state = read_checkpoint(args.checkpoint)
    task_state = state.get("task_state") or {}
    digest = dictionary_digest(large)
    if task_state.get("dictionary_digest", digest) != digest:
        raise CheckpointError(
            f"{args.checkpoint}: it was trained with another dictionary than {args.dictionary}; "
            "give that of the data folder that it was trained with"
        )
    state = select_rows(state, vocabulary.indices, len(large), args.checkpoint)
    if "dictionary_digest" in task_state:
        digest = dictionary_digest(vocabulary.dictionary)
        state["task_state"] = {**task_state, "dictionary_digest": digest}
    write_checkpoint(outputs[0], state)
    vocabulary.write_model(outputs[1])
    vocabulary.write_dictionary(outputs[2])
    print(f"dictionary  {len(large):,} → {len(vocabulary.dictionary):,} entries")
    for file, output in zip(inputs, outputs):
        print(f"{output}: {megabytes(file):,.1f} → {megabytes(output):,.1f} MB")


def read_text(path: Path) -> list[str]:
    """The sentences of a plain text or of a manifest."""
    from cress_svcd.data.corpus.manifest import read_manifest
    from cress_svcd.data.corpus.text import read_lines

    if path.suffix != ".tsv":
        return read_lines(path, ConfigError)
    frame = read_manifest(path)
    return [*frame["src_text"], *frame["tgt_text"]]


def megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
