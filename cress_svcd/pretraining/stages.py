"""The stages of ``pretrain-hubert``: units, masked prediction, CTC, export."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from cress_svcd.atomic_files import read_text, read_yaml, write_json, write_text
from cress_svcd.data.audio_shards import is_sharded, warn_of_shards
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.corpus.prepared import audio_folder, with_names_as_written
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.models.hubert_checkpoint import hubert_digest
from cress_svcd.pretraining.config import CTC, MASKED_PREDICTION, PretrainingConfig
from cress_svcd.pretraining.corpus import (
    LETTERS,
    UNITS,
    Limits,
    SplitReport,
    Utterance,
    cluster_labels,
    frequent_letters,
    sample_features,
    select_transcribed,
    select_utterances,
    write_fairseq_manifest,
    write_label_dictionary,
    write_labels,
)
from cress_svcd.pretraining.export import export_hubert
from cress_svcd.pretraining.hubert_features import HubertFeatures
from cress_svcd.pretraining.speech_units import (
    FRAME_SHIFT,
    MfccFeatures,
    fit_clusters,
    phone_events,
)
from cress_svcd.recipes.children import alone_in, ending_in_order
from cress_svcd.recipes.processes import ProcessError, TrainingProgress, python_module, run_logged
from cress_svcd.recipes.resumable import Record, Records, Step, digest

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev")
CONFIG_NAME = "training"
CHECKPOINT = "checkpoint_last.pt"
LOCK = ".lock"

# To be raised when the same inputs give other files than before.
_VERSION = 1
_HALF_PRECISIONS = ("fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16", "amp")
_SHOWN = {MASKED_PREDICTION: ("loss", "correct_m_0"), CTC: ("loss_ctc", "units_acc")}
_RESULTS = {
    "dev_num_updates": "updates",
    "dev_loss": "loss",
    "dev_correct_m_0": "masked accuracy",
    "dev_units_acc": "unit accuracy %",
    "dev_cer": "CER %",
    "dev_wer": "WER %",
}
# Signs in fairseq's log that the loss is no longer a number.
_DIVERGED = ("FloatingPointError", "Nan/Inf", "NaN/Inf", "gradients are inconsistent")


@dataclass(frozen=True)
class UnitSource:
    """What units are made of: cepstra unless a HuBERT (with its layer) or phones are given."""

    features_from: Path | None = None
    layer: int | None = None
    phones: dict[str, Path] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        if self.phones:
            return "phones"
        if self.features_from is None:
            return "clusters of cepstra"
        return f"clusters of layer {self.layer} of {self.features_from.name}"

    def identity(self) -> list:
        """Changes with the files."""
        files = [self.features_from, *self.phones.values()]
        return [self.layer, *(_digest_file(path) for path in files if path is not None)]


class HubertPretraining:
    """Runs the stages that are not done yet.

    Args:
        data: prepared folder, with train.tsv, dev.tsv and config.yaml.
        out: folder to write to.
        config: what to train.
        source: what the units are made of.
        workers: processes that make units.
    """

    def __init__(
        self,
        data: Path,
        out: Path,
        config: PretrainingConfig,
        source: UnitSource,
        workers: int,
    ):
        self.data = data
        self.out = out
        self.config = config
        self.source = source
        self.workers = workers
        self.letters_folder = out / "letters"
        self._locks: Sequence[int] = ()

    def run(self, force: bool = False) -> dict[str, dict]:
        """Do what is to be done; return what ``summary.json`` holds.

        Raises:
            CressError: a file, a key or an option is wrong, a training has failed, or another one
                is at work in the folder.
        """
        # Trainings inherit the lock: they have ended when another run gets it.
        with (
            ending_in_order(),
            alone_in(self.out, self.out / LOCK, "pretraining") as self._locks,
        ):
            self.records = StageRecords(self.out / "summary.json")
            return self._run(force)

    def _run(self, force: bool) -> dict[str, dict]:
        if force:
            self.records.clear()
            for stage in self.config.stages:
                shutil.rmtree(self.out / stage, ignore_errors=True)
        root = self._audio_root()
        files = [self.out / f"{split}.{suffix}" for split in SPLITS for suffix in ("tsv", UNITS)]
        units = [*files, self.out / f"dict.{UNITS}.txt"]
        self.records.stage("units", self._units_inputs(root), units, lambda: self._units(root))
        if CTC in self.config.stages:
            suffixes = ("tsv", UNITS, LETTERS)
            letters = [self.letters_folder / f"{s}.{suffix}" for s in SPLITS for suffix in suffixes]
            limits = self.config.limits(CTC)
            inputs = [self.records.digest("units"), self.config.least_letters, limits]
            self.records.stage("letters", inputs, letters, self._letters)
        previous = None
        for stage in self.config.stages:
            previous = self._train(stage, previous)
        self._export(previous)
        return self.records.entries

    # Units

    def _data_config(self) -> dict:
        path = self.data / "config.yaml"
        content = read_yaml(path, "the config of a prepared folder ('cress-svcd prepare-mustc')")
        return with_names_as_written(path, content)

    def _audio_root(self) -> str:
        return audio_folder(self.data, self._data_config())

    def _is_sharded(self) -> bool:
        audio = read_manifest(self.data / f"{SPLITS[0]}.tsv")["audio"]
        return is_sharded(self._data_config(), audio)

    def _units_inputs(self, root: str) -> list:
        manifests = [self.data / f"{split}.tsv" for split in SPLITS]
        return [
            root,
            [_digest_file(path) for path in manifests],
            self.config.widest_limits(),
            asdict(self.config.units),
            self.config.seed,
            self.source.identity(),
            # Folders of before this could be otherwise count as done.
            *([self.config.frame_shift] if self.config.frame_shift != FRAME_SHIFT else []),
        ]

    def _units(self, root: str) -> dict:
        limits = Limits(*self.config.widest_limits())
        splits, reports = {}, {}
        for split in SPLITS:
            path = self.data / f"{split}.tsv"
            manifest = read_manifest(path)
            splits[split], reports[split] = select_utterances(manifest, limits, str(path))
        make = self._phone_labels if self.source.phones else self._cluster_labels
        units = make(splits, root)
        for split, utterances in splits.items():
            write_fairseq_manifest(self.out / f"{split}.tsv", root, utterances)
        write_label_dictionary(self.out, UNITS, range(units))
        return {
            "kind": self.source.kind,
            "units": units,
            "splits": {split: asdict(report) for split, report in reports.items()},
        }

    def _cluster_labels(self, splits: dict[str, list[Utterance]], root: str) -> int:
        """Write the labels of all splits; return how many units there are."""
        config, source, shift = self.config.units, self.source, self.config.frame_shift
        features = (
            MfccFeatures(shift)
            if source.features_from is None
            else HubertFeatures(source.features_from, source.layer)
        )
        if features.frame_shift != shift:
            raise ConfigError(
                f"{source.features_from}: a frame each {features.frame_shift} samples, but each "
                f"{shift} by the strides of the config's model; expected the same"
            )
        sample = sample_features(
            splits["train"], root, features, config.sample_frames, self.config.seed, self.workers
        )
        logger.info("k-means: %d clusters of %d frames", config.clusters, len(sample))
        clusters = fit_clusters(sample, config.clusters, self.config.seed)
        clusters.save(self.out / "kmeans.npz")
        for split, utterances in splits.items():
            labels = cluster_labels(utterances, root, features, clusters, self.workers, split)
            write_labels(self.out / f"{split}.{UNITS}", labels)
        return len(clusters)

    def _phone_labels(self, splits: dict[str, list[Utterance]], root: str) -> int:
        labels, shift = {}, self.config.frame_shift
        for split, utterances in splits.items():
            labels_of = phone_events(self.source.phones, split)
            labels[split] = [labels_of(each.id, each.samples, shift) for each in utterances]
        names = sorted({name for split in labels.values() for phones in split for name in phones})
        numbers = {name: number for number, name in enumerate(names)}
        for split, phones in labels.items():
            rows = ([numbers[name] for name in each] for each in phones)
            write_labels(self.out / f"{split}.{UNITS}", rows)
        write_json(self.out / "phones.json", names)
        return len(names)

    # Letters

    def _letters(self) -> dict:
        """Write the segments that have a transcript, with units and letters."""
        root = self._audio_root()
        limits, shift = Limits(*self.config.limits(CTC)), self.config.frame_shift
        letters: list[str] = []
        reports: dict[str, SplitReport] = {}
        for split in SPLITS:
            path = str(self.data / f"{split}.tsv")
            widest = Limits(*self.config.widest_limits())
            utterances, _ = select_utterances(read_manifest(path), widest, path)
            units = self._units_by_id(split, utterances)
            if not letters:
                _, spelled, _ = select_transcribed(utterances, limits, None, path, shift)
                letters = frequent_letters(spelled, self.config.least_letters)
            kept, spelled, reports[split] = select_transcribed(
                utterances, limits, set(letters), path, shift
            )
            write_fairseq_manifest(self.letters_folder / f"{split}.tsv", root, kept)
            rows = ([units[each.id]] for each in kept)
            write_labels(self.letters_folder / f"{split}.{UNITS}", rows)
            write_labels(self.letters_folder / f"{split}.{LETTERS}", spelled)
        symbols = (self.out / f"dict.{UNITS}.txt").read_text(encoding="utf-8")
        write_text(self.letters_folder / f"dict.{UNITS}.txt", symbols)
        write_label_dictionary(self.letters_folder, LETTERS, letters)
        return {
            "letters": len(letters),
            "splits": {split: asdict(report) for split, report in reports.items()},
        }

    def _units_by_id(self, split: str, utterances: Sequence[Utterance]) -> dict[str, str]:
        lines = (self.out / f"{split}.{UNITS}").read_text(encoding="utf-8").splitlines()
        return {each.id: line for each, line in zip(utterances, lines, strict=True)}

    # Training

    def _train(self, stage: str, previous: str | None) -> str:
        """Train a stage that starts from the previous one; return its name."""
        folder = self.out / stage
        data = self.letters_folder if stage == CTC else self.out
        start = {}
        if previous is not None:
            start["pretrained"] = str((self.out / previous / CHECKPOINT).resolve())
        training = self.config.training(stage, data, folder, **start)
        if training["task"].get("vary_cuts") and self._is_sharded():
            warn_of_shards(self.data, joins=False)
            training["task"]["neighbouring_speech"] = False
        logs = self.out / "logs"
        training["common"].setdefault("tensorboard_logdir", str((logs / stage).resolve()))
        _without_half_precision(training["common"])
        before = "letters" if stage == CTC else "units"
        inputs = [training, self.records.digest(before)]
        if previous is not None:
            inputs.append(self.records.digest(previous))
        self.records.stage(
            stage,
            inputs,
            [folder / CHECKPOINT],
            lambda: self._run_training(stage, training, folder, _digest(inputs)),
        )
        return stage

    def _run_training(self, stage: str, training: dict, folder: Path, digest: str) -> dict:
        """Run fairseq-hydra-train, from the last checkpoint of this training if there is one."""
        stamp = folder / "inputs.txt"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != digest:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        elif (folder / CHECKPOINT).exists():
            logger.info("%s: goes on from %s", stage, folder / CHECKPOINT)
        write_text(folder / f"{CONFIG_NAME}.yaml", yaml.safe_dump(training, sort_keys=False))
        write_text(stamp, digest)
        updates = training["optimization"]["max_update"]
        progress = TrainingProgress(stage, updates, _SHOWN[stage])
        watch = _DivergenceWatch()
        try:
            run_logged(
                _hydra_command(folder),
                self.out / "logs" / f"{stage}.log",
                on_line=lambda line: (progress(line), watch(line)),
                locks=self._locks,
            )
        except ProcessError as error:
            raise watch.explain(stage, progress.updates, error) from None
        finally:
            progress.close()
        if not (folder / CHECKPOINT).exists():
            raise CheckpointError(f"{folder / CHECKPOINT}: not written; see {self.out / 'logs'}")
        numbers = progress.last.get(SPLITS[-1], {})
        return {name: numbers[key] for key, name in _RESULTS.items() if key in numbers}

    # Export

    def _export(self, stage: str) -> None:
        source = self.out / stage / CHECKPOINT
        target = self.out / "hubert.pt"

        def work() -> dict:
            hubert = export_hubert(target, read_checkpoint(source), source, self.config.seed)
            return {"parameters": sum(p.numel() for p in hubert.parameters())}

        self.records.stage("export", [self.records.digest(stage)], [target], work)


class StageRecords(Records):
    """``summary.json``: for each finished stage its inputs' digest, result and seconds."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: dict[str, dict] = {}
        if path.exists():
            try:
                entries = json.loads(read_text(path))
                self.entries = {name: dict(entry) for name, entry in entries.items()}
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                logger.warning("%s is of no use (%s): everything is done again", path, error)

    def clear(self) -> None:
        self.entries = {}

    def digest(self, stage: str) -> str:
        """Of everything that a finished stage was made from."""
        return self.entries[stage]["inputs"]

    def stage(
        self, name: str, inputs: Any, outputs: Sequence[Path], work: Callable[[], dict]
    ) -> None:
        """Do ``work`` unless it was done with the same inputs, and its outputs are there."""
        self.run(Step(name, _digest(inputs), outputs), work)

    def read(self, name: str) -> Record | None:
        entry = self.entries.get(name)
        if entry is None:
            return None
        return Record(entry.get("inputs"), result=entry.get("result"))

    def write(self, name: str, record: Record) -> None:
        self.entries[name] = {
            "inputs": record.inputs,
            "seconds": round(record.seconds, 1),
            "result": record.result,
        }
        write_json(self.path, self.entries)

    def begin(self, step: Step) -> None:
        if self.entries.pop(step.name, None) is not None:
            write_json(self.path, self.entries)


class _DivergenceWatch:
    """Notices in fairseq's output that the loss is no number any more."""

    def __init__(self):
        self.diverged = False

    def __call__(self, line: str) -> None:
        self.diverged |= any(sign in line for sign in _DIVERGED)

    def explain(self, stage: str, updates: int, error: ProcessError) -> ProcessError:
        """The error itself, or a clearer one."""
        if not self.diverged:
            return error
        return ProcessError(
            f"{stage}: the loss became NaN or infinite after update {updates}; lower "
            f"{stage}.optimization.lr, raise lr_scheduler.warmup_updates, or train in fp32 "
            f"(common.fp16: false).  {error}"
        )


def _hydra_command(folder: Path) -> list[str]:
    folder = folder.resolve()
    return python_module(
        "cress_svcd.training.hydra_train",
        "--config-dir",
        str(folder),
        "--config-name",
        CONFIG_NAME,
        f"hydra.run.dir={json.dumps(str(folder))}",
        "hydra.output_subdir=null",
        "~hydra.job_logging.handlers.file",
        "hydra.job_logging.root.handlers=[console]",
    )


def _without_half_precision(common: dict) -> None:
    """Half precision is for GPUs: without one it is switched off, and said so."""
    if torch.cuda.is_available() and not common.get("cpu"):
        return
    wanted = [key for key in _HALF_PRECISIONS if common.get(key)]
    for key in wanted:
        common[key] = False
    if wanted:
        logger.info("no GPU: training in fp32 rather than common.%s", ", common.".join(wanted))


def _digest(data: Any) -> str:
    return digest([_VERSION, data])


def _digest_file(path: str | os.PathLike) -> str:
    """Of the content; "absent" for a file that is not there (whoever reads it says so)."""
    try:
        return hubert_digest(path)
    except OSError:
        return "absent"
