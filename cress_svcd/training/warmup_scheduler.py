"""The scheduler that the method's description names without defining it."""

from dataclasses import dataclass, field

from fairseq.optim.lr_scheduler import register_lr_scheduler
from fairseq.optim.lr_scheduler.inverse_square_root_schedule import (
    InverseSquareRootLRScheduleConfig,
    InverseSquareRootSchedule,
)

from cress_svcd.errors import ConfigError


@dataclass
class WarmupConfig(InverseSquareRootLRScheduleConfig):
    """The options of fairseq's ``inverse_sqrt``, explained."""

    warmup_updates: int = field(
        default=4000,
        metadata={
            "help": "the learning rate rises linearly to --lr over so many updates, then falls "
            "with the inverse square root of the update (inverse_sqrt, WarmupLRScheduler)"
        },
    )


@register_lr_scheduler("WarmupLRScheduler", dataclass=WarmupConfig)
class WarmupSchedule(InverseSquareRootSchedule):
    """Linear warm-up over ``--warmup-updates``, then decay by the inverse square root.

    The method's description passes ``--lr-scheduler WarmupLRScheduler`` with
    ``--warmup-updates 4000``; fairseq has no such scheduler.  This is fairseq's ``inverse_sqrt``
    under that name.

    Raises:
        ConfigError: no warm-up is asked for, from which the decay could not start.
    """

    def __init__(self, cfg: WarmupConfig, optimizer):
        if cfg.warmup_updates < 1:
            raise ConfigError(
                f"--warmup-updates {cfg.warmup_updates}: WarmupLRScheduler needs 1 or more; "
                "--lr-scheduler fixed keeps the learning rate as it is"
            )
        super().__init__(cfg, optimizer)
