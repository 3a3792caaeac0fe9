"""A quantised checkpoint as a packed file."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from cress_svcd.data.config import DataConfig, dictionary_digest, find_data, load_dictionary
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.inference.packed_checkpoint import write_packed
from cress_svcd.inference.packed_tensors import Precision, pack_tensors
from cress_svcd.inference.size_report import size_report
from cress_svcd.models.binary_attention import require_softmax
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.models.low_bit_options import trained_bits
from cress_svcd.quantization.low_bit_grid import LowBits

logger = logging.getLogger(__name__)

# Of a checkpoint, besides its model: what cuts recordings as its corpus is cut.
CARRIED = ("segmenter",)
# Options that name files of the training, which no packed model needs: of the model, and of the
# task.  A path would tell where it was trained, and make the file as much longer.
FILES = (
    "finetuned_st_model",
    "hubert_model_path",
    "load_pretrained_mt_encoder_decoder_from",
    "deltalm_model_path",
)
TASK_FILES = ("data", "feature_cache", "save_dir", "restore_file")


def pack_checkpoint(
    checkpoint: Path,
    output: Path,
    precision: Precision,
    data: Path | None = None,
    allow_full: bool = False,
) -> dict[str, Any]:
    """Write the packed form of a quantised ``checkpoint`` to ``output``, all or nothing.

    Args:
        data: folder with the vocabulary; by default where it was trained, or next to it.
        allow_full: take a checkpoint without quantised layers, too.
    Returns:
        ``size_report``, and ``file_bytes``.
    Raises:
        CheckpointError, ConfigError: it cannot be packed so.
    """
    state = read_checkpoint(checkpoint)
    model = (state.get("cfg") or {}).get("model")
    if not isinstance(model, dict) or not isinstance(state.get("model"), dict):
        raise CheckpointError(
            f"{checkpoint}: holds no 'model' with its options ('cfg.model'); expected a "
            "checkpoint of fairseq-train"
        )
    require_packable(model, precision, checkpoint)
    layers = json.loads(model.get("quantization_map") or "{}")
    if not layers and not allow_full:
        raise CheckpointError(
            f"{checkpoint}: nothing in it is quantised (arch {model.get('_name')}): train it "
            "with --arch quant_transformer first, or give --allow-full to convert the precision of "
            "a full-precision model alone"
        )
    precision = with_trained_bits(precision, model, checkpoint)
    try:
        tensors, description = pack_tensors(state["model"], layers, precision)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{checkpoint}: {error}") from None
    vocabulary = vocabulary_of(state, checkpoint, data)
    task = task_options(state["cfg"].get("task"), bool(vocabulary))
    history = {
        "criterion_name": "",
        "optimizer_name": "",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    write_packed(
        output,
        {
            "args": None,
            "cfg": {"task": task, "model": options(model, description, precision.keep_ctc_head)},
            "criterion": None,
            "extra_state": {"train_iterator": {"epoch": 1}},
            "model": tensors,
            "optimizer_history": [history],
            "task_state": {"dictionary_digest": digest_in(state)} if digest_in(state) else {},
            "vocabulary": vocabulary,
            **{key: state[key] for key in CARRIED if key in state},
        },
    )
    return size_report(tensors, description) | {"file_bytes": output.stat().st_size}


def with_trained_bits(precision: Precision, model: dict, checkpoint: Path) -> Precision:
    """``precision`` with the bits that the checkpoint was trained at.

    Raises:
        ConfigError: it asks for others.
    """
    try:
        trained = dataclasses.asdict(trained_bits(model))
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint}: cfg.model: {error}; copy it again") from None
    asked = dataclasses.asdict(precision.low_bits)
    for kind, bits in trained.items():
        if bits and asked[kind] not in (None, bits):
            raise ConfigError(
                f"{checkpoint}: --{kind}-bits {asked[kind]}: it was trained at {bits} with "
                f"--quant-{kind}-bits: leave --{kind}-bits out"
            )
    found = {kind: trained[kind] or asked[kind] for kind in trained}
    return dataclasses.replace(precision, low_bits=LowBits(**found))


def require_packable(model: dict, precision: Precision, checkpoint: Path) -> None:
    """Raise CheckpointError or ConfigError for what no packed model can do, or this one cannot."""
    if precision.keep_ctc_head and not model.get("ctc_head"):
        raise CheckpointError(
            f"{checkpoint}: has no CTC head to keep; expected a training with --ctc-head, or leave "
            "--keep-ctc-head out"
        )
    try:
        require_softmax(model)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint}: {error}") from None


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: what the file's digest is computed from."""
    return json.loads(json.dumps(value))


def options(model: dict, description: dict, ctc_head: bool) -> dict:
    """The model's options in the packed file."""
    kept = {name: None if name in FILES else value for name, value in model.items()}
    kept["ctc_head"] = ctc_head
    if "quant_policy" in kept:
        kept["quant_policy"] = ""  # a file's name, perhaps; the description has what it said
    for name in {"quantization_map", "quantization_begun"} & kept.keys():
        kept[name] = ""
    return plain({**kept, "packed": json.dumps(description)})


def task_options(task: dict | None, has_vocabulary: bool) -> dict | None:
    """The task's options in the packed file: with a vocabulary of its own, it needs no folder."""
    dropped = {name for name in TASK_FILES if has_vocabulary or name != "data"}
    kept = {name: "" if name in dropped else value for name, value in (task or {}).items()}
    if kept.get("text_data"):
        kept["text_data"] = "."  # --ext-mt-training needs one
    return plain(kept) if task else None


def digest_in(state: dict) -> str | None:
    return (state.get("task_state") or {}).get("dictionary_digest")


def vocabulary_of(state: dict, checkpoint: Path, given: Path | None) -> dict[str, Tensor]:
    """The files that the task reads from its data folder, as bytes; empty if there are none.  An
    unpacked model has them still.

    Raises:
        ConfigError: the ``given`` folder lacks them.
        CheckpointError: they are not those of the checkpoint.
    """
    if state.get("vocabulary") and not given:
        return state["vocabulary"]
    task = state["cfg"].get("task") or {}
    name = task.get("config_yaml") or "config.yaml"
    try:
        folder = find_data(checkpoint, task.get("data") or "", name, given)
        data = DataConfig(folder / name)
    except ConfigError as error:
        if given:
            raise
        logger.warning("the vocabulary is not taken into the file: %s", error)
        return {}
    digest = dictionary_digest(load_dictionary(data.dictionary_path))
    if digest_in(state) not in (None, digest):
        raise CheckpointError(
            f"{checkpoint}: it was trained with another dictionary than {data.dictionary_path}; "
            "give --data the folder that it was trained with"
        )
    config = {key: value for key, value in data.config.items() if key != "audio_root"}
    files: dict[str, bytes] = {}
    own = Path(name).name

    def take(path: Path) -> str:
        """Take in a file, wherever it lies; returns its name in the packed model."""
        taken = path.name
        while taken in (own, *files):
            taken = f"_{taken}"
        files[taken] = path.read_bytes()
        return taken

    config["vocab_filename"] = take(data.dictionary_path)
    tokenizer = data.bpe_tokenizer
    if "sentencepiece_model" in tokenizer:
        model = take(Path(tokenizer["sentencepiece_model"]))
        config["bpe_tokenizer"] = {**tokenizer, "sentencepiece_model": model}
    files[own] = yaml.safe_dump(config, allow_unicode=True).encode()
    return {
        name: torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
        for name, content in files.items()
    }
