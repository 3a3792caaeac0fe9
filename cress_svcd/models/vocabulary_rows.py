"""Checkpoints of which only some rows of the vocabulary stay."""

import logging
import os
import re

import torch
from torch import Tensor

from cress_svcd.errors import CheckpointError

logger = logging.getLogger(__name__)

# One row for each entry of the dictionary, in DeltaLM's released files and in fairseq's.
ROWS = (
    "src_embedding.embed_tokens.weight",
    "tgt_embedding.embed_tokens.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.output_projection.weight",
    "encoder.ctc_head.weight",
    "encoder.ctc_head.bias",
)
_OF_THE_VOCABULARY = re.compile(r"\b(embed_tokens|output_projection|ctc_head)\.")


def select_rows(
    checkpoint: dict, indices: list[int], entries: int, source: str | os.PathLike
) -> dict:
    """The checkpoint for a smaller dictionary.

    Args:
        checkpoint: DeltaLM's released form (key ``weights``) or fairseq's (``model``).
        indices: entries of the large dictionary that stay, in their new order.
        entries: size of the large dictionary; tables may have more rows, which go.
        source: file of the checkpoint, for messages.
    Returns:
        another checkpoint; without optimizer state, which is of the large model.
    Raises:
        CheckpointError: the tensors are not those of that dictionary, or are quantised.
    """
    key = next((key for key in ("weights", "model") if isinstance(checkpoint.get(key), dict)), None)
    tensors = checkpoint[key] if key else {}
    names = [name for name in ROWS if name in tensors]
    if not names:
        raise CheckpointError(
            f"{source}: no embeddings under 'weights' or 'model' ({', '.join(ROWS[:4])}); expected "
            "DeltaLM as released, or a checkpoint of fairseq-train"
        )
    others = [n for n in tensors if _OF_THE_VOCABULARY.search(n) and n not in names]
    if others:
        raise CheckpointError(
            f"{source}: {others[0]}: the vocabulary is not stored as plain rows: prune the "
            "full-precision model before it is quantised or packed"
        )
    pruned = dict(tensors)
    selected: dict[tuple, Tensor] = {}
    for name in names:
        table = tensors[name]
        if len(table) < entries:
            raise CheckpointError(
                f"{source}: {name} has {len(table):,} rows, the dictionary {entries:,} entries: "
                "they do not belong together"
            )
        # Tied tensors stay tied, and stand in the file once.
        identity = (table.data_ptr(), table.shape)
        if identity not in selected:
            selected[identity] = table[torch.tensor(indices)]
        pruned[name] = selected[identity]
    _tie_equal(pruned, names)
    # The vocabulary is one that an unpacked model has: of all the rows.
    dropped = ("last_optimizer_state", "vocabulary")
    result = {name: value for name, value in checkpoint.items() if name not in dropped}
    return {**result, key: pruned}


def _tie_equal(tensors: dict[str, Tensor], names: list[str]) -> None:
    """Store equal tables once."""
    for i, name in enumerate(names):
        for other in names[:i]:
            if torch.equal(tensors[name], tensors[other]):
                tensors[name] = tensors[other]
                break
