"""Average the weights of several checkpoints of one training.

  cress-svcd average runs/st --last 10 -o runs/st/averaged.pt
  cress-svcd average runs/st --best 5 -o runs/st/averaged.pt
  cress-svcd average runs/st/checkpoint8.pt runs/st/checkpoint9.pt -o averaged.pt

From a folder, --last N takes the N newest numbered checkpoints (checkpoint7.pt by epoch, or
checkpoint_2_5000.pt by update with --by update), --best N those whose validation metric
(--best-checkpoint-metric of the training) is best; without either, all of them are taken.  The
result is a checkpoint for fairseq-generate, or to train on from; it holds no optimizer state.
"""

import argparse
import re
from pathlib import Path

from cress_svcd.cli.arguments import positive
from cress_svcd.cli.quick_imports import import_models
from cress_svcd.errors import CheckpointError

EPOCH = re.compile(r"checkpoint(\d+)\.pt")
UPDATE = re.compile(r"checkpoint_\d+_(\d+)\.pt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", type=Path, help="a folder of checkpoints, or files")
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--last", type=positive, metavar="N", help="the N newest of the folder")
    choice.add_argument("--best", type=positive, metavar="N", help="the N best of the folder")
    parser.add_argument(
        "--by",
        choices=("epoch", "update"),
        default="epoch",
        help="which numbered checkpoints of the folder (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    import_models()
    from cress_svcd.atomic_files import refuse_overwriting, write_checkpoint
    from cress_svcd.models.averaging import average, list_numbered, pick_best, pick_last

    files = args.inputs
    for file in files:
        if not file.exists():
            raise CheckpointError(f"{file}: no such file or folder")
    if len(files) == 1 and files[0].is_dir():
        numbered = list_numbered(files[0], UPDATE if args.by == "update" else EPOCH)
        if args.best:
            files = pick_best(numbered, args.best)
        else:
            files = pick_last(numbered, args.last or len(numbered), files[0])
    elif args.last or args.best:
        raise CheckpointError("--last and --best choose from one folder; files were given")
    refuse_overwriting([("--output", args.output)], files)
    state = average(files)
    write_checkpoint(args.output, state)
    print(f"{args.output}: average of {', '.join(file.name for file in files)}")
