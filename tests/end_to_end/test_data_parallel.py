"""Several processes on one machine without GPUs, started by torchrun."""

import socket
import subprocess
import sys

import pytest
from fairseq_commands import records, train_command
from training_options import NO_DROPOUT

from cress_svcd.recipe import resolve


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(command: list, cwd) -> subprocess.CompletedProcess:
    """Run one of fairseq's commands in two processes."""
    _, _, module, *arguments = resolve([str(item) for item in command])
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
            "--master_addr", "127.0.0.1", "--master_port", str(free_port()),
            "-m", module, *arguments, "--distributed-backend", "gloo",
        ],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def make(prepared, hubert, tmp_path_factory):
    """Makes a command whose epochs have an even number of batches."""

    def make(*flags, **options) -> list:
        return train_command(
            prepared, tmp_path_factory.mktemp("train"), "--hubert-model-path", hubert,
            "--text-data", prepared / "binary", "--max-tokens-text", "300", "--num-workers", "0",
            "--max-epoch", "2", "--no-save", *NO_DROPOUT, *flags, **options,
        )  # fmt: skip

    return make


MIXED = ["--st-training", "--mt-finetune", "--ext-mt-training"]


def losses(output: str) -> list[dict[str, float]]:
    """Losses and gradient norm of each update; those of modes without a batch are left out."""
    return [
        {
            name: float(value)
            for name, value in record.items()
            if ("loss" in name or name == "gnorm") and value is not None
        }
        for record in records(output, "train_inner")
    ]


@pytest.fixture(scope="module")
def alone(run, make, elsewhere):
    """One process that takes two batches for each update."""
    result = run(*make("--update-freq", "2"), cwd=elsewhere)
    return losses(result.stdout + result.stderr)


@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
def test_two_processes_train_as_one_with_two_batches(alone, make, elsewhere, backend):
    result = torchrun(make("--update-freq", "1", "--ddp-backend", backend), elsewhere)
    assert result.returncode == 0, result.stdout[-5000:]
    found = losses(result.stdout)
    assert len(found) == len(alone) > 5
    for one, other in zip(alone, found):
        assert other == pytest.approx(one, rel=2e-3, abs=2e-3)


def test_two_processes_take_batches_of_the_same_mode(make, elsewhere):
    result = torchrun(make("--update-freq", "2", mode=MIXED), elsewhere)
    assert result.returncode == 0, result.stdout[-5000:]
    found = losses(result.stdout)
    assert {"st_loss", "mt_loss"} <= {name for record in found for name in record}
    assert sum("ext_mt_loss" in record for record in found) >= 2


def test_mixed_modes_under_pytorch_ddp_are_refused_before_they_hang(make, elsewhere):
    result = torchrun(make("--ddp-backend", "pytorch_ddp", mode=MIXED), elsewhere)
    assert result.returncode != 0
    assert "give --ddp-backend legacy_ddp or --find-unused-parameters" in result.stdout
