"""quant_adam: groups, rates, decay, resuming."""

import pytest
import torch
from fairseq.optim import build_optimizer
from omegaconf import OmegaConf
from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.quantization import Policy, apply_policy, parameters_by_kind
from cress_svcd.training.quant_adam import QuantAdamConfig


def make(model, **options):
    options = {"lr": [0.1], "max_update": 30, "tpu": False, "adam_betas": "(0.9, 0.98)", **options}
    cfg = OmegaConf.merge(OmegaConf.structured(QuantAdamConfig), options)
    cfg._name = "quant_adam"
    return build_optimizer(cfg, list(model.parameters()))


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    apply_policy(model, Policy.from_dict({"rules": [{"match": "1"}]}))
    for kind, parameters in parameters_by_kind(model).items():
        for parameter in parameters:
            parameter.param_group = kind
    return model


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


def moves(model, optimizer):
    """How far each parameter goes in one step."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimizer)
    return {name: (value - before[name]).abs() for name, value in model.state_dict().items()}


def test_each_kind_has_its_rate_also_after_the_scheduler(model):
    optimizer = make(model, vector_lr_scale=0.5, latent_lr_scale=0.0)
    optimizer.set_lr(0.02)
    assert optimizer.get_lr() == 0.02
    moved = moves(model, optimizer)
    # The first step of Adam is the learning rate, whatever the gradient.
    torch.testing.assert_close(moved["0.weight"], torch.full((4, 4), 0.02), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(moved["1.h"], torch.full((3,), 0.01), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(moved["1.bias"], torch.full((3,), 0.02), rtol=1e-3, atol=1e-5)
    assert not moved["1.weight"].any()


def test_it_is_adam_where_nothing_else_is_asked_for():
    torch.manual_seed(0)
    model, plain = nn.Linear(4, 3), nn.Linear(4, 3)
    plain.load_state_dict(model.state_dict())
    optimizer = make(model, weight_decay=0.1)
    reference = torch.optim.AdamW(plain.parameters(), 0.1, (0.9, 0.98), weight_decay=0.1)
    for _ in range(5):
        step(model, optimizer)
        reference.zero_grad()
        plain(torch.ones(2, 4)).square().sum().backward()
        reference.step()
    assert torch.equal(model.weight, plain.weight)


def test_decay_spares_scales_and_ends_after_two_thirds(model):
    optimizer = make(model, weight_decay=0.2)
    decays = {}
    for update in (0, 19, 20, 29):
        optimizer.set_num_updates(update)
        decays[update] = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == {0: [0.2, 0.2, 0.0], 19: [0.2, 0.2, 0.0], 20: [0, 0, 0], 29: [0, 0, 0]}
    optimizer = make(model, weight_decay=0.2, weight_decay_until=1.0, max_update=0)
    optimizer.set_num_updates(1000)
    assert optimizer.param_groups[0]["weight_decay"] == 0.2


def test_a_resumed_run_keeps_moments_and_takes_its_own_rates(model):
    first = make(model, weight_decay=0.2)
    first.set_num_updates(25)
    step(model, first)
    second = make(model, weight_decay=0.1, vector_lr_scale=0.25)
    second.load_state_dict(first.state_dict(), optimizer_overrides=None)
    assert [group["weight_decay"] for group in second.param_groups] == [0.1, 0.1, 0.0]
    assert [group["lr"] for group in second.param_groups] == [0.1, 0.1, 0.025]
    for one, other in zip(first.params, second.params):
        assert torch.equal(
            first.optimizer.state[one]["exp_avg"], second.optimizer.state[other]["exp_avg"]
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"vector_lr_scale": -1}, "--vector-lr-scale -1.0"),
        ({"weight_decay_until": 2}, "--weight-decay-until 2.0: expected 0 to 1"),
        ({"weight_decay": 0.1, "max_update": 0}, "give that, or --weight-decay-until 1"),
    ],
)
def test_bad_options(model, options, message):
    with pytest.raises(ConfigError, match=message):
        make(model, **options)
