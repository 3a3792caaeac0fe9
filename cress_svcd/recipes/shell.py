"""Recipes as commands to read, and to paste into a shell."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from cress_svcd.recipes.recipe_file import Recipe
from cress_svcd.recipes.runner import with_shipped_script

OPTION = re.compile(r"--?[A-Za-z]")
WIDTH = 100  # a longer line is broken between its words


def script(recipe: Recipe, first: int, last: int) -> Iterator[str]:
    """The commands of stages ``first`` to ``last`` (from 1), as ``bash`` runs them.

    Each writes what it prints where the recipe keeps that: to the output of its stage, or the log.
    """
    folders: set[Path] = set()
    for number, stage in enumerate(recipe.stages[first - 1 : last], start=first):
        yield f"# {number} {stage.name}: {stage.does}"
        written: set[Path] = set()
        files = [Path(output) for output in stage.outputs] or recipe.logs(number)
        if len(files) == 1:
            files *= len(stage.commands)
        for command, file in zip(stage.commands, files, strict=True):
            if file.parent not in folders:
                yield f"mkdir -p {shlex.quote(str(file.parent))}"
            folders.add(file.parent)
            arrow = ">>" if file in written else ">"
            written.add(file)
            yield one_option_a_line(
                with_shipped_script(command), f"{arrow} {shlex.quote(str(file))} 2>&1"
            )


def one_option_a_line(command: list[str], end: str = "") -> str:
    """The command quoted for a shell, with a line for each option and its values, then ``end``."""
    lines = [[command[0]]]
    for word in command[1:]:
        if OPTION.match(word) or len(shlex.join([*lines[-1], word])) > WIDTH:
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join([*map(shlex.join, lines), *filter(None, [end])])
