"""fairseq's trainer for ``--ddp-backend fully_sharded``."""

import functools
import logging

import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from fairseq.trainer import Trainer
from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.training import sharding

logger = logging.getLogger(__name__)

LAYERS = (TransformerEncoderLayerBase, TransformerDecoderLayerBase, TransformerSentenceEncoderLayer)


class ShardedTrainer(Trainer):
    """The same training; each process keeps its share of parameters, gradients and moments.

    A teacher is no part of the model and stays whole in every process.  Checkpoints are whole, and
    those of any other training: the processes send their shares to the first, which writes.

    Raises:
        ConfigError: an option or the model does not go with it.
    """

    is_fsdp = False  # fairseq's ways for fairscale
    in_step = False
    whole_state: dict | None = None

    def __init__(self, cfg, task, model, criterion, *args, **kwargs):
        check_options(cfg, model, criterion)
        # Neither can a flat copy of all parameters be made of shares, nor can apex read them.
        cfg.common.fp16_no_flatten_grads = True
        if "use_old_adam" in cfg.optimizer:
            cfg.optimizer.use_old_adam = True
        super().__init__(cfg, task, model, criterion, *args, **kwargs)

    @property
    def model(self) -> nn.Module:
        """The model itself, sharded in place."""
        if self._wrapped_model is None:
            if not sharding.is_sharded(self._model):
                self._shard()
            self._wrapped_model = self._model
        return self._wrapped_model

    def _shard(self) -> None:
        options, model = self.cfg.distributed_training, self._model
        sharding.shard(
            model,
            LAYERS,
            self.data_parallel_process_group,
            self.device,
            reshard=not options.no_reshard_after_forward,
            reduce_dtype=torch.float32 if options.fp32_reduce_scatter else None,
        )
        logger.info(
            "fully sharded: %d of %d elements of the parameters are in this process",
            sharding.here(model.parameters()),
            sum(parameter.numel() for parameter in model.parameters()),
        )

    def _build_optimizer(self):
        super()._build_optimizer()
        optimizer = self._optimizer
        inner = getattr(optimizer, "fp32_optimizer", optimizer)  # what --fp16 and --bf16 wrap
        load = optimizer.load_state_dict

        def clip_grad_norm(max_norm, aggregate_norm_fn=None):
            return sharding.clip_grad_norm(list(inner.params), max_norm)

        @functools.wraps(load)
        def load_state_dict(state_dict, optimizer_overrides=None):
            placed = sharding.place_optimizer_state(state_dict, inner.param_groups)
            if "fp32_params" in placed and inner is not optimizer:
                copies = zip(placed["fp32_params"], optimizer.fp32_params)
                placed["fp32_params"] = [sharding.like(value, copy) for value, copy in copies]
            load(placed, optimizer_overrides)

        inner.clip_grad_norm = clip_grad_norm
        optimizer.load_state_dict = load_state_dict

    def train_step(self, *args, **kwargs):
        self.in_step = True
        result = super().train_step(*args, **kwargs)
        self.in_step = False
        return result

    def valid_step(self, *args, **kwargs):
        if not getattr(self.task.cfg, "eval_bleu", False):
            return super().valid_step(*args, **kwargs)
        # The processes translate in different numbers of steps.
        with sharding.whole(self.model):
            return super().valid_step(*args, **kwargs)

    def consolidate_optimizer(self):
        """Gather the whole state in the first process.

        fairseq calls it in all processes before it saves; and after a failure in a training step,
        when the others may wait for something else.
        """
        super().consolidate_optimizer()
        if self.in_step:
            return
        state, keep = super().state_dict(), self.is_data_parallel_master
        model = sharding.gather_model(self.model, state.pop("model"), keep)
        rest = sharding.gather(state, keep)
        self.whole_state = {**rest, "model": model} if keep else None

    def state_dict(self) -> dict:
        """What :meth:`consolidate_optimizer` gathered, in the first process."""
        return self.whole_state

    def save_checkpoint(self, filename, extra_state):
        if self.in_step:
            logger.warning("%s: not written, since the training is fully sharded", filename)
            return None
        try:
            return super().save_checkpoint(filename, extra_state)
        finally:
            self.whole_state = None


def check_options(cfg, model: nn.Module, criterion: nn.Module) -> None:
    """Raise ConfigError for what does not go with sharding."""
    distributed, common = cfg.distributed_training, cfg.common
    drops_layers = any(getattr(module, "layerdrop", 0) > 0 for module in model.modules())
    obstacles = {
        "a single process (start several: torchrun --nproc-per-node N)": (
            distributed.distributed_world_size == 1
        ),
        "--amp (give --fp16 or --bf16)": common.amp,
        "--memory-efficient-fp16 (give --fp16: its fp32 copies are sharded)": (
            common.memory_efficient_fp16
        ),
        "--memory-efficient-bf16 (give --bf16: its fp32 copies are sharded)": (
            common.memory_efficient_bf16
        ),
        "--cpu-offload": distributed.cpu_offload,
        "--use-sharded-state (checkpoints are whole)": distributed.use_sharded_state,
        "--zero-sharding (it is built in)": distributed.zero_sharding != "none",
        "--use-bmuf": cfg.optimization.use_bmuf,
        "--store-ema": cfg.ema.store_ema,
        "--hubert-layerdrop (the processes would drop different layers)": drops_layers,
        f"--criterion {cfg.criterion._name}, which has parameters": (
            next(criterion.parameters(), None) is not None
        ),
    }
    found = [obstacle for obstacle, present in obstacles.items() if present]
    if found:
        raise ConfigError(
            f"--ddp-backend fully_sharded does not go with {', '.join(found)}: leave that out, or "
            "give --ddp-backend legacy_ddp, where memory is short with --checkpoint-activations "
            "and smaller batches (--max-tokens) but a larger --update-freq"
        )
