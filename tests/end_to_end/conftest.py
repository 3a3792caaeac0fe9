"""Trainings that several tests look at."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cress_svcd.cli.main import main
from tests.helpers.fairseq_commands import generate_command, run_series, train_command

# Inherited by the commands: tiny models run fastest on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory) -> Path:
    """A working folder without anything of ours in it."""
    return tmp_path_factory.mktemp("elsewhere")


@dataclass
class Training:
    """A finished training: its folder and what it printed."""

    folder: Path
    output: str


@pytest.fixture(scope="session")
def trainings(prepared, hubert, elsewhere, tmp_path_factory) -> tuple[Path, Training]:
    """A translation model, trained on text alone, and the baseline that starts from it.

    What the baseline started from is gone afterwards; the text model lies elsewhere.
    """
    folder = tmp_path_factory.mktemp("baseline")
    starts = tmp_path_factory.mktemp("starts")
    binary = ["--text-data", prepared / "binary"]
    text_model = starts / "mt" / "checkpoint_last.pt"
    commands = {
        "text": [
            *train_command(prepared, text_model.parent, *binary, mode=["--ext-mt-training"]),
            "--max-epoch",
            "8",
            "--batch-size-text",
            "8",
            "--no-epoch-checkpoints",
            "--num-workers",
            "0",
        ],
        "baseline": [
            *train_command(prepared, folder, *binary, "--max-epoch", "8"),
            "--hubert-model-path",
            shutil.copy(hubert, starts / "hubert.pt"),
            "--load-pretrained-mt-encoder-decoder-from",
            text_model,
            "--tensorboard-logdir",
            folder / "tensorboard",
        ],
    }
    outcomes = run_series(commands, elsewhere)
    for outcome in outcomes.values():
        assert not outcome.failed, outcome.output[-3000:]
    kept = shutil.copy(text_model, tmp_path_factory.mktemp("mt") / "mt.pt")
    shutil.rmtree(starts)
    return kept, Training(folder, outcomes["baseline"].output)


@pytest.fixture(scope="session")
def text_model(trainings) -> Path:
    """The translation model."""
    return trainings[0]


@pytest.fixture(scope="session")
def baseline(trainings) -> Training:
    """The baseline."""
    return trainings[1]


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
