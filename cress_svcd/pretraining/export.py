"""Writing a HuBERT checkpoint in the form of the released ones."""

import logging
import os
import warnings
from collections.abc import Mapping

import torch
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf
from torch import Tensor

from cress_svcd.atomic_files import replacing
from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoints import shorten, transfer
from cress_svcd.pretraining.ctc_hubert import LETTERS_HEAD

logger = logging.getLogger(__name__)

# What CTC training may lack: without masking the embedding of masked frames does not exist.
_OPTIONAL = {"mask_emb"}


def export_hubert(
    path: str | os.PathLike, trained: Mapping, source: str | os.PathLike, seed: int
) -> HubertModel:
    """Write a training checkpoint's encoder as fairseq's ``hubert`` of task ``hubert_pretraining``.

    The file holds plain containers, tensors and the units' dictionary; no paths of this machine,
    no optimizer, no times: the same weights give the same bytes.

    Args:
        path: to write, all or nothing.
        trained: a checkpoint of our pretraining (model ``hubert`` or ``ctc_hubert``), as read.
        source: where it was read, for messages.
        seed: for parameters that it lacks (the embedding of masked frames, if none were masked).
    Returns:
        fairseq's own model with the exported weights.
    """
    units = trained["task_state"]["dictionaries"][0]
    task = _task_config(trained["cfg"]["task"])
    model = _model_config(trained["cfg"]["model"], task["label_rate"])
    state = {
        name: tensor.float()
        for name, tensor in trained["model"].items()
        if not name.startswith(LETTERS_HEAD)
    }
    hubert = _build(model, task, units, state, source, seed)
    # Given a name, torch.save would store it: an open file leaves the same bytes each time.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(_checkpoint(model, task, units, hubert.state_dict()), file)
    logger.info("wrote %s: %.1f M parameters", path, _count(hubert) / 1e6)
    return hubert


def _task_config(trained: Mapping) -> dict:
    """The fields of fairseq's task, with nothing that only holds on this machine."""
    known = HubertPretrainingConfig.__dataclass_fields__
    fields = {key: trained[key] for key in known if key in trained}
    return {**fields, "_name": "hubert_pretraining", "data": "", "label_dir": None}


def _model_config(trained: Mapping, label_rate: float) -> dict:
    fields = {key: trained[key] for key in HubertConfig.__dataclass_fields__ if key in trained}
    return {**fields, "_name": "hubert", "label_rate": label_rate}


def _build(
    model: dict,
    task: dict,
    units: Dictionary,
    state: dict[str, Tensor],
    source: str | os.PathLike,
    seed: int,
) -> HubertModel:
    """fairseq's model with the trained weights.

    Raises CheckpointError unless they are all of its weights.
    """
    schema = OmegaConf.structured(HubertConfig)
    cfg = OmegaConf.merge(schema, {k: v for k, v in model.items() if k in schema})
    task_cfg = OmegaConf.structured(HubertPretrainingConfig(data=""))
    task_cfg.sample_rate = task["sample_rate"]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # fairseq's positional convolution uses torch's old weight_norm; its names are the format.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        hubert = HubertModel(cfg, task_cfg, [units])
    report = transfer(hubert, state, source)
    missing = [name for name in report.missing if name not in _OPTIONAL]
    if missing or report.unused:
        raise CheckpointError(
            f"{source}: not a HuBERT under training; missing: {shorten(missing) or 'none'}; "
            f"unknown: {shorten(report.unused) or 'none'}"
        )
    return hubert


def _checkpoint(model: dict, task: dict, units: Dictionary, state: Mapping[str, Tensor]) -> dict:
    """All keys that fairseq's ``load_checkpoint_to_cpu`` asks for."""
    return {
        "args": None,
        "cfg": {"task": task, "model": model},
        "model": dict(state),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "HubertCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": 0,
            }
        ],
        "task_state": {"dictionaries": [units]},
        "extra_state": {"train_iterator": {"epoch": 1}, "metrics": {}, "val_loss": None},
        "last_optimizer_state": None,
    }


def _count(hubert: HubertModel) -> int:
    return sum(parameter.numel() for parameter in hubert.parameters())
