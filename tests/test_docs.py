"""README and docs: their commands parse, what they name exists, what they show runs."""

import importlib
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from fairseq import options

from cress_svcd.cli.main import COMMANDS, build_command_parser
from tests.fuzz.__main__ import parse as fuzzer_options

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("native/README.md", "native/python/README.md")),
    *sorted((ROOT / "scripts").rglob("*.md")),
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
COMMAND = re.compile(r"^[A-Z_]+=")


# What --help says before the options of a command.
HELP = {name: build_command_parser(name).description for name in COMMANDS}
LEFT_OUT = ("…", "...")


def commands() -> list[tuple[str, list[str]]]:
    """Page and words of every command in the pages' blocks of shell."""
    blocks = [
        (page, block)
        for page, text in TEXTS.items()
        for block in re.findall(r"^ *```bash\n(.*?)```", text, flags=re.DOTALL | re.MULTILINE)
    ]
    return split(blocks)


def helped() -> list[tuple[str, list[str]]]:
    """Command and words of every example in the commands' help, which stand indented there."""
    example = r"^  (?:  )?(?:\S+ [^\n]*\| )?(?:cress-svcd|fairseq)(?:[^\n]*\\\n)*[^\n]*"
    return split(
        (name, found)
        for name, text in HELP.items()
        for found in re.findall(example, text, flags=re.MULTILINE)
    )


def split(blocks: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """The words of every command in blocks of shell."""
    found = []
    for page, block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s\|\s|\s&&\s", line):
                words = shlex.split(part.split(" > ")[0], comments=True)
                while words and COMMAND.match(words[0]):
                    words = words[1:]  # NAME=value command …
                if words:
                    found.append((page, words))
    return found


def named(*programs: str) -> list:
    found = [(page, words) for page, words in commands() if words[0] in programs]
    assert found, f"no page shows {programs}"
    return [
        pytest.param(words, id=f"{page}-{' '.join(words[:2])}-{number}")
        for number, (page, words) in enumerate(found)
    ]


def examples() -> list:
    shown = [(name, words) for name, words in helped() if words[0] == "cress-svcd"]
    assert {name for name, _ in shown} == COMMANDS.keys()
    return [pytest.param(words, id=f"{name}-{i}") for i, (name, words) in enumerate(shown)]


@pytest.mark.parametrize("words", examples())
def test_the_examples_of_help(words):
    """Of one that leaves something out, the options that it shows."""
    if not set(LEFT_OUT) & set(words):
        check_command(words)
        return
    known = build_command_parser(words[1])._option_string_actions
    assert {word for word in words if word.startswith("--")} <= known.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_what_help_names_exists(name):
    for folder, path in re.findall(r"\b(configs|cress_svcd|scripts)/([\w./-]+\.\w+)", HELP[name]):
        assert (ROOT / folder / path).is_file(), path
    named = set(re.findall(r"'cress-svcd ([a-z][a-z-]+)", HELP[name]))
    assert named <= COMMANDS.keys()
    options = set(re.findall(r"'cress-svcd ([a-z-]+) (--[a-z-]+)", HELP[name]))
    for command, option in options:
        assert option in build_command_parser(command)._option_string_actions


def texts(value) -> list[str]:
    """A parsed option as words of a command."""
    nested = isinstance(value, list | tuple)
    if nested:
        return [text for item in value for text in texts(item)]
    return [str(value), f"{value:g}"] if isinstance(value, float) else [str(value)]


@pytest.mark.parametrize("words", named("cress-svcd"))
def test_our_commands(words):
    check_command(words)


def check_command(words: list[str]) -> None:
    """It parses, and no option has taken a word for another."""
    args = build_command_parser(words[1]).parse_intermixed_args(words[2:])
    given = {word for word in words[2:] if not word.startswith("-")}
    assert given <= {text for value in vars(args).values() for text in texts(value)}


@pytest.mark.parametrize("words", named("fairseq-train"))
def test_trainings(words):
    args = options.parse_args_and_arch(options.get_training_parser(), words[1:])
    ours = args.task == args.criterion == "speech_and_text_translation"
    assert ours or args.task == "ctc_hubert_pretraining"


@pytest.mark.parametrize("words", named("fairseq-generate"))
def test_generations(words):
    args = options.parse_args_and_arch(options.get_generation_parser(), words[1:])
    assert args.task == "speech_and_text_translation"


@pytest.mark.parametrize("words", named("bash", "python", "sbatch"))
def test_scripts_and_modules(words):
    if words[1] == "scripts/fuzz.sh":
        fuzzer_options(words[2:])
    words = [word for word in words if word[:2] != "--" or words[0] == "python"]
    if words[1] == "-m":
        importlib.import_module(words[2])
    else:
        assert (ROOT / words[1]).is_file()
        if words[1].startswith("scripts/bench/") and words[1].endswith(".py"):
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            end = words.index("--") if "--" in words else len(words)
            flags = [word for word in words[2:end] if re.match(r"--?[a-z]", word)]
            assert all(f'"{flag}"' in source for flag in flags)
            if words[end + 1 : end + 2] and words[end + 1].startswith("--"):  # of the trainings
                task = [
                    "data",
                    "--task",
                    "speech_and_text_translation",
                    "--arch",
                    "quant_transformer",
                ]
                options.parse_args_and_arch(
                    options.get_training_parser(), [*task, *words[end + 1 :]]
                )


def test_no_other_program_is_shown_that_nothing_checks():
    checked = {"cress-svcd", "fairseq-train", "fairseq-generate", "bash", "python", "sbatch"}
    others = {words[0] for _, words in commands()} - checked
    # Programs of others: the shell's, git, ffmpeg, Slurm's, and fairseq's with Hydra.
    shell = {".", "cd", "find", "echo", "head", "tee"}
    assert others <= {
        *shell,
        "git",
        "curl",
        "docker",
        "ffmpeg",
        "fairseq-hydra-train",
        "pre-commit",
        "pip",
    }


@pytest.mark.parametrize("page", TEXTS)
def test_every_file_and_command_that_is_named_exists(page):
    text = TEXTS[page]
    folders, ends = "scripts|configs|cress_svcd|tests|docs", "py|md|sh|ya?ml|c|h|txt"
    paths = set(re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]+\.(?:{ends}))\b", text))
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).is_file()]
    unknown = set(re.findall(r"`cress-svcd ([a-z][a-z-]+)", text)) - COMMANDS.keys()
    assert not unknown


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]*)(?:#[\w-]*)?\)", TEXTS[page]):
        assert target.startswith("https://") or not target or (folder / target).is_file(), target


def test_the_readme_lists_every_command_and_stays_short():
    readme = TEXTS["README.md"]
    table = readme.split("## Commands")[1].split("\n## ")[0]
    listed = set(re.findall(r"`([a-z-]+)`", table.split("|---|---|")[1].replace("fairseq", "")))
    assert COMMANDS.keys() <= listed
    assert len(readme.splitlines()) <= 150


def demo_script(*options: str) -> subprocess.CompletedProcess:
    """The demo's script with options that it answers before it sets anything up."""
    command = ["bash", "scripts/demo.sh", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_help_of_the_demo_explains_each_of_its_options():
    script = (ROOT / "scripts" / "demo.sh").read_text(encoding="utf-8")
    known = set(re.findall(r"(--[a-z-]+)[)|]", script.split("while ", 1)[1]))
    shown = set(re.findall(r"^  (--[a-z-]+) ", demo_script("--help").stdout, re.MULTILINE))
    assert known - {"--help"} == shown >= {"--lang", "--out", "--force"}


@pytest.mark.parametrize("options", [["--lang", "fr"], ["--lang"]], ids=" ".join)
def test_the_demo_refuses_a_language_that_it_lacks_at_once(options):
    refused = demo_script(*options)
    assert refused.returncode == 2 and not refused.stdout
    assert "expected de (German) or ro (Romanian)" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_tables_of_figures_stand_on_one_page():
    """A row of two measured figures and more."""
    measured = re.compile(r"^\|[^|]*\|(?: \**\d+\.\d+\** \|){2,}", re.MULTILINE)
    pages = {page for page, text in TEXTS.items() if measured.search(text)}
    # cost: derived, not measured; methods: one row a method, next to what it computes.
    assert pages <= {"docs/benchmarks.md", "docs/cost.md", "docs/methods.md"}


@pytest.mark.slow
def test_the_method_in_100_lines_runs(capsys):
    file = ROOT / "docs" / "svcd_in_100_lines.py"
    accuracy = runpy.run_path(str(file))["main"]()
    trained, untrained = accuracy["1 bit"], accuracy["1 bit, not trained on"]
    assert untrained < trained <= accuracy["full precision"] and trained > 0.9
    assert accuracy["1 bit, packed"] == pytest.approx(trained, abs=0.002)
    assert "1 bit, packed" in capsys.readouterr().out
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 100


def test_the_layer_in_100_lines_is_ours():
    import torch

    from cress_svcd.quantization.svcd import BitLinear

    torch.manual_seed(1)
    shown = runpy.run_path(str(ROOT / "docs" / "svcd_in_100_lines.py"))
    plain = torch.nn.Linear(24, 16)
    ours, x = BitLinear.from_linear(plain, activation_bits=8), torch.randn(5, 24)
    theirs = shown["BitLinear"](plain)
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-3, atol=1e-3)
    packed = shown["packed_product"](shown["pack"](theirs), x)
    torch.testing.assert_close(packed, theirs(x), rtol=1e-5, atol=1e-5)
