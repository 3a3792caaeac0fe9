"""Sharding among as many processes as one: the form of what is kept, gathered and placed."""

import pytest
import torch
import torch.distributed as dist
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.training import sharding
from cress_svcd.training.sharded_trainer import check_options


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.table, self.output = nn.Linear(3, 3), nn.Embedding(5, 3), nn.Linear(3, 5)
        self.output.weight = self.table.weight
        self.layer.bias.param_group = "vectors"

    def forward(self, tokens):
        return self.output(torch.relu(self.layer(self.table(tokens))))


@pytest.fixture(scope="module")
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.fixture
def plain():
    return Tied()


@pytest.fixture
def sharded(group, plain):
    model = Tied()
    model.load_state_dict(plain.state_dict())
    return sharding.shard(model, (nn.Linear,), group, torch.device("cpu"))


TOKENS = torch.tensor([[0, 3, 4], [1, 1, 2]])


def test_marks_of_parameters_reach_their_shares(sharded):
    assert sharding.is_sharded(sharded) and not sharding.is_sharded(nn.Linear(1, 1))
    assert sharded.layer.bias.param_group == "vectors"
    assert not hasattr(sharded.layer.weight, "param_group")


def test_the_whole_gradient_is_measured_and_clipped(plain, sharded):
    for model in (plain, sharded):
        model(TOKENS).square().sum().backward()
    expected = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    found = sharding.clip_grad_norm(sharded.parameters(), 0.5)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(sharded.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)


def test_no_gradient_at_all_has_no_norm():
    assert sharding.clip_grad_norm([nn.Parameter(torch.ones(2))], 1.0) == 0


def test_what_is_gathered_can_be_loaded(plain, sharded):
    state = sharding.gather_model(sharded, sharded.state_dict(), keep=True)
    assert list(state) == list(plain.state_dict())
    assert {type(tensor) for tensor in state.values()} == {torch.Tensor}
    assert state["output.weight"] is state["table.weight"]
    for tensor in state.values():
        tensor.mul_(2)
    plain.load_state_dict(state)
    sharded.load_state_dict(state)
    torch.testing.assert_close(sharded(TOKENS), plain(TOKENS))


def test_only_the_first_process_keeps_what_is_gathered(sharded):
    state = {"moments": [sharded.layer.weight], "step": 3}
    assert sharding.gather(state, keep=False) == {"moments": [None], "step": 3}


def test_optimizer_states_go_from_whole_to_shares_and_back(plain, sharded):
    optimizers = []
    for model in (plain, sharded):
        optimizers.append(torch.optim.AdamW(model.parameters(), lr=0.1))
        model(TOKENS).square().sum().backward()
        optimizers[-1].step()
    whole, own = optimizers[0].state_dict(), optimizers[1].state_dict()
    gathered = sharding.gather(own, keep=True)
    for index, entry in whole["state"].items():
        for name, value in entry.items():
            torch.testing.assert_close(gathered["state"][index][name], value)
    placed = sharding.place_optimizer_state(whole, optimizers[1].param_groups)
    for index, entry in own["state"].items():
        assert placed["state"][index]["exp_avg"].placements == entry["exp_avg"].placements
    optimizers[1].load_state_dict(placed)
    assert whole["state"][0]["exp_avg"].shape == (3, 3), "what was given is left as it was"


def test_parts_can_be_called_by_themselves_while_the_model_is_whole(plain, sharded):
    with torch.no_grad():
        sharded(TOKENS)
        with sharding.whole(sharded):
            states = sharded.table(TOKENS)
            torch.testing.assert_close(states, plain.table(TOKENS))
            torch.testing.assert_close(sharded.layer(states), plain.layer(states))
    sharded(TOKENS).sum().backward()
    assert isinstance(sharded.layer.weight.grad, sharding.DTensor)


@pytest.mark.parametrize(
    ("section", "option", "value", "named"),
    [
        ("distributed_training", "distributed_world_size", 1, "a single process.*torchrun"),
        ("distributed_training", "use_sharded_state", True, "--use-sharded-state"),
        ("distributed_training", "cpu_offload", True, "--cpu-offload"),
        ("distributed_training", "zero_sharding", "os", "--zero-sharding"),
        ("common", "amp", True, "--amp .give --fp16"),
        ("common", "memory_efficient_fp16", True, "--memory-efficient-fp16"),
        ("ema", "store_ema", True, "--store-ema"),
    ],
)
def test_what_does_not_go_with_sharding_is_named(section, option, value, named):
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.criterion = {"_name": "speech_and_text_translation"}
    cfg.distributed_training.distributed_world_size = 2
    check_options(cfg, Tied(), nn.Module())
    cfg[section][option] = value
    with pytest.raises(ConfigError, match=f"fully_sharded does not go with {named}.*legacy_ddp"):
        check_options(cfg, Tied(), nn.Module())


def test_layers_that_may_be_dropped_are_refused():
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.criterion = {"_name": "speech_and_text_translation"}
    cfg.distributed_training.distributed_world_size = 2
    model = Tied()
    model.layerdrop = 0.1
    with pytest.raises(ConfigError, match="--hubert-layerdrop"):
        check_options(cfg, model, nn.Module())
