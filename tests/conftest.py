"""Fixtures shared by all tests: small, real, seeded."""

import contextlib
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch


def pytest_configure(config):
    # Of fairseq and torch, not ours to mend.
    for source in ("torch", "fairseq", "hydra", "omegaconf"):
        config.addinivalue_line("filterwarnings", f"ignore::Warning:{source}")


@pytest.hookimpl(tryfirst=True)  # before -m chooses by these marks
def pytest_collection_modifyitems(items):
    without_gpu = pytest.mark.skip(reason="torch finds no CUDA device")
    for item in items:
        if "end_to_end" in item.path.parts:
            item.add_marker("slow")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(without_gpu)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1)
    np.random.seed(1)  # fairseq draws the layers to drop from it


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    # Tiny matrices: threads cost more than they bring, and sums keep their order.
    torch.set_num_threads(1)


@contextlib.contextmanager
def limited_file_size(limit: int):
    """While the block runs no file may grow beyond ``limit`` bytes: to a program, a full disk.

    Only around what is tested: pytest's own output may be such a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="session")
def full_disk():
    """Makes a block of code meet a full disk; see :func:`limited_file_size`."""
    return limited_file_size


SUBJECTS = {
    "the man": "der Mann",
    "a woman": "eine Frau",
    "the dog": "der Hund",
    "my child": "mein Kind",
}
VERBS = {"sees": "sieht", "buys": "kauft", "wants": "will", "takes": "nimmt"}
OBJECTS = {
    "the house": "das Haus",
    "an apple": "einen Apfel",
    "water": "Wasser",
    "a red book": "ein rotes Buch",
}


def sentences() -> list[tuple[str, str]]:
    """All 64 English sentences of a small grammar with their translations."""
    return [
        (f"{subject} {verb} {thing}.", f"{german} {verb_de} {thing_de}.")
        for subject, german in SUBJECTS.items()
        for verb, verb_de in VERBS.items()
        for thing, thing_de in OBJECTS.items()
    ]


def run_command(*command, cwd=None, check=True, **options) -> subprocess.CompletedProcess:
    """Run one of our commands, or of fairseq, as a process of this Python."""
    from cress_svcd.recipes.runner import resolve

    result = subprocess.run(
        resolve([str(item) for item in command]),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )
    if check and result.returncode:
        raise AssertionError(
            f"{command[0]} failed:\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
        )
    return result


def run_here(*command) -> None:
    """Run one of our commands in this process: to start one takes seconds."""
    from cress_svcd.cli.main import main

    assert main([str(item) for item in command]) == 0


@pytest.fixture(scope="session")
def run():
    """Runs commands as processes; see :func:`run_command`."""
    return run_command


@pytest.fixture(scope="session")
def spoken_release(tmp_path_factory) -> Path:
    """A spoken release of the small grammar: 40 sentences to train, 12 dev, 12 test."""
    folder = tmp_path_factory.mktemp("release")
    arguments = []
    pairs = sentences()[::5] + [pair for i, pair in enumerate(sentences()) if i % 5]
    for split, part in (("train", pairs[:40]), ("dev", pairs[40:52]), ("tst-COMMON", pairs[52:])):
        for side, language in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in part)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
        arguments += ["--split", split, folder / f"{split}.en", folder / f"{split}.de"]
    run_here("speak", *arguments, "--tgt-lang", "de", "-o", folder, "--workers", "1")
    return folder


@pytest.fixture(scope="session")
def release(spoken_release) -> Path:
    """The same, where a folder of tests has none of its own by this name."""
    return spoken_release


@pytest.fixture(scope="session")
def prepared(release, tmp_path_factory) -> Path:
    """The release, prepared: manifests, vocabulary of 50 tokens, config, binary text."""
    folder = tmp_path_factory.mktemp("prepared")
    run_here(
        "prepare-mustc",
        release,
        "-o",
        folder,
        "--tgt-lang",
        "de",
        "--vocab-size",
        "50",
        "--text-data",
        "--workers",
        "1",
    )
    return folder


@pytest.fixture(scope="session")
def two_languages(spoken_release, tmp_path_factory) -> Path:
    """The same speech with German and Romanian texts, prepared as one corpus."""
    from tests.helpers.two_languages import add_romanian

    root = add_romanian(spoken_release, tmp_path_factory.mktemp("two"))
    folder = tmp_path_factory.mktemp("two_prepared")
    options = ["--vocab-size", "70", "--text-data", "--workers", "1"]
    run_here("prepare-mustc", root, "-o", folder, "--tgt-lang", "de,ro", *options)
    return folder


@pytest.fixture(scope="session")
def hubert(tmp_path_factory) -> Path:
    """A tiny HuBERT checkpoint in the released form, with random weights."""
    from tests.helpers.hubert_files import make_hubert

    path = tmp_path_factory.mktemp("hubert") / "hubert.pt"
    make_hubert(path)
    return path
