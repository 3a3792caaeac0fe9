"""The configuration of ``pretrain-hubert``: fairseq's own sections, shared and for each stage.

A YAML file with

  seed: 1
  units: {clusters: …, sample_frames: …}
  task, model, common, dataset, optimization, optimizer, lr_scheduler, …   as in fairseq (hydra)
  masked_prediction: the same sections again, where this stage differs
  ctc: likewise; and ``least_letters``, how often a letter must occur to be learnt

A stage whose section is absent is left out; ``ctc: {}`` is one that does not differ.
"""

import copy
import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import cress_svcd
from cress_svcd.atomic_files import parse_yaml, read_text, read_yaml
from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.augmentation.transforms import AudioTransforms
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.hubert_checkpoint import frame_stride, parse_conv_layers, receptive_field
from cress_svcd.pretraining.corpus import LETTERS, UNITS
from cress_svcd.pretraining.speech_units import FRAME_SHIFTS
from cress_svcd.quantization.policy import refuse_misread_numbers

MASKED_PREDICTION = "masked_prediction"
CTC = "ctc"

# For each stage: model, criterion and task of fairseq's registries.
_REGISTERED = {
    MASKED_PREDICTION: {"model": "masked_hubert", "criterion": "masked_prediction"},
    CTC: {"model": "ctc_hubert", "criterion": "ctc_and_units"},
}
_TASK = "segment_hubert_pretraining"
_SECTIONS = (
    "common",
    "distributed_training",
    "dataset",
    "optimization",
    "checkpoint",
    "ema",
    "task",
    "model",
    "criterion",
    "optimizer",
    "lr_scheduler",
)
_DEFAULTS = {
    "common": {"log_format": "json", "log_interval": 10},
    "dataset": {
        "train_subset": "train",
        "valid_subset": "dev",
        "num_workers": 1,
        # Of a larger multiple, fairseq drops the segments that do not fill the last one.
        "required_batch_size_multiple": 1,
    },
    "checkpoint": {"no_epoch_checkpoints": True},
    "optimizer": {"_name": "adam"},
    "lr_scheduler": {"_name": "polynomial_decay"},
}
# What the command itself decides; a config that sets it otherwise is mistaken.
_OURS = {
    "task": {"_name", "data", "labels", "label_dir", "label_rate", "sample_rate", "fine_tuning"},
    "common": {"user_dir", "seed"},
    "checkpoint": {"save_dir"},
}


_SWITCH = "graph_training"  # on and off are words here
# 1e6, which YAML 1.1 takes for text.
_WHOLE_EXPONENT = re.compile(r"[1-9][eE]\+?[0-9]{1,2}")


@dataclasses.dataclass(frozen=True)
class UnitsConfig:
    """``clusters`` of k-means, fitted on about ``sample_frames`` frames."""

    clusters: int = 100
    sample_frames: int = 1_000_000


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """A configuration that has been read; ``stages`` holds each stage's fairseq sections."""

    path: str
    seed: int
    units: UnitsConfig
    stages: dict[str, dict[str, dict[str, Any]]]
    least_letters: int = 1

    @property
    def frame_shift(self) -> int:
        """Samples that a frame advances, the same in all stages."""
        first = next(iter(self.stages.values()))
        return round(SAMPLE_RATE / first["task"]["label_rate"])

    def limits(self, stage: str) -> tuple[int, int | None]:
        """Fewest and most samples of a segment that a stage trains on; None: no limit.

        Masked prediction crops segments beyond ``max_sample_size``; CTC has to leave them out.
        """
        task = self.stages[stage]["task"]
        longest = task["max_sample_size"] if stage == CTC else task.get("max_keep_size")
        return task["min_sample_size"], longest

    def widest_limits(self) -> tuple[int, int | None]:
        """Limits that take in those of all stages."""
        shortest, longest = zip(*(self.limits(stage) for stage in self.stages))
        return min(shortest), None if None in longest else max(longest)

    def training(self, stage: str, data: Path, save_dir: Path, **model: Any) -> dict[str, Any]:
        """fairseq's configuration of a stage.

        Args:
            stage: MASKED_PREDICTION or CTC.
            data: folder with the manifests and labels.
            save_dir: for checkpoints.
            model: further fields of the model to set.
        """
        sections = copy.deepcopy(self.stages[stage])
        sections["task"] |= {"data": str(data.resolve())}
        sections["model"] |= model
        sections["common"] |= {
            "seed": self.seed,
            "user_dir": str(Path(cress_svcd.__file__).parent),
        }
        sections["checkpoint"] |= {"save_dir": str(save_dir.resolve())}
        return sections


def load_pretraining_config(
    path: str | os.PathLike, changes: Mapping[str, str] | None = None
) -> PretrainingConfig:
    """Read and check a configuration.

    Args:
        path: YAML file.
        changes: dotted key → value as YAML text, set before checking (``model.encoder_layers``).
    Raises:
        ConfigError: naming file and key, for what cannot be right.
    """
    content = read_yaml(path, "sections as of fairseq (see configs/train)")
    refuse_misread_numbers(read_text(path), path)
    for key, text in (changes or {}).items():
        _set(path, content, key, text)
    reader = _Reader(path, content)
    reader.check_keys(content, {"seed", "units", MASKED_PREDICTION, CTC, *_SECTIONS}, "")
    stages = {name: reader.stage(name) for name in _REGISTERED if content.get(name) is not None}
    if not stages:
        raise ConfigError(
            f"{path}: neither key {MASKED_PREDICTION} nor key {CTC}: nothing to train"
        )
    rates = {name: stage["task"]["label_rate"] for name, stage in stages.items()}
    if len(set(rates.values())) > 1:
        raise reader.error(
            f"{CTC}.model.conv_feature_layers",
            f"{rates[CTC]:g} frames a second, and {rates[MASKED_PREDICTION]:g} in "
            f"{MASKED_PREDICTION}; expected the same, or the key in section model alone",
        )
    least = (content.get(CTC) or {}).get("least_letters", 1)
    return PretrainingConfig(
        path=str(path),
        seed=reader.integer("seed", content.get("seed", 1), least=0),
        units=reader.units(content.get("units") or {}),
        stages=stages,
        least_letters=reader.integer(f"{CTC}.least_letters", least, least=1),
    )


def _set(path: str | os.PathLike, content: dict, key: str, text: str) -> None:
    *parents, last = key.split(".")
    node = content
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{path}: key {key}: {parent} is no section")
    where = f"{path}: key {key}: {text!r}"
    node[last] = parse_yaml(text, where)
    refuse_misread_numbers(text, where)


class _Reader:
    """Turns the content of a file into checked sections."""

    def __init__(self, path: str | os.PathLike, content: dict):
        self.path = path
        self.shared = {name: content[name] for name in _SECTIONS if name in content}
        self.content = content

    def error(self, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.path}: key {key}: {problem}")

    def check_keys(self, section: Any, known: set[str], prefix: str) -> None:
        """Refuse a section that is none, and keys that are not known."""
        if not isinstance(section, dict):
            raise self.error(prefix.rstrip("."), f"{section!r}; expected keys and values")
        for key in section:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise self.error(f"{prefix}{key}", f"unknown{hint}")

    def integer(self, key: str, value: Any, least: int) -> int:
        if isinstance(value, str) and _WHOLE_EXPONENT.fullmatch(value):
            value = int(float(value))
        if type(value) is not int or value < least:
            raise self.error(key, f"{value!r}; expected a whole number from {least} on")
        return value

    def units(self, section: Any) -> UnitsConfig:
        known = {field.name for field in dataclasses.fields(UnitsConfig)}
        self.check_keys(section, known, "units.")
        return UnitsConfig(
            **{key: self.integer(f"units.{key}", value, 2) for key, value in section.items()}
        )

    def stage(self, stage: str) -> dict[str, dict[str, Any]]:
        """The sections of a stage: shared ones, overlaid by its own, checked by fairseq."""
        own = self.content[stage]
        extra = {"least_letters"} if stage == CTC else set()
        self.check_keys(own, {*_SECTIONS, *extra}, f"{stage}.")
        sections: dict[str, dict[str, Any]] = {}
        for source, prefix in ((_DEFAULTS, ""), (self.shared, ""), (own, f"{stage}.")):
            for name in _SECTIONS:
                section = source.get(name)
                if section is None:
                    continue
                if not isinstance(section, dict):
                    raise self.error(f"{prefix}{name}", f"{section!r}; expected keys and values")
                self._refuse_ours(section, name, f"{prefix}{name}")
                sections.setdefault(name, {}).update(section)
        self._name(stage, sections)
        for name, section in sections.items():
            self._check_section(stage, name, section)
        _StageChecks(self, stage, sections).run()
        return sections

    def _refuse_ours(self, section: dict, name: str, where: str) -> None:
        for key in _OURS.get(name, set()) & set(section):
            raise self.error(f"{where}.{key}", "is set by the command; remove it")

    def _name(self, stage: str, sections: dict) -> None:
        """Fill in what a stage runs with."""
        for kind, name in _REGISTERED[stage].items():
            section = sections.setdefault(kind, {})
            if section.setdefault("_name", name) != name:
                raise self.error(
                    f"{stage}.{kind}._name", f"{section['_name']!r}; expected {name!r}, or nothing"
                )
        task = sections.setdefault("task", {})
        task |= {
            "_name": _TASK,
            "data": "",
            "labels": [UNITS],
            "sample_rate": SAMPLE_RATE,
        }
        if stage == CTC:
            task |= {"transcripts": LETTERS, "pad_audio": True, "random_crop": False}

    def _check_section(self, stage: str, name: str, section: dict) -> None:
        """Let fairseq's dataclass of a section say whether keys and types are right."""
        schema = self.schema(stage, name, section)
        known = {key for key in schema.__dataclass_fields__ if not key.startswith("_")}
        for key, value in section.items():
            if key == _SWITCH and isinstance(value, bool):
                section[key] = value = "on" if value else "off"  # which YAML 1.1 takes for bools
            where = self._where(stage, name, key)
            self.check_keys({key: value}, {*known, "_name"}, where.removesuffix(str(key)))
            if key == "_name":
                continue
            try:
                OmegaConf.merge(OmegaConf.structured(schema), {key: value})
            except OmegaConfBaseException as error:
                reason = str(error).splitlines()[0]
                raise self.error(where, f"{value!r}: {reason}") from None

    def _where(self, stage: str, name: str, key: str) -> str:
        """The key as it stands in the file: in a stage's section, or in the shared one."""
        own = (self.content[stage] or {}).get(name) or {}
        return f"{stage}.{name}.{key}" if key in own else f"{name}.{key}"

    def schema(self, stage: str, name: str, section: dict) -> type:
        """fairseq's dataclass of a section."""
        registries = {
            "task": TASK_DATACLASS_REGISTRY,
            "model": MODEL_DATACLASS_REGISTRY,
            **{kind: entry["dataclass_registry"] for kind, entry in REGISTRIES.items()},
        }
        if name not in registries:
            return FairseqConfig.__dataclass_fields__[name].type
        chosen = section.get("_name")
        schema = registries[name].get(chosen if isinstance(chosen, str) else str(chosen))
        if schema is None:
            there = ", ".join(sorted(map(str, registries[name])))
            raise self.error(
                self._where(stage, name, "_name"), f"{chosen!r}; expected one of {there}"
            )
        return schema


class _StageChecks:
    """What fairseq would only find out when training has begun, or never."""

    def __init__(self, reader: _Reader, stage: str, sections: dict[str, dict[str, Any]]):
        self.reader = reader
        self.stage = stage
        self.sections = sections

    def error(self, key: str, problem: str) -> ConfigError:
        return self.reader.error(f"{self.stage}: {key}", problem)

    def run(self) -> None:
        layers, shift = self._convolutions()
        for section in ("task", "model"):
            self.sections[section]["label_rate"] = SAMPLE_RATE / shift
        self._dimensions()
        self._sizes(layers, shift)
        if self.stage == MASKED_PREDICTION and self._value("model", "mask_prob") <= 0:
            raise self.error("model.mask_prob", "expected more than 0: masks are what is predicted")
        if self._value("task", "batch_shapes") and not self._value("task", "pad_audio"):
            raise self.error(
                "task.batch_shapes",
                "expected 0 without task.pad_audio: batches are cropped to their shortest segment",
            )
        try:
            AudioTransforms.parse(self._value("task", "audio_transforms") or "")
        except ConfigError as error:
            raise self.error("task.audio_transforms", str(error).partition(": ")[2]) from None
        updates = self.sections.get("optimization", {}).get("max_update", 0)
        if updates <= 0:
            raise self.error("optimization.max_update", f"{updates}; expected how long to train")

    def _value(self, section: str, key: str) -> Any:
        """A value, or fairseq's default."""
        if key in self.sections.get(section, {}):
            return self.sections[section][key]
        schema = self.reader.schema(self.stage, section, self.sections.get(section, {}))
        return getattr(schema(), key)

    def _convolutions(self) -> tuple[list[tuple[int, int, int]], int]:
        """Channels, kernel and stride of each; samples that a frame advances."""
        text = str(self._value("model", "conv_feature_layers"))
        try:
            layers = parse_conv_layers(text)
        except CheckpointError as error:
            raise self.error("model", str(error)) from None
        shift = frame_stride(layers)
        if shift not in FRAME_SHIFTS:
            raise self.error(
                "model.conv_feature_layers",
                f"{text}: the strides multiply to {shift}; expected "
                + " or ".join(
                    f"{n}, a frame each {1000 * n // SAMPLE_RATE} ms" for n in FRAME_SHIFTS
                ),
            )
        return layers, shift

    def _dimensions(self) -> None:
        width = self._value("model", "encoder_embed_dim")
        for key in ("encoder_attention_heads", "conv_pos_groups"):
            parts = self._value("model", key)
            if width % parts:
                raise self.error(
                    f"model.{key}", f"{parts} does not divide model.encoder_embed_dim {width}"
                )

    def _sizes(self, layers: list[tuple[int, int, int]], shift: int) -> None:
        task = self.sections["task"]
        shortest = task.get("min_sample_size")
        spans = self._value("model", "mask_length") if self._value("model", "mask_prob") else 0
        least = receptive_field(layers) + (spans + 1) * shift
        if shortest is None or shortest < least:
            raise self.error(
                "task.min_sample_size",
                f"{shortest}; expected {least} samples or more: the convolutions, and masks of "
                f"{spans} frames, need them",
            )
        longest = task.get("max_sample_size")
        if longest is None or longest < shortest:
            raise self.error(
                "task.max_sample_size",
                f"{longest}; expected task.min_sample_size ({shortest}) or more",
            )
        batch = self.sections.get("dataset", {}).get("max_tokens")
        if batch is None and self.sections.get("dataset", {}).get("batch_size") is None:
            raise self.error("dataset.max_tokens", "missing; expected the samples of a batch")
        if batch is not None and batch < longest:
            raise self.error(
                "dataset.max_tokens",
                f"{batch} samples a batch; expected task.max_sample_size ({longest}) or more",
            )
