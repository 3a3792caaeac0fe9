"""Run a recipe: numbered stages of commands from data to scores, resumable.

  cress-svcd recipe demo
  cress-svcd recipe demo --set lang=ro --from-stage 3
  cress-svcd recipe en-fr --set mustc=MUSTC_v1.0 --dry-run
  cress-svcd recipe my/recipe.yaml

A recipe is a YAML file, or the name of one that comes with the project.  A stage that has been done
with the same commands is left out, and one that was stopped on its way takes up its work; where a
stage runs again, all that follow do.  --dry-run prints every command as it would be run, an option
a line, to be read or pasted into a shell.  Files and packages that are missing are reported before
any work.  What a command prints goes to the log of its stage.  At the end OUT/report.json holds
scores, sizes and seconds, and a table is printed.
"""

import argparse
import signal

from cress_svcd.errors import ConfigError
from cress_svcd.recipes.children import ending_in_order
from cress_svcd.recipes.recipe_file import Stage, load_recipe
from cress_svcd.recipes.runner import Runner, format_report
from cress_svcd.recipes.shell import script
from cress_svcd.shipped import describe_missing, file_or_shipped, shipped_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", help=f"YAML file, or one of {', '.join(shipped_names('recipes'))}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of the recipe; may be repeated",
    )
    parser.add_argument("--from-stage", default="1", metavar="N", help="number or name")
    parser.add_argument("--to-stage", metavar="N", help="number or name")
    parser.add_argument("--force", action="store_true", help="run also what is done already")
    parser.add_argument(
        "--take-turns",
        action="store_true",
        help="let commands that share a GPU take turns on it, where NVIDIA's multi-process service "
        "would run them at the same time",
    )
    parser.add_argument("--list", action="store_true", help="list settings and stages")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")


def run(args: argparse.Namespace) -> None:
    file = file_or_shipped(args.recipe, "recipes")
    if not file.is_file():
        raise ConfigError(describe_missing(args.recipe, "recipes"))
    recipe = load_recipe(file, parse_changes(args.set))
    first = stage_number(recipe.stages, args.from_stage)
    last = stage_number(recipe.stages, args.to_stage) if args.to_stage else len(recipe.stages)
    if args.list:
        print(f"{recipe.name}: {recipe.about}\n\nsettings (change with --set KEY=VALUE):")
        for key, value in recipe.settings.items():
            print(f"  {key} = {value}")
        print("\nstages:")
        for number, stage in enumerate(recipe.stages, start=1):
            print(f"  {number:2d} {stage.name}: {stage.does}")
        return
    if args.dry_run:
        for line in script(recipe, first, last):
            print(line)
        return
    runner = Runner(recipe, take_turns=args.take_turns)
    with ending_in_order((signal.SIGTERM, signal.SIGHUP)):  # SIGHUP: of a terminal that is closed
        runner.run(first, last, force=args.force)
    print(f"\n{format_report(runner.write_report())}")
    print(f"\nreport       {recipe.folder / 'report.json'}\nall the rest {recipe.folder}")


def parse_changes(items: list[str]) -> dict[str, str]:
    """``KEY=VALUE`` texts as a dictionary; raises ConfigError for others."""
    changes = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {item}: expected KEY=VALUE")
        changes[key] = value
    return changes


def stage_number(stages: list[Stage], text: str) -> int:
    """Number of a stage given by number or name; raises ConfigError if there is none."""
    names = [stage.name for stage in stages]
    if text in names:
        return names.index(text) + 1
    if text.isdigit() and 1 <= int(text) <= len(stages):
        return int(text)
    raise ConfigError(f"no stage {text}; there are 1 to {len(stages)}: {', '.join(names)}")
