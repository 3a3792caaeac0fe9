"""Trainings that several tests look at."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from fairseq_commands import generate_command, train_command

from cress_svcd.cli.main import main

# Inherited by the commands: tiny models run fastest on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory) -> Path:
    """A working folder without anything of ours in it."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="session")
def text_model(run, prepared, elsewhere, tmp_path_factory) -> Path:
    """A translation model, trained on text alone."""
    folder = tmp_path_factory.mktemp("mt")
    run(
        *train_command(prepared, folder, mode=["--ext-mt-training"]),
        "--text-data", prepared / "binary", "--max-epoch", "8", "--batch-size-text", "8",
        "--no-epoch-checkpoints", cwd=elsewhere,
    )  # fmt: skip
    return folder / "checkpoint_last.pt"


@dataclass
class Training:
    """A finished training: its command, its folder and what it printed."""

    command: list
    folder: Path
    output: str


@pytest.fixture(scope="session")
def baseline(run, prepared, hubert, text_model, elsewhere, tmp_path_factory) -> Training:
    """The baseline, after which the checkpoints that it started from are gone."""
    folder = tmp_path_factory.mktemp("baseline")
    starts = tmp_path_factory.mktemp("starts")
    command = [
        *train_command(prepared, folder, "--text-data", prepared / "binary", "--max-epoch", "8"),
        "--hubert-model-path", shutil.copy(hubert, starts / "hubert.pt"),
        "--load-pretrained-mt-encoder-decoder-from", shutil.copy(text_model, starts / "mt.pt"),
        "--tensorboard-logdir", folder / "tensorboard",
    ]  # fmt: skip
    result = run(*command, cwd=elsewhere)
    shutil.rmtree(starts)
    return Training(command, folder, result.stdout + result.stderr)


@pytest.fixture(scope="session")
def averaged(baseline) -> Path:
    """The baseline's last three checkpoints, averaged."""
    path = baseline.folder / "averaged.pt"
    assert main(["average", str(baseline.folder), "--last", "3", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def speech(run, prepared, averaged, elsewhere) -> str:
    """What fairseq-generate prints for the test set's speech."""
    return run(*generate_command(prepared, averaged), cwd=elsewhere).stdout
