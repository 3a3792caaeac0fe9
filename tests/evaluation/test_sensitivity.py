"""Groups of a model's layers, each alone, and the policy for a budget."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.sensitivity import (
    bits_per_weight,
    find_groups,
    group_of,
    policy_of,
    propose,
    ranking,
)
from cress_svcd.quantization import Policy, apply_policy, quantized_layers
from cress_svcd.quantization.convert import quantized_meanwhile
from cress_svcd.quantization.report import layer_rows

PLANTED = "decoder.layers.1.fc2"
POLICY = Policy.from_dict(
    {
        "rules": [
            {"match": "decoder.layers.*", "exclude": "*.fc1", "activation_bits": "off"},
            {"match": "decoder.layers.*.fc1", "bits": 1.58, "activation_bits": "off"},
        ]
    }
)


@pytest.fixture
def sensitive(translator):
    """Layers that few bits hold exactly, but for one."""
    for name, module in translator.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("decoder.layers"):
            with torch.no_grad():
                module.weight.copy_(torch.where(torch.randn_like(module.weight) > 0, 0.2, -0.2))
                if name == PLANTED:
                    module.weight.copy_(torch.randn_like(module.weight) ** 3)
    return translator


@pytest.fixture
def specs(sensitive):
    return POLICY.resolve(sensitive)


@torch.no_grad()
def losses_of(model, batch, groups, specs) -> dict[str, float]:
    """Divergence of the model's distributions from full precision, each group alone."""
    full = model(batch).log_softmax(-1)
    losses = {}
    for group in groups:
        with quantized_meanwhile(model, {layer: specs[layer] for layer in group.layers}):
            found = model(batch).log_softmax(-1)
        losses[group.name] = float(F.kl_div(found, full, log_target=True, reduction="batchmean"))
    return losses


@pytest.mark.parametrize(
    "layer, module, block",
    [
        (
            "decoder.layers.1.encoder_attn.q_proj",
            "decoder.layers.1.encoder_attn",
            "decoder.layers.1",
        ),
        ("decoder.layers.11.fc1", "decoder.layers.11", "decoder.layers.11"),
        ("encoder.hubert.post_extract_proj", "encoder.hubert", "encoder.hubert"),
        ("head", "head", "head"),
    ],
)
def test_a_layer_belongs_to_its_module_and_its_block(layer, module, block):
    assert [group_of(layer, by) for by in ("layer", "module", "block")] == [layer, module, block]


def test_groups_have_the_sizes_of_their_layers(sensitive, specs):
    by_block = find_groups(sensitive, specs, "block")
    assert [group.name for group in by_block] == ["decoder.layers.0", "decoder.layers.1"]
    apply_policy(sensitive, POLICY)
    rows = [row for row in layer_rows(sensitive) if row["name"].startswith("decoder.layers.1")]
    assert by_block[1].layers == tuple(row["name"] for row in rows)
    assert by_block[1].bits == sum(row["bits"] for row in rows)
    assert by_block[1].saved_bits == sum(row["full_bits"] - row["bits"] for row in rows)


def test_a_group_is_quantised_only_while_it_is_measured(sensitive, specs, batch):
    before = copy.deepcopy(sensitive.state_dict())
    layers = dict(sensitive.named_modules())
    expected = sensitive(batch)
    alone = {PLANTED: specs[PLANTED]}
    with pytest.raises(KeyboardInterrupt), quantized_meanwhile(sensitive, alone):
        assert list(quantized_layers(sensitive)) == [PLANTED]
        assert not torch.equal(sensitive(batch), expected)
        raise KeyboardInterrupt
    assert dict(sensitive.named_modules()) == layers
    assert torch.equal(sensitive(batch), expected)
    assert all(torch.equal(value, before[name]) for name, value in sensitive.state_dict().items())


def test_a_shared_layer_comes_back_under_all_its_names():
    model = nn.ModuleDict({"a": nn.Linear(8, 8)})
    model["b"] = model["a"]
    specs = Policy.from_dict({"rules": [{"match": "a"}]}).resolve(model)
    layer = model["a"]
    with quantized_meanwhile(model, specs):
        assert model["a"] is model["b"] is not layer
    assert model["a"] is model["b"] is layer


@pytest.mark.parametrize("by, planted", [("layer", PLANTED), ("block", "decoder.layers.1")])
def test_the_sensitive_layer_is_found_and_spared(sensitive, specs, batch, by, planted):
    groups = find_groups(sensitive, specs, by)
    losses = losses_of(sensitive, batch, groups, specs)
    rows = ranking(groups, losses)
    assert rows[0]["name"] == planted
    assert rows[0]["loss"] > 100 * max(row["loss"] for row in rows[1:])
    spared = propose(groups, losses, specs, keep_loss=rows[0]["loss"] / 2)
    assert set(spared.groups) == {group.name for group in groups} - {planted}
    everything_but = bits_per_weight(groups, spared.groups)
    assert spared.bits_per_weight == everything_but
    assert propose(groups, losses, specs, budget_bits=everything_but).policy == (
        propose(groups, losses, specs, budget_bits=everything_but + 1e-6).policy
    )
    assert planted in propose(groups, losses, specs, budget_bits=everything_but - 0.01).groups


def test_the_proposed_policy_makes_the_layers_that_were_measured(sensitive, specs, tmp_path):
    groups = find_groups(sensitive, specs)
    losses = {group.name: float(number) for number, group in enumerate(groups)}
    proposal = propose(groups, losses, specs, budget_bits=6)
    proposal.policy.save(tmp_path / "policy.yaml")
    policy = Policy.load(tmp_path / "policy.yaml")
    found = policy.resolve(sensitive)
    assert set(found) == set(proposal.groups) and 0 < len(found) < len(groups)
    assert all(found[name].same_as(specs[name]) for name in found)
    apply_policy(sensitive, policy)
    assert proposal.bits_per_weight <= 6
    stored = {row["name"]: row["bits"] for row in layer_rows(sensitive)}
    bits = sum(stored.get(group.name, group.full_bits) for group in groups)
    assert proposal.bits_per_weight == bits / sum(group.weights for group in groups)


def test_cheap_bits_are_saved_first():
    model = nn.ModuleDict({"small": nn.Linear(32, 32), "large": nn.Linear(256, 256)})
    specs = Policy.from_dict({"rules": [{"match": "*"}]}).resolve(model)
    groups = find_groups(model, specs)
    # The large layer costs ten times as much and saves more than fifty times as much.
    proposal = propose(groups, {"small": 0.1, "large": 1.0}, specs, budget_bits=8)
    assert proposal.groups == ("large",) and proposal.predicted_loss == 1.0


def test_what_the_last_choice_makes_needless_stays_in_full_precision():
    model = nn.ModuleDict({"small": nn.Linear(64, 64), "large": nn.Linear(256, 256)})
    specs = Policy.from_dict({"rules": [{"match": "*"}]}).resolve(model)
    groups = find_groups(model, specs)
    # The small one is the better bargain, and not enough; the large one alone is.
    losses = {"small": 0.01, "large": 1.0}
    assert propose(groups, losses, specs, budget_bits=3).groups == ("large",)
    assert propose(groups, losses, specs, budget_bits=1.5).groups == ("small", "large")


def test_modules_are_told_from_blocks(sensitive, specs):
    names = [group.name for group in find_groups(sensitive, specs, "module")]
    assert names[:3] == [
        "decoder.layers.0.self_attn",
        "decoder.layers.0.encoder_attn",
        "decoder.layers.0.fc*",
    ]


@pytest.mark.parametrize(
    "budget, message",
    [
        ({"budget_bits": 0.5}, "cannot be reached: with all 20 groups quantised"),
        ({"budget_bits": 40}, "is met in full precision"),
        ({"keep_loss": 0.5}, "no group can be quantised within a loss of 0.5: the least is 1.0"),
        ({}, "a budget of bits or a loss to keep to"),
        ({"budget_bits": 4, "keep_loss": 1}, "and not both"),
    ],
)
def test_budgets_that_cannot_be_met(sensitive, specs, budget, message):
    groups = find_groups(sensitive, specs)
    with pytest.raises(ConfigError, match=message):
        propose(groups, {group.name: 1.0 for group in groups}, specs, **budget)


def test_layers_made_alike_share_a_rule(specs):
    policy = policy_of(specs, "all of it")
    assert [len(rule.match) for rule in policy.rules] == [len(specs) - 2, 2]
    assert policy.description == "all of it"
