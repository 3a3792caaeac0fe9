"""What a model's likelihood and translations of a split are, for commands that compare models."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.data import Dictionary, FairseqDataset
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.errors import CheckpointError
from cress_svcd.evaluation.bleu_chrf import measure
from cress_svcd.models.attention import call_projections
from cress_svcd.quantization.packing import packed_layers
from cress_svcd.translation.translator import (
    BATCH_SECONDS,
    TEXT_BATCH_TOKENS,
    Translator,
    load_model,
)


def load_for_measuring(path: Path, data: Path | None, device: torch.device):
    """(model, task) of a checkpoint; every layer's module is called when the model runs.

    Raises:
        CheckpointError, ConfigError: it cannot be read, or is packed.
    """
    model, task = load_model(path, data)
    if packed_layers(model):
        raise CheckpointError(
            f"{path}: is packed; report on the checkpoint that it was packed from, or turn it back "
            "into one with 'cress-svcd unpack'"
        )
    task.cfg.feature_cache = None  # of the training; here HuBERT's own layers are to run
    for module in model.modules():
        if isinstance(module, MultiheadAttention):
            call_projections(module)
    return model.to(device).eval(), task


class Sentences:
    """Some sentences of a split, in batches.

    Args:
        task: of the model; its data folder holds the split.
        split: name of a manifest.
        count: how many sentences, drawn by ``seed``; all if there are no more.
    """

    def __init__(self, task, split: str, count: int, seed: int = 1):
        task.load_dataset(split)
        self.task = task
        self.dataset: FairseqDataset = task.dataset(split)
        total = len(self.dataset)
        drawn = np.random.default_rng(seed).permutation(total)[: min(count, total)]
        self.rows: list[int] = sorted(int(row) for row in drawn)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, device: torch.device) -> list[dict[str, Any]]:
        """Batches of similar lengths, collated, on ``device``."""
        lengths = self.dataset.num_tokens_vec(np.array(self.rows))
        order = np.array(self.rows)[np.argsort(lengths, kind="stable")]
        text = self.task.evaluates_text
        budget = TEXT_BATCH_TOKENS if text else int(BATCH_SECONDS * SAMPLE_RATE)
        return [
            utils.apply_to_sample(
                lambda tensor: tensor.to(device),
                self.dataset.collater([self.dataset[int(row)] for row in rows]),
            )
            for rows in self.dataset.batch_by_size(order, max_tokens=max(budget, lengths.max()))
        ]

    def references(self) -> dict[int, str]:
        """By the sentences' ids, as their tokens spell them."""
        dictionary: Dictionary = self.task.tgt_dict
        texts = {}
        for row in self.rows:
            tokens = dictionary.string(self.dataset[row]["target"])
            text = self.task.bpe.decode(tokens) if self.task.bpe is not None else tokens
            texts[row] = self.task.pre_tokenizer.decode(text) if self.task.pre_tokenizer else text
        return texts


class Likelihood:
    """Bits a target token under a model, teacher-forced on the same batches.

    Args:
        model: whose encoder's outputs are kept, for measurements in which only the decoder changes.
        batches: of :class:`Sentences`.
    """

    @torch.inference_mode()
    def __init__(self, model: nn.Module, batches: Sequence[dict], padding: int):
        self.batches, self.padding = batches, padding
        self.encoded = [self._encode(model, batch) for batch in batches]

    @staticmethod
    def _encode(model: nn.Module, batch: dict) -> dict[str, list[Tensor]]:
        inputs = batch["net_input"]
        return model.encoder(inputs["src_tokens"], src_lengths=inputs["src_lengths"])

    @torch.inference_mode()
    def __call__(self, model: nn.Module, decoder_only: bool = False) -> float:
        """Mean negative log2-likelihood of a target token.

        Args:
            decoder_only: the model's encoder is the one that was given at the start.
        """
        total, tokens = 0.0, 0
        for batch, encoded in zip(self.batches, self.encoded):
            encoder_out = encoded if decoder_only else self._encode(model, batch)
            logits, _ = model.decoder(
                batch["net_input"]["prev_output_tokens"], encoder_out=encoder_out
            )
            target = batch["target"]
            chosen = logits.float().log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
            kept = target.ne(self.padding)
            total -= float(chosen[kept].double().sum())
            tokens += int(kept.sum())
        return total / tokens / math.log(2)


def bleu(translator: Translator, batches: Sequence[dict], references: dict[int, str]) -> float:
    """BLEU of the translator's present model on batches of :class:`Sentences`."""
    found: dict[int, tuple] = {}
    for batch in batches:
        found |= translator.translate_collated(batch)
    return measure([found[row][0] for row in references], list(references.values()))["bleu"]
