"""The loss scale on the device is fairseq's, overflow by overflow, and goes on after a stop."""

import random

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf
from torch import nn

from cress_svcd.training.device_update import SCALER_COUNTS, DeviceUpdate


def optimizer(init_scale=2**7, window=50, tolerance=0.0, threshold=None, min_loss_scale=1e-30):
    """fairseq's of a training with --fp16."""
    cfg = OmegaConf.structured(FairseqConfig())
    cfg.optimizer = OmegaConf.structured(FairseqAdamConfig(_name="adam", lr=[1e-3]))
    cfg.common.fp16 = cfg.common.fp16_no_flatten_grads = True  # flat ones are for CUDA
    cfg.common.fp16_init_scale = init_scale
    cfg.common.fp16_scale_window = window
    cfg.common.fp16_scale_tolerance = tolerance
    cfg.common.threshold_loss_scale = threshold
    cfg.common.min_loss_scale = min_loss_scale
    return FP16Optimizer.build_optimizer(cfg, [nn.Parameter(torch.ones(3).half())])


def step(update: DeviceUpdate, overflow: bool) -> None:
    update.gradients.fill_(float("inf") if overflow else 1.0)
    update.step(torch.ones(()))


def step_of_fairseq(scaler: DynamicLossScaler, overflow: bool) -> None:
    try:
        scaler.check_overflow(float("inf") if overflow else 1.0)
    except OverflowError:
        return
    scaler.update()


def state(scaler: DynamicLossScaler) -> list:
    return [scaler.loss_scale, *(getattr(scaler, name) for name in SCALER_COUNTS)]


@pytest.mark.parametrize("seed", range(24))
def test_the_loss_scale_is_fairseqs(seed):
    draw = random.Random(seed)
    share = draw.choice([0, 0.02, 0.1, 0.4])
    options = {
        "init_scale": 2 ** draw.choice([4, 7, 15]),
        "tolerance": draw.choice([0.0, 0.05, 0.25]),
        "threshold": draw.choice([None, 4.0]),
    }
    window = draw.choice([3, 7, 50])
    update = DeviceUpdate(optimizer(window=window, **options), clip_norm=0.0)
    wanted = DynamicLossScaler(scale_window=window, min_loss_scale=1e-30, **options)
    for _ in range(150):
        overflow = draw.random() < share
        step(update, overflow)
        step_of_fairseq(wanted, overflow)
        assert float(update.scale) == wanted.loss_scale
    update.store()
    assert state(update.scaler) == state(wanted)


def test_a_stopped_training_goes_on_with_its_scale():
    """As fairseq's, of whose counts a checkpoint holds none."""
    update = DeviceUpdate(optimizer(window=3), clip_norm=0.0)
    for overflow in (False, False, False, True, False, False, False):
        step(update, overflow)
    update.store()
    saved = update.optimizer.state_dict()
    theirs, ours = optimizer(window=3), optimizer(window=3)
    for resumed in (theirs, ours):
        resumed.load_state_dict(saved)
    assert theirs.scaler.loss_scale == float(update.scale) == 2**8
    update = DeviceUpdate(ours, clip_norm=0.0)
    for overflow in (False, False, True, False, False, False, False):
        step(update, overflow)
        step_of_fairseq(theirs.scaler, overflow)
        assert float(update.scale) == theirs.scaler.loss_scale
    update.store()
    assert state(ours.scaler) == state(theirs.scaler)


def test_weights_stay_as_they_are_where_gradients_overflow():
    update = DeviceUpdate(optimizer(), clip_norm=0.0)
    before = update.leaves[0].detach().clone()
    step(update, True)
    assert torch.equal(update.leaves[0], before)
    step(update, False)
    assert (update.leaves[0] < before).all()


def test_a_scale_below_its_minimum_ends_the_training():
    update = DeviceUpdate(optimizer(init_scale=4, min_loss_scale=0.5), clip_norm=0.0)
    for _ in range(2):
        step(update, True)
    update.store()
    step(update, True)
    with pytest.raises(FloatingPointError, match="the loss scale has fallen to 0.5"):
        update.store()
