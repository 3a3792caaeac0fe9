"""The commands of the README are commands of today: every one is parsed by what it calls."""

import re
import shlex
from pathlib import Path

import pytest
from fairseq import options

from cress_svcd.cli.main import COMMANDS, build_command_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Words of every command in the README's blocks of shell."""
    lines = []
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL):
        lines += block.replace("\\\n", " ").splitlines()
    split = (shlex.split(line.split(" > ")[0], comments=True) for line in lines)
    return [words for words in split if words]


def named(program: str) -> list:
    found = [words for words in commands() if words[0] == program]
    assert found, f"the README shows no {program}"
    return [pytest.param(words, id=f"{words[1]}-{number}") for number, words in enumerate(found)]


def texts(value) -> list[str]:
    """A parsed option as words of a command."""
    nested = isinstance(value, list | tuple)
    return [text for item in value for text in texts(item)] if nested else [str(value)]


@pytest.mark.parametrize("words", named("cress-svcd"))
def test_our_commands(words):
    args = build_command_parser(words[1]).parse_intermixed_args(words[2:])
    given = {word for word in words[2:] if not word.startswith("-")}
    assert given <= {text for value in vars(args).values() for text in texts(value)}


@pytest.mark.parametrize("words", named("fairseq-train"))
def test_trainings(words):
    args = options.parse_args_and_arch(options.get_training_parser(), words[1:])
    assert args.task == args.criterion == "speech_and_text_translation"


@pytest.mark.parametrize("words", named("fairseq-generate"))
def test_generations(words):
    args = options.parse_args_and_arch(options.get_generation_parser(), words[1:])
    assert args.task == "speech_and_text_translation"


@pytest.mark.parametrize("words", named("bash"))
def test_scripts(words):
    assert (ROOT / words[1]).is_file()


def test_every_file_and_command_that_is_named_exists():
    for path in set(re.findall(r"`?\b((?:scripts|configs|cress_svcd)/[\w./-]+\.\w+)", README)):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"`cress-svcd ([a-z][a-z-]+)", README):
        assert name in COMMANDS, name
    table = README.split("## Commands")[1].split("\n## ")[0]
    listed = set(re.findall(r"`([a-z-]+)`", table.split("|---|---|")[1].replace("fairseq", "")))
    assert COMMANDS.keys() <= listed
