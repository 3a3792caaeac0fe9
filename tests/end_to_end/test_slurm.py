"""The Slurm script, as far as it can be tried without Slurm."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm.sh"


def start(*arguments, **environment) -> subprocess.CompletedProcess:
    without = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return subprocess.run(
        ["bash", SCRIPT, *arguments], capture_output=True, text=True, env=without | environment
    )


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        ((), {}, "usage: sbatch"),
        (("fairseq-train", "data"), {}, "no Slurm job: start it by sbatch"),
        (("train.py",), {"SLURM_JOB_ID": "1"}, "train.py: expected fairseq-train or fairseq-hydra"),
    ],
)
def test_what_it_cannot_do_it_says(arguments, environment, message):
    result = start(*arguments, **environment)
    assert result.returncode == 2 and message in result.stderr and not result.stdout


def test_options_of_the_batch_come_before_any_command():
    """Slurm reads no #SBATCH line after the first command."""
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options and max(options) < first
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@120"} <= {lines[n] for n in options}
