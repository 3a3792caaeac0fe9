"""Reading DeltaLM checkpoints: as released, and as fairseq saves them after fine-tuning."""

import dataclasses
import json
import logging
import os
import re
from argparse import Namespace
from collections.abc import Mapping

import torch
from torch import Tensor

from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoints import read_checkpoint, shorten

logger = logging.getLogger(__name__)

RELEASED_HEADS = {768: 12, 1024: 16}
"""Width → attention heads of the released base and large models, whose files do not say it."""

TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Embeddings: one row for each entry of the dictionary."""

EOS = 2
"""Row of the end of the sentence, in every dictionary of fairseq."""

MOST_SPARE_ROWS = 4
"""Beyond so many rows for each of its entries a dictionary is hardly the whole of the model's."""

PROJECTION = "decoder.output_projection.weight"

# Of our speech models and of fairseq's; no part of DeltaLM.
_FOREIGN = re.compile(r"encoder\.(hubert|subsampler|ctc_head)\.|(en|de)coder\.version$")
_RELEASED_TO_FAIRSEQ = (
    (re.compile(r"^src_embedding\."), "encoder."),
    (re.compile(r"^tgt_embedding\."), "decoder."),
    (re.compile(r"(?<=coder\.)emb_layer_norm\."), "layernorm_embedding."),
    (re.compile(r"(?<=\.)(ffn|ffn_2)\.(?=fc[12]\.)"), ""),
    (re.compile(r"(?<=\.)ffn_1\.fc1\."), "fc3."),
    (re.compile(r"(?<=\.)ffn_1\.fc2\."), "fc4."),
)
# What distinguishes DeltaLM from other Transformers and cannot be seen in its tensors.
_SETTINGS = {
    "encoder_normalize_before": False,
    "decoder_normalize_before": False,
    "no_scale_embedding": True,
    "activation_fn": "gelu",
}


@dataclasses.dataclass(frozen=True)
class Side:
    """Dimensions of the encoder or of the decoder; ``positions`` without the padding's rows."""

    embed_dim: int
    ffn_embed_dim: int
    layers: int
    positions: int
    attention_heads: int | None


@dataclasses.dataclass(frozen=True)
class DeltaLMDescription:
    """All that is needed to build the model again without its file.

    ``encoder`` is None where the file holds an encoder that is not DeltaLM's.
    """

    encoder: Side | None
    decoder: Side
    layernorm_embedding: bool
    shared_embeddings: bool

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "DeltaLMDescription":
        fields = json.loads(text)
        for name in ("encoder", "decoder"):
            fields[name] = Side(**fields[name]) if fields[name] else None
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class DeltaLMFile:
    """A checkpoint: description, tensors under fairseq's names, the task's state if it has one."""

    description: DeltaLMDescription
    state: dict[str, Tensor]
    task_state: dict


def fairseq_name(released: str) -> str:
    """The fairseq name of a tensor of the released file.

    ``decoder.layers.0.ffn_1.fc2.bias`` → ``decoder.layers.0.fc4.bias``.
    """
    for pattern, replacement in _RELEASED_TO_FAIRSEQ:
        released = pattern.sub(replacement, released)
    return released


def read_deltalm(path: str | os.PathLike) -> DeltaLMFile:
    """Read ``deltalm-base.pt`` or ``-large`` (key ``weights``), or a fine-tuned model (``model``).

    Raises:
        CheckpointError: not a checkpoint, damaged, or of another kind of model.
    """
    checkpoint = read_checkpoint(path)
    if isinstance(checkpoint.get("weights"), dict):
        state = {fairseq_name(name): value for name, value in checkpoint["weights"].items()}
        settings: dict = {}
    elif isinstance(checkpoint.get("model"), dict):
        state = {
            name: value for name, value in checkpoint["model"].items() if not _FOREIGN.match(name)
        }
        settings = _settings(checkpoint)
    else:
        raise CheckpointError(
            f"{path}: neither 'weights' nor 'model' in it (found: "
            f"{shorten(sorted(map(str, checkpoint)))}); expected deltalm-base.pt or "
            "deltalm-large.pt as released, or a DeltaLM that was fine-tuned in fairseq"
        )
    _check_kind(path, state)
    if settings.get("deltalm_decoder_only"):
        # Its encoder is another Transformer; the one table that both use is the decoder's as well.
        state = {name: value for name, value in state.items() if name.startswith("decoder.")}
    if not settings.get("deltalm_description"):  # ours is DeltaLM's by construction
        _check_settings(path, settings)
    _drop_tied_projection(path, state)
    description = _describe(path, state, settings)
    return DeltaLMFile(description, state, checkpoint.get("task_state") or {})


def _settings(checkpoint: Mapping) -> dict:
    """The options that a fairseq checkpoint was trained with, flat."""
    cfg = checkpoint.get("cfg") or {}
    options = cfg.get("model") if isinstance(cfg, dict) else None
    options = options or checkpoint.get("args") or {}
    options = dict(vars(options)) if isinstance(options, Namespace) else dict(options)
    for side in ("encoder", "decoder"):
        if isinstance(options.get(side), dict):
            nested = {f"{side}_{key}": value for key, value in options[side].items()}
            options = {**nested, **options}
    return options


def _check_kind(path: str | os.PathLike, state: Mapping[str, Tensor]) -> None:
    needed = [
        "decoder.embed_tokens.weight",
        "decoder.embed_positions.weight",
        "decoder.layers.0.encoder_attn.q_proj.weight",
        "decoder.layers.0.fc1.weight",
        "decoder.layers.0.fc3.weight",
    ]
    missing = [name for name in needed if name not in state]
    if missing:
        raise CheckpointError(
            f"{path}: is no DeltaLM: it lacks {shorten(missing)}; expected learned positions and "
            "decoder layers with two feed-forward blocks (fc1, fc2 and fc3, fc4). A Transformer "
            "goes into --load-pretrained-mt-encoder-decoder-from of hubert_transformer"
        )


def _check_settings(path: str | os.PathLike, settings: Mapping) -> None:
    for name, expected in _SETTINGS.items():
        found = settings.get(name, expected)
        if str(found) != str(expected):
            raise CheckpointError(
                f"{path}: it was trained with {name}={found}, DeltaLM has {expected}: it is "
                "another kind of model"
            )


def _drop_tied_projection(path: str | os.PathLike, state: dict[str, Tensor]) -> None:
    projection = state.pop(PROJECTION, None)
    if projection is not None and not torch.equal(projection, state[TABLES[1]]):
        raise CheckpointError(
            f"{path}: its output projection is not the decoder's embedding; DeltaLM's is"
        )


def _describe(path, state: Mapping[str, Tensor], settings: Mapping) -> DeltaLMDescription:
    sides = {
        side: _describe_side(path, side, state, settings)
        for side in ("encoder", "decoder")
        if f"{side}.embed_positions.weight" in state
    }
    normed = {side: f"{side}.layernorm_embedding.weight" in state for side in sides}
    if len(set(normed.values())) > 1:
        raise CheckpointError(
            f"{path}: one of encoder and decoder has a layer norm on its embeddings, the other "
            "has none; expected both or neither"
        )
    encoder_table, decoder_table = (state.get(name) for name in TABLES)
    return DeltaLMDescription(
        encoder=sides.get("encoder"),
        decoder=sides["decoder"],
        layernorm_embedding=normed["decoder"],
        shared_embeddings=encoder_table is None or torch.equal(encoder_table, decoder_table),
    )


def _describe_side(path, side: str, state: Mapping[str, Tensor], settings: Mapping) -> Side:
    numbers = {
        int(match[1]) for name in state if (match := re.match(rf"{side}\.layers\.(\d+)\.", name))
    }
    first = state.get(f"{side}.layers.0.fc1.weight")
    if first is None or numbers != set(range(len(numbers))):
        raise CheckpointError(
            f"{path}: the layers of its {side} are {sorted(numbers)}; expected all from 0 on"
        )
    padding = 2  # fairseq's positions begin behind the index of the padding symbol, 1
    return Side(
        embed_dim=first.shape[1],
        ffn_embed_dim=first.shape[0],
        layers=len(numbers),
        positions=state[f"{side}.embed_positions.weight"].shape[0] - padding,
        attention_heads=settings.get(f"{side}_attention_heads"),
    )


def fit_vocabulary(
    state: dict[str, Tensor], entries: int, source: str | os.PathLike, tags: int = 0
) -> dict[str, Tensor]:
    """The tensors with the first ``entries`` rows of each embedding.

    The last ``tags`` entries, of target languages, may have no rows yet: they get that of the end
    of the sentence, in whose place they stand.

    DeltaLM's embedding has some rows more than its dictionary has entries.  A table of several
    times as many is cut as well, with a warning: the dictionary may be the model's first entries,
    or another one, whose words would get the rows of others.

    Raises:
        CheckpointError: the table has fewer rows than that.
    """
    fitted = dict(state)
    for name in TABLES:
        if name not in state:
            continue
        table = state[name]
        if entries - tags <= len(table) < entries:
            table = torch.cat([table, table[EOS].expand(entries - len(table), -1)])
        rows = len(table)
        if rows < entries:
            raise CheckpointError(
                f"{source}: {name} has {rows:,} rows, the dictionary {entries:,} entries: it is "
                "not this model's. Prepare the data with the sentencepiece model and the "
                "dictionary that come with it (prepare-mustc --spm-model … --dictionary …); "
                "'cress-svcd prune-vocabulary' makes model and dictionary smaller together"
            )
        if rows > MOST_SPARE_ROWS * entries:
            logger.warning(
                "%s: %s has %d rows, the dictionary only %d entries: THE FIRST %d ROWS ARE TAKEN, "
                "WHICH IS RIGHT ONLY IF THE DICTIONARY IS THE BEGINNING OF THE MODEL'S. Otherwise "
                "prepare the data with the model's own (prepare-mustc --spm-model … --dictionary "
                "…), or make both smaller together ('cress-svcd prune-vocabulary')",
                source,
                name,
                rows,
                entries,
                entries,
            )
        elif rows > entries:
            logger.info("%s: %s: the first %d of %d rows taken", source, name, entries, rows)
        fitted[name] = table[:entries]
    return fitted
