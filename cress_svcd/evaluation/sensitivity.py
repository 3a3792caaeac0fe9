"""Which layers bear few bits: each unit of a model quantised alone, and a policy for a budget.

A unit is a layer, a module (the projections of one attention), or a block (one layer of a stack).
Losses are taken as additive: a policy's predicted loss is the sum of those of its units.
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
class Unit:
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
        units: names of the quantised units, the most worthwhile first.
        bits_per_weight: over all units, quantised or not.
        predicted_loss: sum of the units' losses.
        policy: the same for ``--quant-policy``.
    """

    units: tuple[str, ...]
    bits_per_weight: float
    predicted_loss: float
    policy: Policy


def unit_of(layer: str, by: str) -> str:
    """The unit that a layer's name belongs to: itself, its parent module, or its block.

    A layer outside any numbered block makes a block with the others of its parent.
    """
    if by == "layer":
        return layer
    parent = layer.rpartition(".")[0]
    match = _BLOCK.match(layer)
    return match[1] if by == "block" and match else parent or layer


def find_units(model: nn.Module, specs: Mapping[str, LayerSpec], by: str = "layer") -> list[Unit]:
    """The units of the layers that ``specs`` names, in the model's order."""
    members: dict[str, list[str]] = {}
    for layer in specs:
        members.setdefault(unit_of(layer, by), []).append(layer)
    with quantized_meanwhile(model, specs):
        rows = {row["name"]: row for row in layer_rows(model)}

    def total(layers: Iterable[str], key: str) -> int:
        return sum(rows[layer][key] for layer in layers)

    return [
        Unit(
            # An attention has a name of its own, the feed-forward part of a block has none.
            os.path.commonprefix(layers) + "*" if by == "module" and name[-1].isdigit() else name,
            tuple(layers),
            total(layers, "parameters"),
            total(layers, "bits"),
            total(layers, "full_bits"),
        )
        for name, layers in members.items()
    ]


def bits_per_weight(units: Sequence[Unit], quantized: Iterable[str]) -> float:
    """Average bits of a weight over ``units``, those named in ``quantized`` with few bits."""
    chosen = set(quantized)
    bits = sum(unit.bits if unit.name in chosen else unit.full_bits for unit in units)
    return bits / sum(unit.weights for unit in units)


def propose(
    units: Sequence[Unit],
    losses: Mapping[str, float],
    specs: Mapping[str, LayerSpec],
    budget_bits: float | None = None,
    keep_loss: float | None = None,
) -> Proposal:
    """Choose units greedily, by loss for a saved bit.

    Args:
        units: the candidates.
        losses: what each costs when it alone is quantised.
        specs: how each layer would be quantised.
        budget_bits: average bits of a weight to reach, over all units.
        keep_loss: the most that the units may cost together.  One of both is given.

    Raises:
        ConfigError: the budget cannot be reached, or nothing has to be quantised for it.
    """
    if (budget_bits is None) == (keep_loss is None):
        raise ConfigError("a proposal needs a budget of bits or a loss to keep to, and not both")
    order = sorted(units, key=lambda unit: losses[unit.name] / max(1, unit.saved_bits))
    if budget_bits is not None:
        chosen = _within_bits(units, order, losses, budget_bits)
    else:
        chosen = _within_loss(order, losses, keep_loss)
    names = tuple(unit.name for unit in chosen)
    wanted = f"{budget_bits:g} bits" if budget_bits is not None else f"a loss of {keep_loss:g}"
    layers = [layer for unit in units if unit.name in names for layer in unit.layers]
    return Proposal(
        names,
        bits_per_weight(units, names),
        sum(losses[name] for name in names),
        policy_of({layer: specs[layer] for layer in layers}, f"by sensitivity, for {wanted}"),
    )


def require_reachable(units: Sequence[Unit], budget_bits: float) -> None:
    """Raise ConfigError for a budget below what quantising all ``units`` gives, or met already."""
    least, most = (bits_per_weight(units, names) for names in ({u.name for u in units}, ()))
    if budget_bits < least:
        raise ConfigError(
            f"a budget of {budget_bits:g} bits a weight cannot be reached: with all {len(units)} "
            f"units quantised, scales included, it is {least:.3f}; ask for that or more"
        )
    if budget_bits >= most:
        raise ConfigError(
            f"a budget of {budget_bits:g} bits a weight is met in full precision ({FULL_BITS} "
            f"bits, {most:.3f} with biases); ask for less"
        )


def _within_bits(
    units: Sequence[Unit], order: list[Unit], losses: Mapping[str, float], budget: float
) -> list[Unit]:
    require_reachable(units, budget)
    chosen: list[Unit] = []
    for unit in order:
        if bits_per_weight(units, {each.name for each in chosen}) <= budget:
            break
        chosen.append(unit)
    # The last may have saved more than was missing: what is then not needed stays as it is.
    for unit in sorted(chosen, key=lambda unit: -losses[unit.name]):
        rest = [other for other in chosen if other is not unit]
        if losses[unit.name] > 0 and bits_per_weight(units, {u.name for u in rest}) <= budget:
            chosen = rest
    return chosen


def _within_loss(order: list[Unit], losses: Mapping[str, float], most: float) -> list[Unit]:
    chosen: list[Unit] = []
    spent = 0.0
    for unit in order:
        if spent + losses[unit.name] <= most:
            chosen.append(unit)
            spent += losses[unit.name]
    if not chosen:
        cheapest = min(losses.values())
        raise ConfigError(
            f"no unit can be quantised within a loss of {most:g}: the least is {cheapest:.4f}"
        )
    return chosen


def policy_of(specs: Mapping[str, LayerSpec], description: str) -> Policy:
    """The policy that quantises just these layers, a rule for all that are made alike."""
    groups: list[tuple[LayerSpec, list[str]]] = []
    for layer, spec in specs.items():
        for known, layers in groups:
            if known.same_as(spec):
                layers.append(layer)
                break
        else:
            groups.append((spec, [layer]))
    return Policy(tuple(Rule(tuple(layers), spec) for spec, layers in groups), (), description)


def ranking(units: Sequence[Unit], losses: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row a measured unit, the most sensitive first: name, layers, weights, saved_bits, loss,
    loss_per_megabit (of saved bits)."""
    rows = [
        {
            "name": unit.name,
            "layers": len(unit.layers),
            "weights": unit.weights,
            "saved_bits": unit.saved_bits,
            "loss": losses[unit.name],
            "loss_per_megabit": losses[unit.name] / max(1, unit.saved_bits) * 1e6,
        }
        for unit in units
        if unit.name in losses
    ]
    return sorted(rows, key=lambda row: -row["loss"])
