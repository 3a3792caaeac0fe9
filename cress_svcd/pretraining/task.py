"""fairseq's HuBERT pretraining on segments of longer recordings, with transcripts if wished."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import torch
from fairseq.data import Dictionary
from fairseq.tasks import register_task
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig, HubertPretrainingTask
from omegaconf import II

from cress_svcd.data.augmentation.transforms import AudioTransforms
from cress_svcd.data.cut_variation import CutVariation
from cress_svcd.data.dataset import GPU_LENGTH_MULTIPLE
from cress_svcd.errors import ConfigError
from cress_svcd.pretraining.dataset import SegmentHubertDataset
from cress_svcd.pretraining.label_encoder import LabelEncoder
from cress_svcd.training.graph_options import GraphTrainingOptions
from cress_svcd.training.matmul_precision import MatmulOptions, set_matmul_precision

SEQUENCE = -1.0
"""fairseq's label rate for labels that do not belong to frames."""


@dataclass
class SegmentHubertPretrainingConfig(GraphTrainingOptions, MatmulOptions, HubertPretrainingConfig):
    transcripts: Optional[str] = field(
        default=None,
        metadata={
            "help": "extension of the files with letters for CTC, next to the frame labels; "
            "segments are not cropped then"
        },
    )
    vary_cuts: float = field(
        default=0.0,
        metadata={
            "help": "share of the training segments that each epoch cuts otherwise than the corpus "
            "does, as the option of speech_and_text_translation; only with transcripts"
        },
    )
    audio_transforms: Optional[str] = field(
        default=None,
        metadata={
            "help": "make training's speech sound otherwise in every epoch, as the option of "
            "speech_and_text_translation"
        },
    )
    neighbouring_speech: bool = field(
        default=True,
        metadata={
            "help": "varied cuts let in what stands next to a segment in its file; not where the "
            "files hold segments one behind the other"
        },
    )
    train_subset: str = II("dataset.train_subset")
    seed: int = II("common.seed")


@register_task("segment_hubert_pretraining", dataclass=SegmentHubertPretrainingConfig)
class SegmentHubertPretrainingTask(HubertPretrainingTask):
    """``hubert_pretraining`` whose manifests may address ``path:offset:frames``.

    ``data`` holds, for each split, ``SPLIT.tsv`` (root folder, then audio and samples a line) and
    ``SPLIT.LABEL`` for each of ``labels``, and ``dict.LABEL.txt``.  With ``transcripts``, a batch's
    ``target_list`` holds them after the frame labels, and :attr:`dictionaries` their dictionary.
    """

    cfg: SegmentHubertPretrainingConfig

    @property
    def label_names(self) -> list[str]:
        """Extensions of all label files, the transcripts' last."""
        return [*self.cfg.labels, *([self.cfg.transcripts] if self.cfg.transcripts else [])]

    def load_dictionaries(self) -> list[Dictionary]:
        paths = [Path(self.get_label_dir()) / f"dict.{name}.txt" for name in self.label_names]
        for path in paths:
            if not path.is_file():
                raise ConfigError(
                    f"{path}: no such file; expected a dictionary for each of task.labels "
                    "('cress-svcd pretrain-hubert' makes them)"
                )
        return [Dictionary.load(str(path)) for path in paths]

    def begin_epoch(self, epoch, model) -> None:
        """As fairseq's, in the precision of the options."""
        set_matmul_precision(self.cfg.matmul_precision)
        super().begin_epoch(epoch, model)

    def load_dataset(self, split: str, **kwargs) -> None:
        """Load ``SPLIT.tsv`` and its labels.

        Segments shorter than ``min_sample_size`` or longer than ``max_keep_size`` are left out, and
        how many is logged; longer ones than ``max_sample_size`` are cropped.
        """
        cfg = self.cfg
        rates = [cfg.label_rate] * len(cfg.labels) + [SEQUENCE] * bool(cfg.transcripts)
        # A crop would no longer say what its transcript says.
        longest = cfg.max_sample_size if cfg.transcripts else cfg.max_keep_size
        self.datasets[split] = SegmentHubertDataset(
            f"{cfg.data}/{split}.tsv",
            cfg.sample_rate,
            [f"{self.get_label_dir()}/{split}.{name}" for name in self.label_names],
            label_rates=rates,
            pad_list=[dictionary.pad() for dictionary in self.dictionaries],
            eos_list=[dictionary.eos() for dictionary in self.dictionaries],
            label_processors=[LabelEncoder(dictionary) for dictionary in self.dictionaries],
            max_keep_sample_size=longest,
            min_keep_sample_size=cfg.min_sample_size,
            max_sample_size=cfg.max_sample_size,
            pad_audio=cfg.pad_audio,
            normalize=cfg.normalize,
            random_crop=cfg.random_crop,
            cuts=self._cuts(split),
            batch_shapes=self._batch_shapes(split),
            transforms=self._transforms(split),
            neighbours=cfg.neighbouring_speech,
            # With transcripts the model is ours, which knows true lengths.
            length_multiple=GPU_LENGTH_MULTIPLE
            if cfg.transcripts and torch.cuda.is_available()
            else 1,
        )

    def get_batch_iterator(self, dataset, *arguments, epoch=1, **options):
        """As fairseq's, but the batches of an epoch do not depend on where a training started.

        fairseq draws those that are the same in all epochs in the epoch that it starts with:
        resumed in a later one, training would find others than uninterrupted.
        """
        reused = dataset in self.dataset_to_epoch_iter
        drawn_in = 1 if dataset.can_reuse_epoch_itr_across_epochs else max(epoch, 1)
        iterator = super().get_batch_iterator(dataset, *arguments, epoch=drawn_in, **options)
        if not reused:
            iterator.epoch = max(epoch, 1)
        return iterator

    def _batch_shapes(self, split: str) -> int:
        """Of the split that is trained on.

        Raises:
            ConfigError: batches are cropped rather than padded.
        """
        count = self.cfg.batch_shapes
        if count and not self.cfg.pad_audio:
            raise ConfigError(
                f"task.batch_shapes {count}: expected 0 without task.pad_audio, since batches are "
                "then cropped to their shortest segment"
            )
        return count if count and split == self.cfg.train_subset else 0

    def begin_step(self, model, criterion, update_num: int) -> None:
        """See :class:`GraphTrainer`: put the model into the state of this update."""
        model.set_num_updates(update_num)

    def step_state(self, model, criterion) -> tuple:
        """Nothing but its batch decides what a step computes."""
        return ()

    def host_batch(self, model, criterion, sample: dict) -> dict:
        """A batch with its masks, for a model that needs them before the step."""
        draw = getattr(model, "draw_masks", None)
        if draw is None:
            return sample
        return {**sample, **draw(sample)}

    def _transforms(self, split: str) -> AudioTransforms | None:
        """How the split that is trained on is made to sound otherwise."""
        wanted = self.cfg.audio_transforms
        if not wanted or split != self.cfg.train_subset:
            return None
        return AudioTransforms.parse(wanted, self.cfg.seed)

    def _cuts(self, split: str) -> CutVariation | None:
        """How the cuts of a split are varied: where letters say what is said, labels can miss."""
        varied = self.cfg.vary_cuts and self.cfg.transcripts and split == self.cfg.train_subset
        return CutVariation(self.cfg.vary_cuts, self.cfg.seed) if varied else None
