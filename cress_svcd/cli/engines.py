"""What computes translations: the option of the commands that let the user choose."""

import argparse
from typing import TYPE_CHECKING

from cress_svcd.cli.quick_imports import quick_imports

if TYPE_CHECKING:
    from cress_svcd.translation.native import NativeTranslator
    from cress_svcd.translation.translator import Translator


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=("torch", "native"),
        default="torch",
        help="what computes (default: %(default)s); native: the engine in C, which starts at once "
        "and takes a file of cress-svcd export, see docs/native.md",
    )


def translator_class(engine: str) -> "type[Translator | NativeTranslator]":
    """It is imported here: the native engine does not wait for torch."""
    if engine == "native":
        from cress_svcd.translation.native import NativeTranslator

        return NativeTranslator
    with quick_imports():
        from cress_svcd.translation.translator import Translator

    return Translator
