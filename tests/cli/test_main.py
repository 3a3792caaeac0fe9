"""The command itself: what it answers at once, what it says where, and on which terminals."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tqdm import tqdm

from cress_svcd import __version__
from cress_svcd.cli.logs import OTHERS, logs, shows_notes
from cress_svcd.cli.main import COMMANDS, did_you_mean, main, one_line

ROOT = Path(__file__).parents[2]
# Seconds of imports, which words about words shall not wait for.
HEAVY = [
    *("torch", "fairseq", "hydra", "omegaconf", "numpy", "pandas", "scipy", "sklearn"),
    *("matplotlib", "sacrebleu", "sentencepiece", "soundfile", "soxr"),
]
# Each command line in this one process, and what it was the first to import that is heavy.
ANSWERS = f"""
import contextlib, io, json, sys
from cress_svcd.cli.main import main
found, before = [], set()
for words in json.loads(sys.argv[1]):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
    heavy = set({HEAVY!r}) & sys.modules.keys() - before
    found.append([status, output.getvalue(), errors.getvalue(), sorted(heavy)])
    before |= heavy
print(json.dumps(found))
"""
WORDS = [
    ["--help"],
    ["--version"],
    ["translat"],
    *([name, "--help"] for name in COMMANDS),
    *([name, "--no-such-option"] for name in COMMANDS),
    *([name] for name in COMMANDS if name != "translate"),  # which reads standard input
    ["recipe", "en-de", "--dry-rum"],
    ["recipe", "en-de", "--list", "--set", "mustc=MUSTC"],
    ["recipe", "en-d"],
]


def process(*words, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cress_svcd.cli.main", *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment or None, capture_output=True, timeout=60
    )


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple]:
    command = [sys.executable, "-c", ANSWERS, json.dumps(WORDS)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {
        " ".join(words): tuple(answer)
        for words, answer in zip(WORDS, json.loads(result.stdout), strict=True)
    }


@pytest.mark.parametrize("words", [" ".join(words) for words in WORDS])
def test_words_about_words_import_nothing_heavy(answers, words):
    _, _, errors, heavy = answers[words]
    assert not heavy and "Traceback" not in errors


def test_help_and_version_are_answered(answers):
    status, output, _, _ = answers["--help"]
    assert status == 0 and all(name in output for name in COMMANDS)
    status, output, _, _ = answers["--version"]
    assert status == 0 and re.match(rf"cress-svcd {re.escape(__version__)}, torch \d", output)
    for name in COMMANDS:
        status, output, _, _ = answers[f"{name} --help"]
        assert status == 0 and "--quiet" in output and "--verbose" in output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_option_and_a_missing_input_are_told_with_the_usage(answers, name):
    for words in ([name, "--no-such-option"], [name]):
        if words != ["translate"]:
            status, output, errors, _ = answers[" ".join(words)]
            assert status == 2 and not output
            assert errors.startswith(f"usage: cress-svcd {name} ")
            assert f"cress-svcd {name}: error: " in errors


def test_a_typo_is_answered_with_what_is_close(answers):
    status, _, errors, _ = answers["translat"]
    assert status == 2
    assert "error: there is no command translat; did you mean translate?" in errors
    status, _, errors, _ = answers["recipe en-de --dry-rum"]
    assert status == 2 and "arguments: --dry-rum; did you mean --dry-run?" in errors


def test_a_recipe_is_found_by_its_name_and_one_that_is_not_there_by_a_close_one(answers):
    status, output, _, _ = answers["recipe en-de --list --set mustc=MUSTC"]
    assert status == 0 and output.startswith("en-de: ")
    status, _, errors, _ = answers["recipe en-d"]
    assert status == 2 and errors.startswith("cress-svcd recipe: error: en-d: no such file")
    assert "did you mean en-de" in errors


@pytest.mark.parametrize(
    "words, known, end",
    [
        (["packed"], COMMANDS, "; did you mean pack or unpack?"),
        (["xyzzy"], COMMANDS, ""),
        (["--bem", "--bem"], ["--beam"], "; did you mean --beam?"),
        ([], COMMANDS, ""),
    ],
)
def test_close_names(words, known, end):
    assert did_you_mean(words, known) == end


def test_without_a_command_it_says_so(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2 and "required: COMMAND" in capsys.readouterr().err


class TestLogs:
    """What stands on standard error."""

    def said(self, capsys, **how) -> list[str]:
        with logs(**how):
            for name in ("cress_svcd.x", "fairseq.tasks.y", "omegaconf", "another"):
                logger = logging.getLogger(name)
                logger.debug("details of %s", name)
                logger.info("word of %s", name)
                logger.warning("warning of %s", name)
                logger.error("error of %s", name)
        printed = capsys.readouterr()
        assert not printed.out
        return [line.split(" | ", 2)[2] for line in printed.err.splitlines()]

    def test_ours_are_shown_and_of_libraries_errors_alone(self, capsys):
        assert self.said(capsys) == [
            "word of cress_svcd.x",
            "warning of cress_svcd.x",
            "error of cress_svcd.x",
            "error of fairseq.tasks.y",
            "error of omegaconf",
            "word of another",
            "warning of another",
            "error of another",
        ]

    def test_quiet(self, capsys):
        said = self.said(capsys, quiet=True)
        assert said == [
            f"error of {name}"
            for name in ("cress_svcd.x", "fairseq.tasks.y", "omegaconf", "another")
        ]

    def test_verbose(self, capsys):
        said = self.said(capsys, verbose=True)
        assert said[0] == "details of cress_svcd.x" and "word of fairseq.tasks.y" in said
        assert "details of omegaconf" not in said and len(said) == 13

    def test_levels_and_filters_are_as_before_afterwards(self):
        before, make = list(warnings.filters), tqdm.__init__
        with logs(quiet=True):
            assert logging.getLogger("cress_svcd").level == logging.ERROR and not shows_notes()
        with logs():
            assert shows_notes()
        assert logging.getLogger("cress_svcd").level == logging.NOTSET
        assert list(warnings.filters) == before and tqdm.__init__ is make

    def test_a_warning_of_a_library_is_hidden_and_one_about_ours_is_not(self):
        with logs(), warnings.catch_warnings(record=True) as caught:
            for module in (
                "torch.nn.utils.weight_norm",
                "fairseq.utils",
                "another.torch",
                "cress_svcd.x",
            ):
                warnings.warn_explicit("old", FutureWarning, "file.py", 1, module, registry={})
        assert len(caught) == 2
        with logs(quiet=True), warnings.catch_warnings(record=True) as caught:
            warnings.warn_explicit("old", FutureWarning, "file.py", 1, "cress_svcd.x", registry={})
        assert not caught

    @pytest.mark.parametrize("quiet", [False, True])
    def test_bars_are_hidden_by_quiet(self, quiet):
        stream = io.StringIO()
        with logs(quiet=quiet), tqdm(total=3, file=stream, disable=False, mininterval=0) as bar:
            bar.update(3)
        assert bool(stream.getvalue()) != quiet

    def test_a_line_does_not_end_up_within_a_bar(self, capsys):
        with logs(), tqdm(total=3, file=sys.stderr, disable=False, ncols=60) as bar:
            bar.update(1)
            logging.getLogger("cress_svcd.x").info("a word")
        shown = capsys.readouterr().err.replace("\n", "\r").split("\r")
        (line,) = [part for part in shown if "a word" in part]
        assert re.fullmatch(r"[\d:]+ \| INFO \| a word", line)

    def test_those_who_are_silenced_are_named_once(self):
        assert len(set(OTHERS)) == len(OTHERS) and not set(OTHERS) & {"cress_svcd", "__main__"}


@pytest.mark.parametrize("given, expected", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_leave_the_cores_to_others(tmp_path, monkeypatch, given, expected):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert main(["chart", str(tmp_path / "nowhere.json")]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == expected
    monkeypatch.delenv("OMP_WAIT_POLICY")


@pytest.mark.parametrize("words", [("compare", "--help"), ("speak", "--help"), ("--help",)])
@pytest.mark.parametrize(
    "setting", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}]
)
def test_a_terminal_that_cannot_show_a_character_gets_its_number(words, setting):
    shown = process(*words, **setting)
    assert shown.returncode == 0 and not shown.stderr
    expected = process(*words, PYTHONIOENCODING="utf-8").stdout.decode("utf-8")
    encoding = setting["PYTHONIOENCODING"]
    assert shown.stdout == expected.encode(encoding, errors="backslashreplace")


def test_an_error_is_told_with_a_name_that_cannot_be_shown():
    shown = process("chart", "café-語.json", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="1")
    assert shown.returncode == 2
    assert shown.stderr.startswith(rb"cress-svcd chart: error: caf\xe9-\u8a9e.json: cannot be read")


def test_a_name_of_any_bytes_can_be_printed():
    shown = process("chart", b"a\xff.json")
    assert shown.returncode == 2
    assert shown.stderr.startswith(rb"cress-svcd chart: error: a\udcff.json: cannot be read")


def test_an_error_is_one_line_whatever_it_quotes():
    assert one_line("x.pt: sizes:\n\t  3\n 4\x1b[2J\n") == r"x.pt: sizes: 3 4\x1b[2J"
    long = one_line("begin " + 5000 * "x" + " end")
    assert len(long) < 2000 and long.startswith("begin ") and long.endswith(" end")
