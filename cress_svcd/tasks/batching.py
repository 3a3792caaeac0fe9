"""The batches of the task: one mode each, speech measured in samples and text in tokens."""

import logging

import numpy as np
from fairseq.data import FairseqDataset, LanguagePairDataset, iterators

from cress_svcd.data.dataset import OneModeBatches, SpeechTranslationDataset
from cress_svcd.errors import ConfigError
from cress_svcd.tasks.datasets import DataTask, capped
from cress_svcd.tasks.options import EXTERNAL, SPEECH

logger = logging.getLogger(__name__)

DEFAULT_TEXT_TOKENS = 8192
MAX_TEXT_TOKENS = 65_536
# What fairseq-generate takes where no batch size is given; meant for tokens, too few as samples.
GENERATION_DEFAULT = 12_000
DEFAULT_SPEECH_SAMPLES = 1_600_000


class BatchingTask(DataTask):
    """Batches for training, validation and generation."""

    def max_positions(self) -> None:
        """No limit that holds for speech and text alike; see ``size_limits`` of the datasets."""
        return

    def get_batch_iterator(self, dataset, max_tokens=None, max_sentences=None, epoch=1, **kwargs):
        """Batches of one mode each, speech measured in samples and text in tokens."""
        kwargs.pop("max_positions", None)
        # fairseq wants multiples of 8 and drops what is left over at the end: up to seven
        # sentences of a test set would never be translated, nor the longest ever trained on.
        kwargs["required_batch_size_multiple"] = 1
        if isinstance(dataset, OneModeBatches):
            return self._mixed_iterator(dataset, max_tokens, max_sentences, epoch=epoch, **kwargs)
        limits = getattr(dataset, "size_limits", None)
        evaluated = limits is None or limits[0] is None
        if isinstance(dataset, SpeechTranslationDataset) and evaluated:
            max_tokens, limits = self._speech_of_any_length(dataset, max_tokens), None
        if isinstance(dataset, LanguagePairDataset):
            max_tokens, max_sentences = self._text_batch_size(max_tokens, max_sentences)
        if limits is not None:
            limits = capped(limits, max_tokens)
        self._refuse_if_none_fits(dataset, dataset, limits)
        reused = dataset in self.dataset_to_epoch_iter
        # fairseq draws the batches once, in the epoch that it starts with, and keeps them: resumed
        # in a later epoch, training would find others than uninterrupted.  So always as in epoch 1,
        # unless each epoch cuts the segments otherwise and has batches of its own.
        iterator = super().get_batch_iterator(
            dataset,
            max_tokens=max_tokens,
            max_sentences=max_sentences,
            max_positions=limits,
            epoch=1 if dataset.can_reuse_epoch_itr_across_epochs else max(epoch, 1),
            **kwargs,
        )
        if not reused:
            iterator.epoch = max(epoch, 1)
        return iterator

    @staticmethod
    def _speech_of_any_length(dataset: SpeechTranslationDataset, max_tokens: int | None):
        """Samples in a batch of validation or generation, where no segment may be left out."""
        if max_tokens is None:
            return None
        if max_tokens == GENERATION_DEFAULT:
            max_tokens = DEFAULT_SPEECH_SAMPLES
        return max(max_tokens, int(dataset.n_frames.max()))

    def _text_batch_size(self, max_tokens: int | None, max_sentences: int | None) -> tuple:
        """Where only text is read, fairseq's own options may give the size of its batches."""
        if self.cfg.max_tokens_text or self.cfg.batch_size_text:
            return self.cfg.max_tokens_text, self.cfg.batch_size_text
        if max_tokens is not None and max_tokens > MAX_TEXT_TOKENS:
            return DEFAULT_TEXT_TOKENS, max_sentences  # it was meant for samples of audio
        return max_tokens, max_sentences

    def _mixed_iterator(
        self,
        dataset: OneModeBatches,
        max_tokens: int | None,
        max_sentences: int | None,
        required_batch_size_multiple: int = 1,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        skip_remainder_batch: bool = False,
        grouped_shuffling: bool = False,
        **_,
    ) -> iterators.GroupedEpochBatchIterator:
        self._set_limits(dataset, max_tokens, max_sentences)
        dataset.set_epoch(epoch)
        ratios = [self.cfg.ext_mt_ratio if mode == EXTERNAL else 1 for mode in dataset.id_to_mode]
        samplers = dataset.get_batch_samplers(ratios, required_batch_size_multiple, seed)
        for mode, batches in zip(dataset.id_to_mode, samplers):
            if len(batches) < num_shards:
                raise ConfigError(
                    f"{len(batches)} batches of mode {mode} for {num_shards} processes: some would "
                    "never see it; give smaller batches (--max-tokens, --max-tokens-text), a "
                    "larger --ext-mt-ratio, or fewer processes"
                )
        if grouped_shuffling:
            # Neighbours are of similar length.  Of so many in a row each process takes its own, and
            # all shuffle what they have in the same order.
            samplers = [
                batches[shard_id : len(batches) // num_shards * num_shards : num_shards]
                for batches in samplers
            ]
            num_shards, shard_id = 1, 0
        return iterators.GroupedEpochBatchIterator(
            dataset=dataset,
            collate_fn=dataset.collater,
            batch_samplers=samplers,
            seed=seed,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            skip_remainder_batch=skip_remainder_batch,
        )

    def _set_limits(
        self, dataset: OneModeBatches, max_tokens: int | None, max_sentences: int | None
    ) -> None:
        """Sizes of batches and of what goes into them, mode by mode."""
        text_tokens = self.cfg.max_tokens_text or DEFAULT_TEXT_TOKENS
        dataset.max_tokens = [
            max_tokens if mode == SPEECH else text_tokens for mode in dataset.id_to_mode
        ]
        dataset.max_sentences = [
            max_sentences if mode == SPEECH else self.cfg.batch_size_text
            for mode in dataset.id_to_mode
        ]
        dataset.max_positions = [
            capped(limits, tokens)
            for limits, tokens in zip(dataset.max_positions, dataset.max_tokens)
        ]
        for part, limits in zip(dataset.datasets, dataset.max_positions):
            self._refuse_if_none_fits(dataset, part, limits)
        self._report_left_out(dataset)

    def _refuse_if_none_fits(
        self, dataset: FairseqDataset, part: FairseqDataset, limits: tuple | None
    ) -> None:
        """Raise ConfigError where an epoch of ``part`` (of ``dataset``, a split) has no batch.

        fairseq would only say that the dataset is empty.
        """
        if len(part) and limits is None:
            return
        if len(part) and len(part.filter_indices_by_size(np.arange(len(part)), limits)[0]):
            return
        split = next((name for name, known in self.datasets.items() if known is dataset), "data")
        if not len(part):
            raise ConfigError(f"{split}: holds no sentence pairs; make the text again")
        speech = isinstance(part, SpeechTranslationDataset)
        what, unit = ("segments", "samples") if speech else ("sentence pairs", "tokens")
        sizes = np.array([part.size(index) for index in range(len(part))])
        longest, shortest = sizes[sizes[:, 0].argmax()], sizes[sizes[:, 0].argmin()]
        options = "--max-audio-positions, --max-tokens" if speech else "--max-tokens-text"
        raise ConfigError(
            f"{split}: none of its {len(part)} {what} is within the limits, {limits[0]} {unit} and "
            f"{limits[1]} tokens of translation; the longest has {longest[0]} and {longest[1]}, "
            f"the shortest {shortest[0]} and {shortest[1]}: raise {options} (or "
            "--max-source-positions, --max-target-positions), or cut them shorter"
        )

    @staticmethod
    def _report_left_out(dataset: OneModeBatches) -> None:
        """fairseq leaves out what is too long here without a word."""
        if dataset.raw_sub_batch_samplers:
            return  # reported before: the batches are made only once
        for part, mode, limits in zip(dataset.datasets, dataset.id_to_mode, dataset.max_positions):
            _, left_out = part.filter_indices_by_size(np.arange(len(part)), limits)
            if len(left_out):
                logger.warning(
                    "mode %s: %d of %d samples have invalid sizes and will be skipped, limits %s",
                    mode,
                    len(left_out),
                    len(part),
                    limits,
                )
