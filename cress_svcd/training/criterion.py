"""Label-smoothed cross-entropy of speech and text translation, with optional CTC."""

import contextlib
import logging
import math
import os
from dataclasses import dataclass, field

import torch
from fairseq import utils
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor, nn

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.kernels import dispatch
from cress_svcd.training import consistency, distillation
from cress_svcd.training.consistency import ConsistencyOptions
from cress_svcd.training.distillation import Distillation, DistillationOptions

logger = logging.getLogger(__name__)

# The losses of translation by the mode of what is translated.
MODES = ("st", "mt", "ext_mt")
LOGGED = tuple(
    f"{mode}_{name}" for mode in MODES for name in ("loss", "nll_loss", "correct", "ntokens")
) + ("ctc_loss", "ctc_ntokens")


@dataclass
class SpeechAndTextTranslationCriterionConfig(
    ConsistencyOptions, DistillationOptions, LabelSmoothedCrossEntropyCriterionConfig
):
    """Options of the criterion."""

    report_accuracy: bool = field(
        default=False,
        metadata={"help": "kept for familiarity: the accuracy is always reported"},
    )
    ctc_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of a CTC loss on the transcript over the encoder's speech states "
            "(needs --ctc-head of the model)"
        },
    )


@register_criterion(
    "speech_and_text_translation", dataclass=SpeechAndTextTranslationCriterionConfig
)
class SpeechAndTextTranslationCriterion(LabelSmoothedCrossEntropyCriterion):
    """Sum of the translation losses that the task's training asks for.

    A batch of speech gives the loss of speech translation (``st``), with ``--mt-finetune`` also
    that of translating its transcripts (``mt``), and with ``--ctc-weight`` a CTC loss; a batch of
    text gives its own (``mt`` or ``ext_mt``).  With ``--teacher-model`` the terms of
    :mod:`distillation` are added, of speech and transcripts alike; with ``--consistency-weight``
    those of :mod:`consistency`.  In validation ``loss`` is that of the batch's own mode alone, so
    that it is what checkpoints are to be compared by; the others are logged.

    Logged for each mode: ``<mode>_loss``, ``<mode>_nll_loss`` (bits a token), ``<mode>_accuracy``;
    ``distill_kl``, ``distill_hidden``, ``distill_relation``, ``consistency`` and
    ``cross_consistency`` (a token, without their weights).
    """

    distillation: Distillation | None = None
    missing_teacher: str | None = None
    consistency_options = ConsistencyOptions()
    updates = 0

    def __init__(
        self,
        task,
        sentence_avg,
        label_smoothing,
        ignore_prefix_size=0,
        report_accuracy=True,
        ctc_weight=0.0,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, True)
        self.with_text = task.cfg.mt_finetune
        self.ctc_weight = ctc_weight
        self.blank = task.source_blank

    @classmethod
    def build_criterion(cls, cfg: SpeechAndTextTranslationCriterionConfig, task):
        criterion = super().build_criterion(cfg, task)
        distillation.check_options(cfg)
        consistency.check_options(cfg, criterion.with_text)
        criterion.consistency_options = cfg
        if cfg.teacher_model and os.path.exists(cfg.teacher_model):
            criterion.distillation = Distillation(cfg, task)
        elif cfg.teacher_model:
            # A model is validated without it; training stops before its first batch.
            logger.warning("--teacher-model %s: no such file", cfg.teacher_model)
            criterion.missing_teacher = cfg.teacher_model
        return criterion

    def train(self, mode: bool = True):
        if mode and self.missing_teacher:
            raise CheckpointError(
                f"--teacher-model {self.missing_teacher}: no such file; give the checkpoint to "
                "learn from, or leave the option out"
            )
        return super().train(mode)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by the task before each update, with the updates made so far."""
        self.updates = num_updates

    def forward(self, model: nn.Module, sample: dict, reduce: bool = True):
        """Returns the loss (sum over tokens), the sample size, and what to log."""
        mode, given = self.mode_of(sample), sample
        passes = consistency.passes(self.consistency_options) if model.training else 1
        if passes == 2:  # as one batch: one forward, as below
            sample = consistency.twice(sample)
        text = sample.get("source_text") if mode == "st" else None
        # One call for all: data parallel wrappers expect a single forward before the backward.
        translate_text = self.with_text and text is not None
        inputs = {
            **sample["net_input"],
            "text_tokens": text["src_tokens"] if translate_text else None,
            "text_lengths": text["src_lengths"] if translate_text else None,
        }
        teacher = self.distillation
        watching = teacher and teacher.watching(model, inputs, self.updates)
        with watching or contextlib.nullcontext() as watched:
            net_output = model(**inputs)
        own, logged = self.translation_loss(model, net_output, sample, mode, reduce)
        # Every batch logs every key: summing over processes, fairseq takes the keys of the first
        # of several batches for those of all.
        zero = own.new_zeros((), dtype=torch.float32).detach()
        logging_output = {**dict.fromkeys(LOGGED, zero), **logged}
        loss = own
        if translate_text:
            text_output = net_output[1]["text_output"]
            value, logged = self.translation_loss(model, text_output, sample, "mt", reduce)
            loss = loss + value
            logging_output.update(logged)
        if self.ctc_weight > 0 and text is not None:
            value = self.ctc_loss(net_output, text)
            loss = loss + self.ctc_weight * value
            logging_output["ctc_loss"] = value.detach()
            logging_output["ctc_ntokens"] = text["src_lengths"].sum()
        logits = [net_output[0]]
        if translate_text:
            logits.append(net_output[1]["text_output"][0])
        if teacher:
            value, logged = teacher.loss(inputs, logits, watched, sample["target"], self.updates)
            loss = loss + value
            logging_output.update(logged)
        if model.training:
            padding = sample["target"].eq(self.padding_idx)
            loss, logged = consistency.add_terms(loss, self.consistency_options, logits, padding)
            logging_output.update(logged)
        else:
            loss = own
        logging_output.update(
            loss=loss.detach(),
            nll_loss=logging_output[f"{mode}_nll_loss"] / passes,
            **self.plain_log(given),
        )
        return loss, logging_output["sample_size"], logging_output

    def plain_log(self, sample: dict) -> dict[str, int]:
        """What is logged of a batch that the host knows without running it."""
        sentences = sample["target"].size(0)
        return {
            "ntokens": sample["ntokens"],
            "nsentences": sentences,
            "sample_size": sentences if self.sentence_avg else sample["ntokens"],
        }

    @property
    def step_state(self) -> tuple:
        """What the loss of a batch depends on besides tensors: other values, another computation"""
        teacher = self.distillation
        return () if teacher is None else teacher.weights(self.updates)

    @staticmethod
    def mode_of(sample: dict) -> str:
        """The mode that the batch tells, else the one that its type does."""
        if "mode" in sample:
            return sample["mode"]
        return "st" if sample["net_input"]["src_tokens"].is_floating_point() else "mt"

    def translation_loss(
        self, model: nn.Module, net_output: tuple, sample: dict, mode: str, reduce: bool
    ) -> tuple[Tensor, dict]:
        """Loss of the decoder's output against the target, and its part of the log."""
        loss, nll_loss = self.compute_loss(model, net_output, sample, reduce=reduce)
        correct, total = self.compute_accuracy(model, net_output, sample)
        return loss, {
            f"{mode}_loss": loss.detach(),
            f"{mode}_nll_loss": nll_loss.detach(),
            f"{mode}_correct": correct.detach(),
            f"{mode}_ntokens": total.detach(),
        }

    def compute_accuracy(self, model, net_output, sample) -> tuple[Tensor, Tensor]:
        """Tokens that are most probable where they stand, and all tokens.

        fairseq's picks them out of the batch, for which the host waits for the GPU, and takes the
        softmax over the vocabulary once more.
        """
        after_prefix = slice(self.ignore_prefix_size, None)
        best = net_output[0][:, after_prefix].argmax(-1)
        target = model.get_targets(sample, net_output)[:, after_prefix]
        counted = target.ne(self.padding_idx)
        return (best.eq(target) & counted).sum(), counted.sum()

    def ctc_loss(self, net_output: tuple, text: dict) -> Tensor:
        """CTC loss of the transcripts, summed over the batch.

        Utterances with fewer frames than their transcript needs give no loss rather than an
        infinite one.
        """
        if net_output[1].get("ctc") is None:
            raise ConfigError("--ctc-weight needs a model with --ctc-head")
        log_probs, frames = net_output[1]["ctc"]
        tokens = text["src_lengths"] - 1  # without the end of sentence
        log_probs = log_probs.float()
        return dispatch.ctc_loss(log_probs, text["src_tokens"], frames, tokens, self.blank).sum()

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict]) -> None:
        """Aggregate over batches and workers."""

        def total(key: str) -> float:
            return utils.item(sum(log.get(key, 0) for log in logging_outputs))

        bit = math.log(2)
        size, ntokens = total("sample_size"), total("ntokens")
        metrics.log_scalar("loss", total("loss") / size / bit, size, round=3)
        metrics.log_scalar("nll_loss", total("nll_loss") / ntokens / bit, ntokens, round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))
        for mode in MODES:
            count = total(f"{mode}_ntokens")
            if count:
                for name in (f"{mode}_loss", f"{mode}_nll_loss"):
                    metrics.log_scalar(name, total(name) / count / bit, count, round=3)
                accuracy = 100 * total(f"{mode}_correct") / count
                metrics.log_scalar(f"{mode}_accuracy", accuracy, count, round=3)
        count = total("ctc_ntokens")
        if count:
            metrics.log_scalar("ctc_loss", total("ctc_loss") / count / bit, count, round=3)
        for name in consistency.LOGGED:
            if count := total(f"{name}_ntokens"):
                metrics.log_scalar(name, total(name) / count, count, round=4)
        count = total("distill_ntokens")
        for name in distillation.LOGGED:
            if count and any(name in log for log in logging_outputs):
                metrics.log_scalar(name, total(name) / count, count, round=4)
