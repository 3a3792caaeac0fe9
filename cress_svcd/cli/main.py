"""The ``cress-svcd`` command: finds the sub-command's module and runs it.

A command is a module of this package with a docstring (its long help), ``add_arguments(parser)``
and ``run(args)``.  Only the module that is asked for is imported, so that ``--help`` is quick.
"""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from cress_svcd.errors import CressError

COMMANDS = {
    "prepare-mustc": "turn a MuST-C v1 release into manifests, vocabulary and config",
    "prepare-text": "turn parallel text into binary data with a prepared vocabulary",
    "speak": "make a corpus in MuST-C layout out of parallel text, with synthetic speech",
    "pretrain-hubert": "pretrain a HuBERT-format speech encoder",
    "extract-features": "features of a frozen HuBERT, computed once for training",
    "shard-audio": "pack audio into a few large files, for network file systems",
    "shuffle-audio": "give utterances each other's recordings, to see that a model listens",
    "recipe": "run the stages of a recipe, from data to scores",
    "prune-vocabulary": "keep of a model's vocabulary what a corpus uses",
    "average": "average the weights of several checkpoints",
    "pack": "pack a quantised checkpoint: a bit a weight",
    "unpack": "turn a packed model back into a checkpoint",
    "translate": "translate recordings: text, JSON lines or subtitles",
    "curves": "curves of trainings: loss, gradient norm, loss scale, overflows",
    "chart": "table and picture of BLEU, by system or against bits",
    "report": "what became of each layer; which layers bear few bits",
    "score": "score generated translations: BLEU, chrF, length ratio",
    "compare": "compare translations, with a significance test by paired bootstrap",
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cress-svcd",
        description="Speech translation with 1-bit layers, on fairseq.",
        epilog="'cress-svcd COMMAND --help' explains a command.  Training and generation are "
        "fairseq's own: fairseq-train, fairseq-generate, with --user-dir cress_svcd.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def build_command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command, with everything that its ``--help`` shows."""
    module = importlib.import_module(f"cress_svcd.cli.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"cress-svcd {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        format="%(asctime)s | %(levelname)s | %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO,
        stream=sys.stderr,
        force=True,  # importing fairseq has configured it already
    )
    if not argv or argv[0] not in COMMANDS:
        build_parser().parse_args(argv)
    name = argv[0]
    parser = build_command_parser(name)
    # Options may stand between the inputs, and before them.
    args = parser.parse_intermixed_args(argv[1:])
    try:
        return args.run(args) or 0
    except CressError as error:
        print(f"cress-svcd {name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cress-svcd {name}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
