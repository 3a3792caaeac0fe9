"""The ``cress-svcd`` command: finds the sub-command's module and runs it.

A command is a module of this package with a docstring (its long help), ``add_arguments(parser)``
and ``run(args)``.  Only the module that is asked for is imported.  Its help and a typo are to be
answered at once, so that these modules import what computes (torch, fairseq, numpy, ...) within
``run``.
"""

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from cress_svcd import __version__
from cress_svcd.cli.logs import logs
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
    "train-segmenter": "learn to cut recordings as the corpus is cut",
    "average": "average the weights of several checkpoints",
    "pack": "pack a quantised checkpoint: a bit a weight",
    "export": "write a packed model as a file that is mapped into memory",
    "unpack": "turn a packed model back into a checkpoint",
    "translate": "translate recordings: text, JSON lines or subtitles",
    "serve": "serve models: OpenAI's protocol, live audio, and a page to try them with",
    "curves": "curves of trainings: loss, gradient norm, loss scale, overflows",
    "chart": "table and picture of BLEU, by system or against bits",
    "report": "what became of each layer; which layers bear few bits",
    "score": "score generated translations: BLEU, chrF, length ratio",
    "compare": "compare translations, with a significance test by paired bootstrap",
}
MOST_CHARACTERS = 2000  # of an error
VERSIONS_OF = ("torch", "fairseq-fixed")


class Parser(argparse.ArgumentParser):
    """A parser that says which option was meant where one is not known."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized arguments: "):
            known = [option for option in self._option_string_actions if option.startswith("--")]
            message += did_you_mean((word.partition("=")[0] for word in unknown), known)
        super().error(message)


def did_you_mean(words: Iterable[str], known: Iterable[str]) -> str:
    """The end of a message: what of ``known`` comes close to one of ``words``, or nothing."""
    known = list(known)
    close = [name for word in words for name in difflib.get_close_matches(word, known, n=2)]
    return f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cress-svcd",
        description="Speech translation with 1-bit layers, on fairseq.",
        epilog="'cress-svcd COMMAND --help' explains a command.  Training and generation are "
        "fairseq's own: fairseq-train, fairseq-generate, with --user-dir cress_svcd.",
    )
    parser.add_argument("--version", action="store_true", help="print versions, also torch's")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def build_command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command, with everything that its ``--help`` shows."""
    module = importlib.import_module(f"cress_svcd.cli.{name.replace('-', '_')}")
    parser = Parser(
        prog=f"cress-svcd {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    words = parser.add_mutually_exclusive_group()
    words.add_argument("-q", "--quiet", action="store_true", help="say errors alone")
    words.add_argument(
        "-v", "--verbose", action="store_true", help="say details, and what libraries log"
    )
    parser.set_defaults(run=module.run)
    return parser


def versions() -> str:
    """Ours, and those of what it stands on."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f"cress-svcd {__version__}"]
    for name in VERSIONS_OF:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*found, f"Python {sys.version.split()[0]}"])


def escape_what_cannot_be_shown() -> None:
    """Let a terminal that lacks a character show its number; by default, Python would stop."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def one_line(message: str) -> str:
    """A message that may quote what stands in a file: lines joined, control characters escaped,
    its middle left out where it is very long."""
    joined = " ".join(line.strip() for line in message.splitlines() if line.strip())
    shown = re.sub(r"[\x00-\x1f\x7f]", lambda control: repr(control[0])[1:-1], joined)
    return shown if len(shown) <= MOST_CHARACTERS else f"{shown[:1400]} … {shown[-500:]}"


def main(argv: Sequence[str] | None = None) -> int:
    escape_what_cannot_be_shown()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        return answer(argv)
    name = argv[0]
    parser = build_command_parser(name)
    # Options may stand between the inputs, and before them.
    args = parser.parse_intermixed_args(argv[1:])
    # OpenMP's threads would spin while they wait for each other: on cores that something else uses
    # as well, a translation takes up to ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from cress_svcd.cli.overwriting import check_outputs
    from cress_svcd.translation.threads import require_sane_environment

    try:
        with logs(args.quiet, args.verbose):
            require_sane_environment()
            check_outputs(args)
            return args.run(args) or 0
    except CressError as error:
        print(f"cress-svcd {name}: error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has had enough; Python would fail again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"cress-svcd {name}: interrupted", file=sys.stderr)
        return 130


def answer(argv: list[str]) -> int:
    """Where no command is asked for: help, versions, or what is wrong."""
    parser = build_parser()
    if argv and not argv[0].startswith("-"):
        parser.error(
            f"there is no command {argv[0]}{did_you_mean(argv[:1], COMMANDS)}"
            " ('cress-svcd --help' lists them)"
        )
    if not parser.parse_args(argv).version:
        parser.error("the following arguments are required: COMMAND")
    print(versions())
    return 0


if __name__ == "__main__":
    sys.exit(main())
