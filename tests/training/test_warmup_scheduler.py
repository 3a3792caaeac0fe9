"""--lr-scheduler WarmupLRScheduler: linear warm-up, then the inverse square root."""

import pytest
import torch
from fairseq import optim, options
from fairseq.optim.lr_scheduler import build_lr_scheduler
from omegaconf import OmegaConf

from cress_svcd.errors import ConfigError

PEAK, WARMUP = 2e-3, 40


@pytest.fixture
def make():
    def make(**options):
        parameter = torch.nn.Parameter(torch.zeros(1))
        adam = OmegaConf.create(
            {
                "_name": "adam",
                "lr": [PEAK],
                "adam_betas": "(0.9, 0.98)",
                "adam_eps": 1e-8,
                "weight_decay": 0.0,
                "use_old_adam": False,
                "fp16_adam_stats": False,
                "tpu": False,
            }
        )
        cfg = OmegaConf.create(
            {
                "_name": "WarmupLRScheduler",
                "warmup_updates": WARMUP,
                "warmup_init_lr": -1,
                "lr": [PEAK],
                **options,
            }
        )
        return build_lr_scheduler(cfg, optim.build_optimizer(adam, [parameter]))

    return make


@pytest.mark.parametrize("update", [0, 1, 7, 39, 40])
def test_rises_linearly(make, update):
    assert make().step_update(update) == pytest.approx(PEAK * update / WARMUP)


@pytest.mark.parametrize("update", [40, 41, 160, 4_000, 100_000])
def test_falls_with_the_inverse_square_root(make, update):
    assert make().step_update(update) == pytest.approx(PEAK * (WARMUP / update) ** 0.5)


def test_starts_where_it_is_told(make):
    schedule = make(warmup_init_lr=1e-3)
    assert schedule.step_update(0) == pytest.approx(1e-3)
    assert schedule.step_update(20) == pytest.approx(1.5e-3)


def test_sets_the_optimizers_rate(make):
    schedule = make()
    schedule.step_update(20)
    assert schedule.optimizer.get_lr() == pytest.approx(PEAK / 2)


@pytest.mark.parametrize("updates", [0, -1])
def test_no_warm_up_is_refused(make, updates):
    with pytest.raises(ConfigError, match=f"--warmup-updates {updates}: .*1 or more"):
        make(warmup_updates=updates)


def test_the_commands_know_it_and_explain_it():
    arguments = [
        "data",
        "--task",
        "translation",
        "--arch",
        "transformer",
        "--lr-scheduler",
        "WarmupLRScheduler",
    ]
    parser = options.get_training_parser()
    parsed = options.parse_args_and_arch(
        parser, [*arguments, "--warmup-updates", "7"], modify_parser=None
    )
    assert (parsed.lr_scheduler, parsed.warmup_updates) == ("WarmupLRScheduler", 7)
    (action,) = (each for each in parser._actions if each.dest == "warmup_updates")
    assert "linearly" in action.help and "inverse square root" in action.help
