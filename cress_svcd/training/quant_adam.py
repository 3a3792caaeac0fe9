"""An Adam that treats the parameters of quantised layers apart."""

from dataclasses import dataclass, field

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import II

from cress_svcd.errors import ConfigError
from cress_svcd.quantization import weight_decay_factor

OTHER = "other"


@dataclass
class QuantAdamConfig(FairseqAdamConfig):
    """Options of ``adam``, and those of the groups."""

    vector_lr_scale: float = field(
        default=1.0,
        metadata={
            "help": "learning rate of the scales of quantised layers (g, h, steps, norms), as a "
            "multiple of --lr"
        },
    )
    latent_lr_scale: float = field(
        default=1.0,
        metadata={
            "help": "learning rate of the weights of quantised layers, as a multiple of --lr"
        },
    )
    weight_decay_until: float = field(
        default=2 / 3,
        metadata={
            "help": "share of --max-update after which --weight-decay is off (TriLM: two thirds); "
            "1 keeps it on"
        },
    )
    max_update: int = II("optimization.max_update")


@register_optimizer("quant_adam", dataclass=QuantAdamConfig)
class QuantAdam(FairseqAdam):
    """``adam`` with learning rates of their own for scales and latent weights of quantised layers.

    Scales never decay: decay would pull them to zero.  Weight decay ends after
    ``weight_decay_until`` of the training.  A parameter names its group by its attribute
    ``param_group`` ("vectors", "latent"; else the rest), which a quantised model sets and fairseq
    hands on to the fp32 copies of --fp16.  In one flat copy of all parameters there are no groups:
    with --fp16 this needs --fp16-no-flatten-grads, which the command line sets by itself.

    torch's AdamW updates all parameters of a group by a few calls; its epsilon is added after the
    correction of the bias, fairseq's before.

    Raises:
        ConfigError: an option is out of range, or decay is to end in a training without an end.
    """

    def __init__(self, cfg: QuantAdamConfig, params):
        FairseqOptimizer.__init__(self, cfg)
        _check(cfg)
        scales = {OTHER: 1.0, "latent": cfg.latent_lr_scale, "vectors": cfg.vector_lr_scale}
        members: dict[str, list] = {name: [] for name in scales}
        for parameter in params:
            kind = getattr(parameter, "param_group", OTHER)
            members[kind if kind in scales else OTHER].append(parameter)
        self._scales = [scales[name] for name in scales if members[name]]
        self._decays = [
            0.0 if name == "vectors" else cfg.weight_decay for name in scales if members[name]
        ]
        self._optimizer = torch.optim.AdamW(
            [{"params": members[name]} for name in scales if members[name]], **self.optimizer_config
        )
        self._updates = 0
        self.set_lr(self.optimizer_config["lr"])
        self._set_decay()

    def get_lr(self) -> float:
        """Of the parameters outside quantised layers."""
        return self._lr

    def set_lr(self, lr: float) -> None:
        self._lr = lr
        for group, scale in zip(self.param_groups, self._scales):
            group["lr"] = lr * scale

    def set_num_updates(self, num_updates: int) -> None:
        """Called by the task before each step, with the updates made so far."""
        self._updates = num_updates
        self._set_decay()

    def _set_decay(self) -> None:
        factor = 1.0
        if self.cfg.weight_decay and self.cfg.weight_decay_until < 1:
            until = self.cfg.weight_decay_until
            factor = weight_decay_factor(self._updates, self.cfg.max_update, until)
        for group, decay in zip(self.param_groups, self._decays):
            group["weight_decay"] = factor * decay

    def load_state_dict(self, state_dict, optimizer_overrides=None) -> None:
        """Moments from the checkpoint; rates and decays as configured now."""
        super().load_state_dict(state_dict, optimizer_overrides)
        self.set_lr(self._lr)
        self._set_decay()


def _check(cfg: QuantAdamConfig) -> None:
    for name in ("vector_lr_scale", "latent_lr_scale"):
        if getattr(cfg, name) < 0:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} {getattr(cfg, name)}: expected 0 or more")
    if not 0 <= cfg.weight_decay_until <= 1:
        raise ConfigError(f"--weight-decay-until {cfg.weight_decay_until}: expected 0 to 1")
    if cfg.weight_decay and cfg.weight_decay_until < 1 and cfg.max_update <= 0:
        raise ConfigError(
            f"--weight-decay-until {cfg.weight_decay_until} is a share of --max-update: give that, "
            "or --weight-decay-until 1"
        )
