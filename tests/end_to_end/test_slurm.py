"""The Slurm script, as far as it can be tried without Slurm."""

import os
import signal
import subprocess
import time
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


# What stands for Slurm's programs and torchrun; each call is a line of the log.
PROGRAMS = {
    "srun": """while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=0 exec "$@"
""",
    "scontrol": """[ "$1" != requeue ] || echo "$*" >>"$LOG"
[ "$1" != show ] || seq -f node-%.0f 20000
""",
    "torchrun": """trap 'echo terminated >>"$LOG"; kill $!; exit 143' TERM
printf '%s|' "$@" >>"$LOG"
echo >>"$LOG"
[ -z "${RUNS_ON:-}" ] || { sleep 60 2>/dev/null & wait $!; }
exit "${STATUS:-0}"
""",
}


@pytest.fixture
def job(tmp_path) -> dict[str, str]:
    """The environment of a job on many nodes, with programs that note what they are called for."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, content in PROGRAMS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{content}", encoding="utf-8")
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node-[1-20000]",
        "SLURM_NNODES": "20000",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }


TRAINING = ("fairseq-train", "some data", "--save-dir", "runs/st")


def logged(job: dict[str, str]) -> list[str]:
    return Path(job["LOG"]).read_text(encoding="utf-8").splitlines()


def test_each_node_starts_the_training_once(job):
    result = start(*TRAINING, **job)
    assert result.returncode == 0, result.stderr
    assert logged(job) == [
        "--nnodes|20000|--node-rank|0|--nproc-per-node|4|--master-addr|node-1|--master-port|20007|"
        "-m|fairseq_cli.train|some data|--save-dir|runs/st|"
    ]


@pytest.mark.parametrize(
    "environment, again",
    [
        ({}, True),
        ({"SLURM_RESTART_COUNT": "2"}, True),
        ({"SLURM_RESTART_COUNT": "3"}, False),
        ({"SLURM_RESTART_COUNT": "3", "CRESS_RESTARTS": "4"}, True),
        ({"CRESS_RESTARTS": "0"}, False),
    ],
)
def test_after_a_failure_it_is_queued_again_until_the_limit(job, environment, again):
    result = start(*TRAINING, **job, STATUS="9", **environment)
    assert result.returncode == 9
    assert logged(job)[1:] == (["requeue 7"] if again else [])
    assert ("the training ended with status 9" in result.stderr) is again


def test_shortly_before_the_time_limit_it_is_ended_and_queued_again(job):
    """Whatever the number of restarts: that was no failure."""
    without = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    process = subprocess.Popen(
        ["bash", SCRIPT, *TRAINING],
        stderr=subprocess.PIPE,
        text=True,
        env={**without, **job, "RUNS_ON": "yes", "SLURM_RESTART_COUNT": "30"},
    )
    end = time.monotonic() + 60
    while not Path(job["LOG"]).exists() or not logged(job):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "the time limit is near" in said
    assert logged(job)[1:] == ["terminated", "requeue 7"]
