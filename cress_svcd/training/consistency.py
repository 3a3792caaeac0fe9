"""Consistency: a model says the same twice, whatever dropout leaves out of it.

A batch runs twice with different dropout, as one batch of twice the size, and the two distributions
of each target token are drawn together: R-Drop (Liang et al. 2021, arXiv:2106.14448).  Speech and
its transcripts can be drawn together in the same way (CRESS: Fang and Feng 2023, arXiv:2305.08709).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.fake_quant import accumulation_dtype

LOGGED = ("consistency", "cross_consistency")


@dataclass
class ConsistencyOptions:
    """Options of the terms; weights of 0 leave training as it is."""

    consistency_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the symmetric divergence between two passes of a batch with "
            "different dropout, of speech and of text, next to a cross-entropy of weight 1 "
            "(R-Drop); a batch takes twice the memory and time"
        },
    )
    cross_consistency_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the symmetric divergence between the translation of speech and that "
            "of its transcript (needs --mt-finetune)"
        },
    )


def check_options(options: ConsistencyOptions, with_text: bool) -> None:
    """Raise ConfigError for what is out of range, or has no transcripts to compare."""
    for name in ("consistency_weight", "cross_consistency_weight"):
        value = getattr(options, name)
        if not 0 <= value < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: expected 0 or more")
    if options.cross_consistency_weight and not with_text:
        raise ConfigError(
            "--cross-consistency-weight compares speech with its transcripts: add --mt-finetune"
        )


def twice(value: Any) -> Any:
    """A batch with each of its sentences once more, behind all of them: tensors of ``net_input``,
    ``target`` and ``source_text``; numbers and names stay."""
    if isinstance(value, Tensor):
        return torch.cat([value, value])
    if isinstance(value, dict):
        return {key: twice(item) for key, item in value.items()}
    return value


def symmetric_kl(first: Tensor, second: Tensor, padding: Tensor) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2 of the distributions p and q of each token, summed over tokens.

    Gradients reach both sides.

    Args:
        first, second: logits (batch, time, vocabulary).
        padding: (batch, time), True where nothing is compared, whatever the logits are there.
    """
    logs = [
        F.log_softmax(
            logits.to(accumulation_dtype(logits.dtype)).masked_fill(padding.unsqueeze(-1), 0), -1
        )
        for logits in (first, second)
    ]
    return ((logs[0].exp() - logs[1].exp()) * (logs[0] - logs[1])).sum() / 2


def passes(options: ConsistencyOptions) -> int:
    """How often a batch runs."""
    return 2 if options.consistency_weight > 0 else 1


def add_terms(
    loss: Tensor, options: ConsistencyOptions, outputs: list[Tensor], padding: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one pass with the weighted terms, summed over the tokens; what to log.

    Args:
        loss: of all passes together.
        outputs: logits (batch, time, vocabulary) of the batch's own mode, and perhaps of its
            transcripts, of all passes.
        padding: (batch, time) of the target, of all passes.
    """
    count = passes(options)
    tokens, logged = (~padding).sum() // count, {}
    if count == 2:
        halves = [logits.chunk(2) for logits in outputs]
        value = sum(symmetric_kl(one, other, padding.chunk(2)[0]) for one, other in halves)
        loss = loss / 2 + options.consistency_weight * value
        logged = {"consistency": value.detach(), "consistency_ntokens": tokens * len(outputs)}
    if options.cross_consistency_weight > 0:
        # Every batch logs every key, of text alone as well.
        value = loss.new_zeros(())
        if len(outputs) == 2:
            value = symmetric_kl(outputs[0], outputs[1], padding) / count
        loss = loss + options.cross_consistency_weight * value
        logged["cross_consistency"] = value.detach()
        logged["cross_consistency_ntokens"] = tokens * (len(outputs) - 1)
    return loss, logged
