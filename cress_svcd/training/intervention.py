"""Teacher Intervention (Kim et al. 2023, arXiv:2302.11812): the teacher's signals in the student.

A quantised layer passes its errors on to all layers behind it, which learn to make up for them
instead of for their own.  So the student's attention (or whole layers) puts out what the teacher's
does, at first, and its own by and by:

    output = share * teacher's + (1 - share) * student's,    share falls from 1 to 0

The paper replaces attention outputs (TI-O) or attention maps (TI-M), and ends that in steps (TI-G);
here any module's outputs are replaced, and the share falls linearly with the updates.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cress_svcd.errors import ConfigError
from cress_svcd.models.states import Calls


@dataclass
class InterventionOptions:
    """Options; with a warm-up of 0 the teacher does not intervene."""

    intervention_warmup: int = field(
        default=0,
        metadata={
            "help": "updates in which the outputs of --intervention-layers go from the teacher's "
            "to the student's own (Teacher Intervention); 0: they are the student's"
        },
    )
    intervention_layers: str = field(
        default="encoder.layers.*.self_attn,decoder.layers.*.self_attn,"
        "decoder.layers.*.encoder_attn",
        metadata={
            "help": "modules in which the teacher intervenes, comma separated; * is any, -1 the "
            "last; attentions, or whole layers such as decoder.layers.*"
        },
    )


def check_options(options: InterventionOptions, has_teacher: bool) -> None:
    """Raise ConfigError for what is out of range, or has no teacher."""
    if options.intervention_warmup < 0:
        raise ConfigError(
            f"--intervention-warmup {options.intervention_warmup}: expected 0 or more"
        )
    if options.intervention_warmup and not has_teacher:
        raise ConfigError("--intervention-warmup needs --teacher-model")


def share_of_teacher(options: InterventionOptions, updates: int) -> float:
    """The share after so many updates."""
    if options.intervention_warmup <= 0:
        return 0.0
    return max(0.0, 1 - updates / options.intervention_warmup)


@contextlib.contextmanager
def intervening(modules: dict[str, nn.Module], signals: dict[str, Calls], share: float) -> Iterator:
    """Context in which ``modules`` of the student put out a share of the teacher's signals.

    Args:
        modules: by name, as in ``signals``.
        signals: the teacher's outputs of the same calls, in their order.
        share: of them, 0 to 1.
    """

    def let_in(name: str):
        calls = iter(signals[name])

        def replace(module: nn.Module, inputs: tuple, output: Any) -> Any:
            theirs, _ = next(calls)
            state, *rest = output if isinstance(output, tuple) else (output,)
            mixed = mix(state, theirs, share)
            return (mixed, *rest) if isinstance(output, tuple) else mixed

        return replace

    handles = [module.register_forward_hook(let_in(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mix(own: Tensor, theirs: Tensor, share: float) -> Tensor:
    """The student's output with a share of the teacher's, of one shape; gradients reach the
    student's."""
    return torch.lerp(own, theirs.detach().to(own.dtype), share)
