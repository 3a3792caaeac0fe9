"""Several processes on one machine without GPUs, started by torchrun."""

import re

import pytest
import yaml

from cress_svcd.cli.main import main
from tests.helpers.fairseq_commands import records, train_command
from tests.helpers.tone_corpus import write_prepared
from tests.helpers.training_options import NO_DROPOUT
from tests.helpers.two_processes import kill_one_at_update, torchrun, torchrun_series

MASKED_PREDICTION = {
    "seed": 1,
    "units": {"clusters": 8, "sample_frames": 1_000},
    "task": {
        "pad_audio": True,
        "random_crop": False,
        "min_sample_size": 4_800,
        "max_sample_size": 64_000,
    },
    "model": {
        "conv_feature_layers": "[(16,40,20)] + [(32,16,16)]",
        "encoder_layers": 1,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "conv_pos": 8,
        "conv_pos_groups": 4,
        "final_dim": 16,
        "mask_length": 4,
    },
    "common": {"log_interval": 1, "cpu": True},
    "dataset": {"batch_size": 8, "max_tokens": 640_000, "num_workers": 0},
    "masked_prediction": {
        "model": {"mask_prob": 0.5},
        # As two processes with one batch each.
        "optimization": {"max_update": 4, "lr": [0.005], "update_freq": [2]},
        "lr_scheduler": {"warmup_updates": 2, "total_num_update": 1000},
    },
}


@pytest.fixture(scope="module")
def make(prepared, hubert, tmp_path_factory):
    """Makes a command whose epochs have an even number of batches."""

    def make(*flags, **options) -> list:
        return train_command(
            prepared,
            tmp_path_factory.mktemp("train"),
            "--hubert-model-path",
            hubert,
            "--text-data",
            prepared / "binary",
            "--max-tokens-text",
            "300",
            "--num-workers",
            "0",
            "--max-epoch",
            "2",
            "--no-save",
            *NO_DROPOUT,
            *flags,
            **options,
        )

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


BACKENDS = ["legacy_ddp", "pytorch_ddp"]


@pytest.fixture(scope="module")
def together(make, elsewhere):
    """Trainings in the same two processes."""
    commands = {
        **{name: make("--update-freq", "1", "--ddp-backend", name) for name in BACKENDS},
        "graphs": make("--update-freq", "1", "--graph-training"),
        "mixed": make("--update-freq", "2", mode=MIXED),
        "refused": make("--ddp-backend", "pytorch_ddp", mode=MIXED),
    }
    return torchrun_series(commands, elsewhere)


@pytest.mark.parametrize("backend", [*BACKENDS, "graphs"])
def test_two_processes_train_as_one_with_two_batches(alone, together, backend):
    outcome = together[backend]
    assert not outcome.failed, outcome.output[-5000:]
    found = losses(outcome.output)
    assert len(found) == len(alone) > 5
    for one, other in zip(alone, found):
        assert other == pytest.approx(one, rel=2e-3, abs=2e-3)


def test_two_processes_take_batches_of_the_same_mode(together):
    outcome = together["mixed"]
    assert not outcome.failed, outcome.output[-5000:]
    found = losses(outcome.output)
    assert {"st_loss", "mt_loss"} <= {name for record in found for name in record}
    assert sum("ext_mt_loss" in record for record in found) >= 2


def test_mixed_modes_under_pytorch_ddp_are_refused_before_they_hang(together):
    refused = together["refused"]
    assert refused.failed and not records(refused.output, "train_inner")
    assert "give --ddp-backend legacy_ddp or --find-unused-parameters" in refused.output


def test_masked_prediction_in_two_processes_sums_over_both(tmp_path, elsewhere):
    data = write_prepared(tmp_path / "data")
    config = tmp_path / "hubert.yaml"
    config.write_text(yaml.safe_dump(MASKED_PREDICTION), encoding="utf-8")
    arguments = [str(data), "-o", str(tmp_path / "out"), "--config", str(config), "--workers", "1"]
    assert main(["pretrain-hubert", *arguments]) == 0
    alone = (tmp_path / "out" / "logs" / "masked_prediction.log").read_text(encoding="utf-8")
    result = torchrun(
        [
            "fairseq-hydra-train",
            "--config-dir",
            tmp_path / "out" / "masked_prediction",
            "--config-name",
            "training",
            f"hydra.run.dir={tmp_path}",
            "hydra.output_subdir=null",
            f"checkpoint.save_dir={tmp_path / 'two'}",
            "optimization.update_freq=[1]",
            "distributed_training.find_unused_parameters=true",
        ],
        elsewhere,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    one, two = (records(output, "train_inner") for output in (alone, result.stdout))
    assert len(one) == len(two) == 4
    for other, found in zip(one, two):
        # Masks are drawn again; half as many frames would be those of one process.
        assert float(found["count_m_0"]) == pytest.approx(float(other["count_m_0"]), rel=0.25)
        assert float(found["loss"]) == pytest.approx(float(other["loss"]), rel=0.2)
        assert 0 <= float(found["correct_m_0"]) <= 1
    assert (tmp_path / "two" / "checkpoint_last.pt").exists()


def test_a_killed_process_ends_all_and_a_restart_loses_nothing(alone, make, elsewhere, tmp_path):
    command = [
        *make("--update-freq", "1", "--ddp-backend", "legacy_ddp"),
        "--save-dir",
        tmp_path,
        "--save-interval-updates",
        "3",
        "--keep-interval-updates",
        "1",
        "--no-epoch-checkpoints",
    ]
    command.remove("--no-save")
    log = tmp_path / "killed.log"
    status, seconds = kill_one_at_update(command, len(alone) - 2, log, elsewhere)
    printed = log.read_text()
    assert status != 0 and seconds < 60
    assert re.search(r"exitcode +: -9 .*SIGKILL", printed), printed[-3000:]
    result = torchrun(command, elsewhere)
    assert result.returncode == 0, result.stdout[-5000:]
    after = losses(result.stdout)
    started_at = int(records(result.stdout, "train_inner")[0]["num_updates"])
    assert 1 < started_at <= len(alone) - 1 and len(after) == len(alone) - started_at + 1
    for one, other in zip(alone[started_at - 1 :], after):
        assert other == pytest.approx(one, rel=2e-3, abs=2e-3)
