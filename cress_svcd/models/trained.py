"""A trained model out of its checkpoint, to be looked at rather than trained."""

import os

from fairseq import models
from fairseq.models import ARCH_MODEL_REGISTRY, BaseFairseqModel
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf

from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoint_files import explained_model
from cress_svcd.models.checkpoints import read_checkpoint, require_dictionary


def load_trained(path: str | os.PathLike, task: FairseqTask) -> BaseFairseqModel:
    """The model in a checkpoint of fairseq-train: on the CPU, in eval mode, never to be trained.

    It takes what the task's data holds: audio, or with --feature-cache features.
    Unlike fairseq's loader it leaves ``task`` as it is: that one would have the task generate with
    this model in validation.

    Raises:
        CheckpointError: the file is damaged, of another dictionary than the task's, or its model
            cannot be built.
        ConfigError: the task's cached features are not of its speech encoder.
    """
    state = read_checkpoint(path)
    options = (state.get("cfg") or {}).get("model")
    if not options or not isinstance(state.get("model"), dict):
        raise CheckpointError(
            f"{path}: holds no 'model' with its options ('cfg.model'); expected a checkpoint of "
            "fairseq-train"
        )
    architecture = ARCH_MODEL_REGISTRY.get(options.get("_name"))
    if not hasattr(architecture, "complete_config"):
        raise CheckpointError(
            f"{path}: is of arch {options.get('_name')!r}; expected a translation model of this "
            "project's archs"
        )
    require_dictionary(state, path, task.dictionary_digest)
    with explained_model(path, task=task):
        cfg = OmegaConf.create(options)
        model = models.build_model(cfg, task, from_checkpoint=True)
        model.load_state_dict(state["model"], strict=True, model_cfg=cfg)
    if getattr(task, "cached_encoder", None):
        task.feed_cached_features(model)
    return model.requires_grad_(False).eval()
