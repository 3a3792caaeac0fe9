"""A policy: which layers of a model are quantised, by which method and to how many bits.

As YAML (or the same as a dictionary, which is what a checkpoint stores):

    description: decoder in 1 bit, its value projections in ternary
    rules:
      - match: decoder.layers.*
        exclude: "*.v_proj"
        method: svcd
        bits: 1
      - match: decoder.layers.*.v_proj
        method: svcd
        bits: 1.58
        activation_bits: 8
        options: {init: svid}
    exclude: [decoder.layers.0.*]
    hubert_bits: 2
    subsampler_bits: 1
    embedding_bits: 1

Patterns are those of ``fnmatch`` (``*`` crosses dots) over the names of ``model.named_modules()``;
``match`` and ``exclude`` take one or a list.  Every pattern must reach a layer, a rule's exclude
one of its own match, and no two rules may name the same layer, alike or not.  Only plain
``nn.Linear`` layers are touched.  Output projections and other heads (``HEADS``) stay in full
precision unless a pattern ends in their name.  Method ``full`` (or ``bits: full``) names layers
that stay as they are.

No pattern names embeddings and convolutions.  ``embedding_bits``, ``hubert_bits`` and
``subsampler_bits`` train them at 1 to 4 bits a weight, as the options ``--quant-embedding-bits``,
``--quant-hubert-bits`` and ``--quant-subsampler-bits`` do, which come before the policy.  Without
either they stay as they are, and ``cress-svcd pack`` stores them in int8 where
``--int8-embeddings`` and ``--int8-convolutions`` ask for it.
"""

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from torch import nn

from cress_svcd import atomic_files
from cress_svcd.errors import ConfigError
from cress_svcd.quantization.base import QuantLinear, option_names
from cress_svcd.quantization.low_bit_grid import KINDS, LowBits, require_bits
from cress_svcd.quantization.methods import METHODS
from cress_svcd.quantization.validation import near, require_choice, require_keys

FULL = "full"

# Layers that turn states into a distribution over symbols.  A wildcard does not reach them.
HEADS = ("output_projection", "lm_head", "final_proj", "ctc_head")

# What no pattern names, the key that trains it at few bits, and the option of 'cress-svcd pack'
# that stores it in int8.
_OTHER_KEYS = {
    nn.Embedding: ("embedding_bits", "--int8-embeddings"),
    nn.Conv1d: ("hubert_bits or subsampler_bits", "--int8-convolutions"),
}

_COMMON = ("bits", "activation_bits")

# What YAML 1.1 takes for numbers to the bases 8 and 60, and what it does not take for a number.
_MISREAD = re.compile(r"[-+]?(0[0-7_]*[0-7][0-7_]*|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """How one layer is quantised.

    Attributes:
        method: a key of METHODS, or "full".
        options: keyword arguments of the method's class, bits and activation_bits among them.
        keep_weight: False draws the weight again, as the published code does.
    """

    method: str = "svcd"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keep_weight: bool = True

    def __post_init__(self) -> None:
        """Raises ConfigError for an unknown method or option, or a value that it does not take."""
        require_choice("method", self.method, (*METHODS, FULL))
        if self.method == FULL:
            require_keys(f"method {FULL}", self.options, ())
            return
        require_keys(f"method {self.method}", self.options, option_names(METHODS[self.method]))
        self.settings()

    def settings(self) -> dict[str, Any]:
        """All options of the method, defaults filled in."""
        if self.method == FULL:
            return {}
        # The layer itself knows what its options may be; on "meta" it takes no memory.
        return METHODS[self.method](8, 8, **self.options, device="meta").settings()

    def same_as(self, other: "LayerSpec") -> bool:
        """Whether both make the same layer, whatever is left to defaults in one of them."""
        return (self.method, self.keep_weight, self.settings()) == (
            other.method,
            other.keep_weight,
            other.settings(),
        )

    def quantize(self, linear: nn.Linear) -> QuantLinear:
        """The layer that takes the place of ``linear``."""
        return METHODS[self.method].from_linear(
            linear, keep_weight=self.keep_weight, **self.options
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data: method, bits, activation_bits, options and keep_weight, where given."""
        data: dict[str, Any] = {"method": self.method}
        data |= {key: self.options[key] for key in _COMMON if key in self.options}
        rest = {key: value for key, value in self.options.items() if key not in _COMMON}
        if rest:
            data["options"] = rest
        if not self.keep_weight:
            data["keep_weight"] = False
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "layer") -> "LayerSpec":
        """Inverse of ``to_dict``; ``where`` names the place for error messages."""
        _require_type(where, data, Mapping, "a mapping")
        require_keys(where, data, ("method", *_COMMON, "options", "keep_weight"))
        options = data.get("options") or {}
        _require_type(f"{where}.options", options, Mapping, "a mapping")
        for key in _COMMON:
            if key in options:
                raise ConfigError(f"{where}.options: {key} stands next to options, not in them")
        if data.get("bits") == FULL:
            return cls(FULL)
        options = {**{key: data[key] for key in _COMMON if key in data}, **options}
        options = {key: _as_number(value) for key, value in options.items()}
        if "activation_bits" in options:
            options["activation_bits"] = _off_as_none(options["activation_bits"])
        keep_weight = data.get("keep_weight", True)
        _require_type(f"{where}.keep_weight", keep_weight, bool, "true or false")
        try:
            return cls(data.get("method", cls.method), options, keep_weight)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Rule:
    """Layers by pattern, and what becomes of them."""

    match: tuple[str, ...]
    spec: LayerSpec
    exclude: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {"match": list(self.match)}
        if self.exclude:
            data["exclude"] = list(self.exclude)
        return data | self.spec.to_dict()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "rule") -> "Rule":
        _require_type(where, data, Mapping, "a mapping")
        if "match" not in data:
            raise ConfigError(f"{where}: no match; a rule needs a pattern of layer names")
        spec = {key: value for key, value in data.items() if key not in ("match", "exclude")}
        return cls(
            _patterns(f"{where}.match", data["match"]),
            LayerSpec.from_dict(spec, where),
            _patterns(f"{where}.exclude", data.get("exclude", [])),
        )


@dataclasses.dataclass(frozen=True)
class Policy:
    """Rules, patterns of layers that no rule may touch, and the bits of what no pattern names."""

    rules: tuple[Rule, ...]
    exclude: tuple[str, ...] = ()
    description: str = ""
    low_bits: LowBits = LowBits()

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what a checkpoint stores and ``from_dict`` reads."""
        low_bits = dataclasses.asdict(self.low_bits)
        return {
            "description": self.description,
            "rules": [rule.to_dict() for rule in self.rules],
            "exclude": list(self.exclude),
            **{f"{kind}_bits": bits for kind, bits in low_bits.items() if bits is not None},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "policy") -> "Policy":
        """A policy from plain data.

        Raises:
            ConfigError: an unknown key, method, option or width; the message starts with ``where``
                and the key's path.
        """
        _require_type(where, data, Mapping, "a mapping with the key rules")
        low_bits = {kind: f"{kind}_bits" for kind in KINDS}
        require_keys(where, data, ("description", "rules", "exclude", *low_bits.values()))
        rules = data.get("rules")
        if not isinstance(rules, Sequence) or isinstance(rules, str) or not rules:
            raise ConfigError(f"{where}: rules: found {rules!r}, expected a list of rules")
        return cls(
            tuple(
                Rule.from_dict(rule, f"{where}: rules[{index}]") for index, rule in enumerate(rules)
            ),
            _patterns(f"{where}: exclude", data.get("exclude", [])),
            str(data.get("description", "")),
            LowBits(
                **{
                    kind: require_bits(f"{where}: {key}", _as_number(data.get(key)))
                    for kind, key in low_bits.items()
                }
            ),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Policy":
        """The policy in the YAML file ``path``.

        Raises:
            ConfigError: the file is missing, is not YAML, has a key twice or a number that means
                something else (with the line), or is no policy.
        """
        try:
            text = atomic_files.read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as a policy: {error}") from error
        content = atomic_files.parse_yaml(text, path)
        refuse_misread_numbers(text, path)
        return cls.from_dict(content, str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy as YAML, all or nothing."""
        atomic_files.write_text(
            path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        )

    def replaced(self, **changes: Any) -> "Policy":
        """The same layers by another method: every rule but those of method full is changed.

        Args:
            changes: method, bits, activation_bits, options, keep_weight, as in a rule.  Naming a
                method drops the rules' own settings, which belong to the old one.
        """
        return dataclasses.replace(
            self, rules=tuple(_replaced(rule, changes) for rule in self.rules)
        )

    def resolve(
        self, model: nn.Module, types: tuple[type[nn.Linear], ...] = (nn.Linear,)
    ) -> dict[str, LayerSpec]:
        """What becomes of each layer of ``model`` that the rules name, in the model's order.

        A module that has several names is matched by any of them and listed under its first.

        Args:
            types: the exact types that may be replaced.  Subclasses are not: a layer with a
                forward pass of its own would lose it.

        Raises:
            ConfigError: a pattern matches no layer (near names are listed), a rule's exclude takes
                nothing from its match, two rules name one layer, or nothing is left to quantise.
        """
        names = _layer_names(model, types)
        excluded = {
            layer
            for pattern in self.exclude
            for layer in _matching(f"exclude {pattern!r}", pattern, names, model)
        }
        found: dict[str, tuple[LayerSpec, str]] = {}
        for rule in self.rules:
            for layer, pattern in _layers_of(rule, names, model).items():
                if layer in excluded:
                    continue
                if layer in found:
                    spec, earlier = found[layer]
                    raise ConfigError(
                        f"policy: layer {layer} is named twice, by {earlier!r} as "
                        f"{spec.to_dict()} and by {pattern!r} as {rule.spec.to_dict()}; "
                        "exclude it from one of the rules"
                    )
                found[layer] = rule.spec, pattern
        specs = {
            layer: found[layer][0]
            for layer in names
            if layer in found and found[layer][0].method != FULL
        }
        if not specs:
            raise ConfigError(
                "policy: nothing is left to quantise after exclude and full; "
                "every layer would stay in full precision"
            )
        return specs


def _replaced(rule: Rule, changes: Mapping[str, Any]) -> Rule:
    if rule.spec.method == FULL:
        return rule
    kept = {} if "method" in changes else rule.spec.to_dict()
    return dataclasses.replace(rule, spec=LayerSpec.from_dict({**kept, **changes}, "replacement"))


def _layers_of(rule: Rule, names: Mapping[str, list[str]], model: nn.Module) -> dict[str, str]:
    """First name of each layer that the rule names, and the pattern that named it.

    Patterns of one rule may overlap: they say the same of a layer.
    """
    layers: dict[str, str] = {}
    for pattern in rule.match:
        for layer in _matching(f"match {pattern!r}", pattern, names, model):
            layers.setdefault(layer, pattern)
    excluded = set()
    for pattern in rule.exclude:
        taken = _matching(f"exclude {pattern!r}", pattern, names, model)
        if layers.keys().isdisjoint(taken):
            raise ConfigError(
                f"policy: exclude {pattern!r} takes nothing from the rule that matches "
                f"{', '.join(map(repr, rule.match))}: that does not name {taken[0]} anyway; leave "
                "it out, or correct one of them"
            )
        excluded.update(taken)
    return {layer: pattern for layer, pattern in layers.items() if layer not in excluded}


def _layer_names(model: nn.Module, types: tuple[type[nn.Linear], ...]) -> dict[str, list[str]]:
    """All names of each module of ``types``, keyed by its first name."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name and type(module) in types:
            names.setdefault(id(module), []).append(name)
    return {aliases[0]: aliases for aliases in names.values()}


def _matching(
    where: str, pattern: str, names: Mapping[str, list[str]], model: nn.Module
) -> list[str]:
    """First names of the layers that ``pattern`` reaches; an error if there are none."""
    layers = [
        first for first, aliases in names.items() if any(_reaches(pattern, a) for a in aliases)
    ]
    if layers:
        return layers
    raise ConfigError(f"policy: {where} matches no linear layer{_hint(pattern, names, model)}")


def _reaches(pattern: str, name: str) -> bool:
    if not fnmatch.fnmatchcase(name, pattern):
        return False
    last = name.rpartition(".")[2]
    return last not in HEADS or pattern.rpartition(".")[2] == last


def _hint(pattern: str, names: Mapping[str, list[str]], model: nn.Module) -> str:
    """What the user may have meant, for an error message."""
    others = {
        type(module).__name__: name
        for name, module in model.named_modules()
        if name and fnmatch.fnmatchcase(name, pattern)
    }
    if others:
        kind, name = next(iter(others.items()))
        if name.rpartition(".")[2] in HEADS:
            return f"; {name} stays in full precision unless a pattern ends in its name"
        if any(layer.startswith(f"{name}.") for layer in names):
            return f"; {name} is a {kind}: write '{name}.*' for the layers in it"
        module = model.get_submodule(name)
        keys = (_OTHER_KEYS[t] for t in _OTHER_KEYS if isinstance(module, t))
        trained, packed = next(keys, (None, None))
        if trained:
            return (
                f"; it matches {name}, of type {kind}: patterns do not reach embeddings and "
                f"convolutions; the policy's key {trained} trains them at few bits, and "
                f"'cress-svcd pack {packed}' stores them in int8"
            )
        return f"; it matches {name}, a {kind}, which is not replaced"
    # Comparing patterns with patterns: numbers hide that two names are of one kind.
    kinds = {_without_numbers(layer): layer for layer in reversed(list(names))}
    candidates = near(_without_numbers(pattern), kinds, limit=5)
    if candidates:
        return f"; near names: {', '.join(kinds[kind] for kind in candidates)}"
    known = sorted({layer.split(".")[0] for layer in names})
    return f"; linear layers of this model lie under: {', '.join(known) or '(none)'}"


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _patterns(where: str, value: Any) -> tuple[str, ...]:
    """One pattern or a list of them, as a tuple."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Iterable) or isinstance(items, Mapping):
        raise ConfigError(f"{where}: found {value!r}, expected a pattern or a list of patterns")
    items = tuple(items)
    for item in items:
        _require_type(where, item, str, "a pattern")
    return items


def refuse_misread_numbers(text: str | bytes, where: str | os.PathLike[str]) -> None:
    """Refuse numbers that are not what they look like: to YAML 1.1, 010 is 8 and 1:30 is 90.

    Args:
        text: valid YAML.
        where: the file or option that it stands in, for messages.
    Raises:
        ConfigError: there is one; with the line.
    """
    for event in yaml.parse(text, yaml.SafeLoader):
        is_plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if is_plain and _MISREAD.fullmatch(event.value):
            number = yaml.safe_load(event.value)
            if str(number) == event.value.lstrip("+0"):
                continue  # 01 is 1 to any base
            raise ConfigError(
                f"{where}:{event.start_mark.line + 1}: YAML takes {event.value} for {number}; "
                "write the number without leading zeros and colons, or put text in quotes"
            )


def _as_number(value: Any) -> Any:
    """The number in text such as 1e-3, which YAML 1.1 does not take for one."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _off_as_none(value: Any) -> Any:
    """None for the ways to write "off": YAML reads an unquoted off as false."""
    return None if value is False or value == "off" else value


def _require_type(where: str, value: Any, kind: type, expected: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{where}: found {value!r}, expected {expected}")
