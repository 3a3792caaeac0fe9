"""Progressive schedules: how quantised a layer is at each update of a training.

Pure functions of the update number, so that a resumed training continues exactly; nothing of them
is stored.  Every schedule ends fully quantised.
"""

import dataclasses
import math
from collections.abc import Collection

from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.convert import quantized_layers
from cress_svcd.quantization.validation import require_choice

SHAPES = ("linear", "cosine")
SCHEDULES = ("none", "fade", "ternary")


@dataclasses.dataclass(frozen=True)
class Stage:
    """State of a schedule at one update.

    Attributes:
        mix: share of the quantised output, 0 to 1 (``QuantLinear.mix``).
        ternary: share of the ternary threshold that 1-bit layers still have, 1 to 0.
    """

    mix: float = 1.0
    ternary: float = 0.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a training leads full precision into few bits.

    Attributes:
        kind: "none" is quantised from the first update.  "fade" mixes full precision and the
            quantised output, the latter's share (lambda) growing from 0 to 1.  "ternary" fades into
            ternary weights during the first half of the warm-up, then shrinks the zone of the zeros
            to nothing during the second, so that ternary becomes binary without a jump (layers of
            methods that have no such way only fade).
        warmup: share of all updates that the transition takes, 0 to 1.
        shape: "linear", or "cosine" for a soft start and end.
    """

    kind: str = "none"
    warmup: float = 0.3
    shape: str = "linear"

    def __post_init__(self) -> None:
        require_choice("schedule.kind", self.kind, SCHEDULES)
        require_choice("schedule.shape", self.shape, SHAPES)
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"schedule.warmup: found {self.warmup!r}, expected 0 to 1")

    def stage(self, update: int, total: int) -> Stage:
        """The state for the update with this number, of ``total`` (counted from 0)."""
        length = self.warmup * total
        if self.kind == "none" or update >= length:
            return Stage()
        done = max(0.0, update / length)
        if self.kind == "fade":
            return Stage(mix=self._ramp(done))
        if done < 0.5:
            return Stage(mix=self._ramp(2 * done), ternary=1.0)
        return Stage(ternary=1 - self._ramp(2 * done - 1))

    def _ramp(self, done: float) -> float:
        """0 to 1 for 0 to 1."""
        return done if self.shape == "linear" else (1 - math.cos(math.pi * done)) / 2


def set_progress(model: nn.Module, update: int, total: int, schedule: Schedule) -> Stage:
    """Put every quantised layer of ``model`` into the schedule's state for this update.

    To be called before the update's forward pass; a model that is loaded for translation is fully
    quantised without it.

    Returns:
        The state, for logging.
    """
    stage = schedule.stage(update, total)
    set_stage(model, stage)
    return stage


def set_stage(model: nn.Module, stage: Stage, but: Collection[str] = ()) -> None:
    """Put every quantised layer of ``model`` into this state; ``Stage()`` is fully quantised.

    Args:
        but: names of layers that are left as they are.
    """
    for name, layer in quantized_layers(model).items():
        if name not in but:
            layer.set_progress(stage.mix, stage.ternary)


def weight_decay_factor(update: int, total: int, off_from: float = 2 / 3) -> float:
    """What to multiply the weight decay with: 1, and 0 from ``off_from`` of the training on.

    Source: TriLM (Kaushal et al. 2024), which trains the last third of its updates without.
    """
    return 0.0 if update >= off_from * total else 1.0
