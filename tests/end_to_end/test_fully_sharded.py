"""--ddp-backend fully_sharded in two processes on the CPU, beside one process with two batches."""

import re
import shutil

import pytest
import torch
from fairseq_commands import generate_command, records, svcd_command, train_command
from training_options import NO_DROPOUT
from two_processes import torchrun

SHARDED = ["--ddp-backend", "fully_sharded", "--update-freq", "1"]
SHORT = ["--max-epoch", "2", "--num-workers", "0", *NO_DROPOUT]
TRAINED = [*SHORT, "--freeze-hubert", "--checkpoint-activations", "--clip-norm", "1"]
QUANTISED = [
    *SHORT, "--optimizer", "quant_adam", "--vector-lr-scale", "2", "--latent-lr-scale", "0.5",
    "--lr", "1e-3", "--quant-schedule", "fade", "--quant-warmup", "4",
    "--distill-hidden-weight", "1", "--distill-relation-weight", "1",
]  # fmt: skip


def losses(output: str) -> list[dict[str, float]]:
    """Losses and gradient norm of each update."""
    return [
        {
            name: float(value)
            for name, value in record.items()
            if ("loss" in name and name != "loss_scale") or name == "gnorm" or "distill" in name
        }
        for record in records(output, "train_inner")
    ]


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected) > 3
    for one, other in zip(found, expected):
        assert one == pytest.approx(other, rel=2e-3, abs=2e-3)


@pytest.fixture(scope="module")
def command(prepared, hubert):
    """Makes the command of a training into a folder."""

    def command(folder, *flags) -> list:
        return train_command(prepared, folder, "--hubert-model-path", hubert, *TRAINED, *flags)

    return command


@pytest.fixture(scope="module")
def trained(command, elsewhere, tmp_path_factory):
    """A fully sharded training: its folder and its output."""
    folder = tmp_path_factory.mktemp("sharded")
    result = torchrun(command(folder, *SHARDED), elsewhere)
    assert result.returncode == 0, result.stdout[-5000:]
    return folder, result.stdout


@pytest.fixture(scope="module")
def quantised_command(prepared, trained):
    """Makes the command of a quantised training with a teacher, both from that training."""
    start = trained[0] / "checkpoint_last.pt"

    def command(folder, *flags) -> list:
        teacher = ["--teacher-model", start]
        made = svcd_command(prepared, folder, start, *QUANTISED, *teacher, *flags)
        made.remove("--fp16")
        return made

    return command


@pytest.fixture(scope="module")
def quantised(quantised_command, elsewhere, tmp_path_factory):
    """A fully sharded quantised training: its folder and its output."""
    folder = tmp_path_factory.mktemp("sharded_quantised")
    result = torchrun(quantised_command(folder, *SHARDED), elsewhere)
    assert result.returncode == 0, result.stdout[-5000:]
    return folder, result.stdout


def shares(output: str) -> tuple[int, int]:
    found = re.search(r"fully sharded: (\d+) of (\d+) elements", output)
    return int(found[1]), int(found[2])


def test_each_process_keeps_half_of_the_model(trained, quantised):
    for folder, output in (trained, quantised):
        here, all_of_them = shares(output)
        state = torch.load(folder / "checkpoint_last.pt")
        stored = {
            tensor.data_ptr(): tensor.numel()
            for name, tensor in state["model"].items()
            if "version" not in name and "_float_tensor" not in name
        }
        assert all_of_them == sum(stored.values())
        assert here == pytest.approx(all_of_them / 2, rel=0.02)


def test_its_checkpoint_is_that_of_one_process(trained, command, run, elsewhere, tmp_path):
    folder, output = trained
    alone = run(*command(tmp_path, "--update-freq", "2"), cwd=elsewhere)
    assert_same(losses(output), losses(alone.stdout + alone.stderr))
    ours, theirs = (torch.load(path / "checkpoint_last.pt") for path in (folder, tmp_path))
    assert ours.keys() == theirs.keys() and list(ours["model"]) == list(theirs["model"])
    for name, tensor in ours["model"].items():
        torch.testing.assert_close(tensor, theirs["model"][name], rtol=0, atol=2e-3)
    states = [state["last_optimizer_state"]["state"] for state in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    assert states[0][0]["exp_avg"].shape == states[1][0]["exp_avg"].shape
    tied = [
        ours["model"][f"{table}.weight"]
        for table in ("encoder.embed_tokens", "decoder.output_projection")
    ]
    assert tied[0].data_ptr() == tied[1].data_ptr()


def test_fairseq_generate_reads_it(run, prepared, trained, quantised, elsewhere):
    for folder, _ in (trained, quantised):
        result = run(*generate_command(prepared, folder / "checkpoint_last.pt"), cwd=elsewhere)
        assert "Translated 12 sentences" in result.stdout + result.stderr


def test_one_process_goes_on_from_it(run, command, trained, elsewhere, tmp_path):
    folder, output = trained
    shutil.copy(folder / "checkpoint1.pt", tmp_path / "checkpoint_last.pt")
    result = run(*command(tmp_path, "--update-freq", "2"), cwd=elsewhere)
    resumed = result.stdout + result.stderr
    assert "Loaded checkpoint" in resumed, resumed[-5000:]
    found = losses(resumed)
    assert_same(found, losses(output)[-len(found) :])


def test_a_quantised_model_learns_the_same_from_its_teacher(
    quantised, quantised_command, run, elsewhere, tmp_path
):
    _, output = quantised
    alone = run(*quantised_command(tmp_path, "--update-freq", "2"), cwd=elsewhere)
    assert_same(losses(output), losses(alone.stdout + alone.stderr))
    assert "distill_kl" in losses(output)[0]


def test_a_single_process_is_refused_before_training(run, command, elsewhere, tmp_path):
    result = run(*command(tmp_path, *SHARDED), cwd=elsewhere, check=False)
    assert result.returncode != 0
    assert "does not go with a single process" in result.stderr
    assert not records(result.stdout + result.stderr, "train_inner")
