"""A training that was killed goes on as if nothing had happened."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from cress_svcd.recipes.runner import resolve
from tests.helpers.fairseq_commands import measured, records, run_series, train_command

MODES = {
    "speech and its text": ["--st-training", "--mt-finetune"],
    "mixed with external text": ["--st-training", "--mt-finetune", "--ext-mt-training"],
}


def command(data: Path, hubert: Path, folder: Path, mode: list[str]) -> list:
    return train_command(
        data,
        folder,
        "--hubert-model-path",
        hubert,
        "--text-data",
        data / "binary",
        "--max-tokens-text",
        "300",
        "--max-epoch",
        "3",
        "--no-epoch-checkpoints",
        "--save-interval-updates",
        "3",
        "--keep-interval-updates",
        "1",
        "--hubert-mask-prob",
        "0.3",
        "--hubert-mask-length",
        "2",
        mode=mode,
    )


def kill_at_update(command: list, update: int, log: Path, cwd: Path) -> None:
    """Start a training and end it, and what it started, by SIGKILL once ``update`` is logged."""
    with log.open("w") as sink:
        process = subprocess.Popen(
            resolve([str(item) for item in command]),
            cwd=cwd,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        end = time.monotonic() + 120
        while f'"num_updates": "{update}"' not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def updates(outcomes: dict, mode: str) -> list[dict]:
    assert not outcomes[mode].failed, outcomes[mode].output[-3000:]
    return records(outcomes[mode].output, "train_inner")


@pytest.fixture(scope="module")
def trained(prepared, hubert, elsewhere, tmp_path_factory):
    """A folder with what was logged, by mode: uninterrupted, until it was killed, and from then
    on."""
    folder = tmp_path_factory.mktemp("resuming")

    def commands(name: str) -> dict[str, list]:
        return {
            mode: command(prepared, hubert, folder / name / mode, options)
            for mode, options in MODES.items()
        }

    whole = run_series(commands("whole"), elsewhere)
    killed = {}
    for mode, interrupted in commands("killed").items():
        log = folder / f"{mode}.log"
        # In the middle of the second epoch.
        kill_at_update(interrupted, len(updates(whole, mode)) // 2, log, elsewhere)
        killed[mode] = records(log.read_text(), "train_inner")
    resumed = run_series(commands("killed"), elsewhere)
    logged = {mode: (updates(whole, mode), killed[mode], updates(resumed, mode)) for mode in MODES}
    return folder, logged


@pytest.mark.parametrize("mode", MODES)
def test_after_sigkill_losses_and_weights_are_those_of_an_uninterrupted_run(trained, mode):
    folder, logged = trained
    wanted, before, after = logged[mode]
    epoch_of = {record["num_updates"]: record["epoch"] for record in wanted}
    assert len(before) < len(wanted) and before[-1]["epoch"] == 2
    assert after[0]["epoch"] == 2 == epoch_of[after[0]["num_updates"]]
    assert int(after[0]["num_updates"]) > 1, "it started from the beginning"

    assert [measured(record) for record in before] == [
        measured(record) for record in wanted[: len(before)]
    ]
    assert [measured(record) for record in after] == [
        measured(record) for record in wanted[-len(after) :]
    ]
    models = [
        torch.load(folder / name / mode / "checkpoint_last.pt", weights_only=True)["model"]
        for name in ("whole", "killed")
    ]
    assert models[0].keys() == models[1].keys()
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name
