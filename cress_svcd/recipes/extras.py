"""Packages that a command of a recipe needs and not every installation has."""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from cress_svcd.recipes.recipe_file import Stage


@dataclass(frozen=True)
class Extra:
    """Modules that a command of ours with certain words needs, and how to get them."""

    word: str
    modules: tuple[str, ...]
    remedy: str


EXTRAS = (
    Extra("--recordings", ("mweralign", "suber"), "pip install 'cress_svcd[score]'"),
    Extra("--segmenter=silero", ("silero_vad",), "pip install 'cress_svcd[vad]'"),
    Extra("--png", ("matplotlib",), "pip install matplotlib"),
)


def missing_extras(stages: Iterable[Stage]) -> list[str]:
    """What the commands of ``stages`` need and is not installed, in words, with the remedy.

    Commands of ours run by this very Python, so it is asked.
    """
    found: dict[tuple[str, str], str] = {}
    for stage in stages:
        for command in stage.commands:
            for extra in EXTRAS if command[0] == "cress-svcd" else ():
                absent = [module for module in extra.modules if not _is_installed(module)]
                if _has(command, extra.word) and absent:
                    what = f"stage {stage.name} needs {', '.join(absent)}"
                    found[stage.name, extra.remedy] = f"{what}: {extra.remedy}"
    return list(found.values())


def _has(command: list[str], word: str) -> bool:
    """Whether a command has a word, an option's value behind = or by itself."""
    option, _, value = word.partition("=")
    pairs = list(zip(command, [*command[1:], ""]))
    return word in command or (bool(value) and (option, value) in pairs)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
