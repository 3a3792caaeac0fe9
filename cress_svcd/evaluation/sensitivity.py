"""Which layers bear few bits: each group of them quantised alone, and a policy for a budget.

A group is a layer, a module (the projections of one attention), or a block (one layer of a stack).
Losses are taken as additive: a policy's predicted loss is the sum of those of its groups.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.convert import quantized_meanwhile
from cress_svcd.quantization.policy import LayerSpec, Policy, Rule
from cress_svcd.quantization.report import FULL_BITS, layer_rows

GROUPINGS = ("layer", "module", "block")
_BLOCK = re.compile(r"(.*\.\d+)\.")  # up to the last number: decoder.layers.3


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers that are quantised together.

    Attributes:
        name: what they have in common.
        layers: their names.
        weights: their weights.
        bits, full_bits: of them as stored, quantised and in full precision, scales and biases
            included.
    """

    name: str
    layers: tuple[str, ...]
    weights: int
    bits: int
    full_bits: int

    @property
    def saved_bits(self) -> int:
        return self.full_bits - self.bits


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a search proposes.

    Attributes:
        groups: names of the quantised groups, the most worthwhile first.
        bits_per_weight: over all groups, quantised or not.
        predicted_loss: sum of the groups' losses.
        policy: the same for ``--quant-policy``.
    """

    groups: tuple[str, ...]
    bits_per_weight: float
    predicted_loss: float
    policy: Policy


def group_of(layer: str, by: str) -> str:
    """The group that a layer's name belongs to: itself, its parent module, or its block.

    A layer outside any numbered block makes a block with the others of its parent.
    """
    if by == "layer":
        return layer
    parent = layer.rpartition(".")[0]
    match = _BLOCK.match(layer)
    return match[1] if by == "block" and match else parent or layer


def find_groups(model: nn.Module, specs: Mapping[str, LayerSpec], by: str = "layer") -> list[Group]:
    """The groups of the layers that ``specs`` names, in the model's order."""
    members: dict[str, list[str]] = {}
    for layer in specs:
        members.setdefault(group_of(layer, by), []).append(layer)
    with quantized_meanwhile(model, specs):
        rows = {row["name"]: row for row in layer_rows(model)}

    def total(layers: Iterable[str], key: str) -> int:
        return sum(rows[layer][key] for layer in layers)

    return [
        Group(
            # An attention has a name of its own, the feed-forward part of a block has none.
            os.path.commonprefix(layers) + "*" if by == "module" and name[-1].isdigit() else name,
            tuple(layers),
            total(layers, "parameters"),
            total(layers, "bits"),
            total(layers, "full_bits"),
        )
        for name, layers in members.items()
    ]


def bits_per_weight(groups: Sequence[Group], quantized: Iterable[str]) -> float:
    """Average bits of a weight over ``groups``, those named in ``quantized`` with few bits."""
    chosen = set(quantized)
    bits = sum(group.bits if group.name in chosen else group.full_bits for group in groups)
    return bits / sum(group.weights for group in groups)


def propose(
    groups: Sequence[Group],
    losses: Mapping[str, float],
    specs: Mapping[str, LayerSpec],
    budget_bits: float | None = None,
    keep_loss: float | None = None,
) -> Proposal:
    """Choose groups greedily, by loss for a saved bit.

    Args:
        groups: the candidates.
        losses: what each costs when it alone is quantised.
        specs: how each layer would be quantised.
        budget_bits: average bits of a weight to reach, over all groups.
        keep_loss: the most that the groups may cost together.  One of both is given.

    Raises:
        ConfigError: the budget cannot be reached, or nothing has to be quantised for it.
    """
    if (budget_bits is None) == (keep_loss is None):
        raise ConfigError("a proposal needs a budget of bits or a loss to keep to, and not both")
    order = sorted(groups, key=lambda group: losses[group.name] / max(1, group.saved_bits))
    if budget_bits is not None:
        chosen = _within_bits(groups, order, losses, budget_bits)
    else:
        chosen = _within_loss(order, losses, keep_loss)
    names = tuple(group.name for group in chosen)
    wanted = f"{budget_bits:g} bits" if budget_bits is not None else f"a loss of {keep_loss:g}"
    layers = [layer for group in groups if group.name in names for layer in group.layers]
    return Proposal(
        names,
        bits_per_weight(groups, names),
        sum(losses[name] for name in names),
        policy_of({layer: specs[layer] for layer in layers}, f"by sensitivity, for {wanted}"),
    )


def require_reachable(groups: Sequence[Group], budget_bits: float) -> None:
    """Raise ConfigError for a budget below what quantising all ``groups`` gives, or met already."""
    least = bits_per_weight(groups, [group.name for group in groups])
    most = bits_per_weight(groups, ())
    if budget_bits < least:
        raise ConfigError(
            f"a budget of {budget_bits:g} bits a weight cannot be reached: with all {len(groups)} "
            f"groups quantised, scales included, it is {least:.3f}; ask for that or more"
        )
    if budget_bits >= most:
        raise ConfigError(
            f"a budget of {budget_bits:g} bits a weight is met in full precision ({FULL_BITS} "
            f"bits, {most:.3f} with biases); ask for less"
        )


def _within_bits(
    groups: Sequence[Group], order: list[Group], losses: Mapping[str, float], budget: float
) -> list[Group]:
    require_reachable(groups, budget)
    chosen: list[Group] = []
    for group in order:
        if bits_per_weight(groups, {each.name for each in chosen}) <= budget:
            break
        chosen.append(group)
    # The last may have saved more than was missing: what is then not needed stays as it is.
    for group in sorted(chosen, key=lambda group: -losses[group.name]):
        rest = [other for other in chosen if other is not group]
        enough = bits_per_weight(groups, {each.name for each in rest}) <= budget
        if losses[group.name] > 0 and enough:
            chosen = rest
    return chosen


def _within_loss(order: list[Group], losses: Mapping[str, float], most: float) -> list[Group]:
    chosen: list[Group] = []
    spent = 0.0
    for group in order:
        if spent + losses[group.name] <= most:
            chosen.append(group)
            spent += losses[group.name]
    if not chosen:
        cheapest = min(losses.values())
        raise ConfigError(
            f"no group can be quantised within a loss of {most:g}: the least is {cheapest:.4f}"
        )
    return chosen


def policy_of(specs: Mapping[str, LayerSpec], description: str) -> Policy:
    """The policy that quantises just these layers, a rule for all that are made alike."""
    alike: list[tuple[LayerSpec, list[str]]] = []
    for layer, spec in specs.items():
        for known, layers in alike:
            if known.same_as(spec):
                layers.append(layer)
                break
        else:
            alike.append((spec, [layer]))
    return Policy(tuple(Rule(tuple(layers), spec) for spec, layers in alike), (), description)


def ranking(groups: Sequence[Group], losses: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row a measured group, the most sensitive first: name, layers, weights, saved_bits, loss,
    loss_per_megabit (of saved bits)."""
    rows = [
        {
            "name": group.name,
            "layers": len(group.layers),
            "weights": group.weights,
            "saved_bits": group.saved_bits,
            "loss": losses[group.name],
            "loss_per_megabit": losses[group.name] / max(1, group.saved_bits) * 1e6,
        }
        for group in groups
        if group.name in losses
    ]
    return sorted(rows, key=lambda row: -row["loss"])
