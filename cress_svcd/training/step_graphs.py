"""Forward and backward pass of batches, captured as CUDA graphs by their shapes.

A shape is captured when it comes for the second time.  All graphs share one pool of memory, which
takes what the largest of them needs.  Randomness is drawn on the device from torch's generator,
whose seed a replay reads anew: a replay is no repetition.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import torch
from fairseq import utils
from torch import Tensor, nn

from cress_svcd.kernels.cuda_graph import GraphCapture
from cress_svcd.quantization import quantized_layers
from cress_svcd.training import captured_attention
from cress_svcd.training.device_update import DeviceUpdate
from cress_svcd.training.step_rows import StepRows

logger = logging.getLogger(__name__)

MAX_GRAPHS = 256  # shapes; each graph takes some ten megabytes of the host's memory
MAX_SEEN = 10_000  # shapes that are remembered, of states that a schedule has left too
SEEN = 1  # times that a shape has come before it is captured


@dataclasses.dataclass
class Done:
    """What a batch gave, its gradients aside.

    Attributes:
        size: tokens of it (sentences with --sentence-avg).
        keys, row: what is logged of it from the device, (keys).
        plain: what is logged of it that the host knows.
    """

    size: float
    keys: tuple[str, ...]
    row: Tensor
    plain: dict[str, float]

    @classmethod
    def all_of(cls, parts: list["Done"]) -> "Done":
        """What several batches gave together."""
        first, *others = parts
        return cls(
            sum(part.size for part in parts),
            first.keys,
            sum((part.row for part in others), first.row),
            {key: sum(part.plain[key] for part in parts) for key in first.plain},
        )


class _Graph:
    """A captured step: where its batch is copied to, what it logs, and what else it reads."""

    def __init__(self, sample: dict):
        self.sample = utils.apply_to_sample(torch.clone, sample)
        self.keys: tuple[str, ...] = ()
        self.row: Tensor | None = None
        self.held: list[Tensor] = []

    def fill(self, sample: dict) -> None:
        for own, new in zip(tensors_of(self.sample), tensors_of(sample), strict=True):
            own.copy_(new, non_blocking=True)


class StepGraphs:
    """Runs batches of a trainer, by graphs where it can."""

    def __init__(self, trainer, update: DeviceUpdate):
        self.trainer, self.update = trainer, update
        self.capture = GraphCapture(trainer.device)
        self._graphs: dict[tuple, tuple[_Graph, Any]] = {}
        self._seen: dict[tuple, int] = {}
        self._too_large: set[tuple] = set()  # shapes whose capture found no memory
        self.captures = True
        self._mix = torch.ones((), device=trainer.device)
        for layer in quantized_layers(trainer.model).values():
            layer.mix_on_device = self._mix
        captured_attention.install(self._models())

    def begin_step(self) -> None:
        """Read what the schedule of quantised layers says of this update."""
        stage = getattr(self.trainer.model, "quantization_stage", None)
        if stage is not None:
            self._mix.fill_(stage.mix)

    def run(self, sample: dict) -> Done:
        """Add the gradients of ``sample`` to those of the parameters."""
        trainer = self.trainer
        state = trainer.task.step_state(trainer.model, trainer.criterion)
        key = (state, sample.get("mode"), shapes_of(sample))
        found = self._graphs.get(key)
        if found is None and self._is_worth(key, sample):
            found = self._captured(key, sample)
        if found is None:
            return self._run(sample)
        graph, replay = found
        graph.fill(sample)
        replay()
        plain = trainer.criterion.plain_log(sample)
        return Done(plain["sample_size"], graph.keys, graph.row.clone(), plain)

    def _is_worth(self, key: tuple, sample: dict) -> bool:
        """Whether to capture this shape now."""
        if not self.captures or len(self._graphs) >= MAX_GRAPHS or key in self._too_large:
            return False
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen[key] = seen = self._seen.get(key, 0) + 1
        if seen <= SEEN:
            return False
        why_not = getattr(self.trainer.criterion, "why_not_captured", lambda sample: None)
        reason = why_not(sample)
        if reason and seen == SEEN + 1:
            logger.info("a step is not captured: %s", reason)
        return reason is None

    def _run(self, sample: dict) -> Done:
        loss, size, logged = self.trainer.criterion(self.trainer.model, sample)
        (loss * self.update.scale).backward()
        tensors, plain = StepRows.split(logged)
        return Done(float(size), tuple(sorted(tensors)), StepRows.as_row(tensors), plain)

    def _captured(self, key: tuple, sample: dict) -> tuple[_Graph, Any] | None:
        """A graph of the step for batches like ``sample``, which is not run here; None where there
        can be none.  A device without graphs has the step itself in its place."""
        graph = _Graph(sample)

        def step() -> None:
            done = self._run(graph.sample)
            graph.keys, graph.row = done.keys, done.row.detach()

        state = torch.get_rng_state()
        replay = self._replay_of(step)
        torch.set_rng_state(state)  # of which a replay draws nothing
        shapes = " ".join(map(str, shapes_of(sample)))
        if replay is not step:
            logger.info("captured step %d: %s", len(self._graphs) + 1, shapes)
        elif self.capture.captures:
            self._too_large.add(key)
            logger.warning(
                "a step is not captured for want of memory, and runs kernel by kernel: %s", shapes
            )
            return None
        elif self.trainer.device.type == "cuda":  # its warning says why
            self.captures = False
            return None
        else:
            logger.info(
                "step %d as a captured one, without a graph: %s", len(self._graphs) + 1, shapes
            )
        graph.held = self._beside_parameters()
        found = self._graphs[key] = graph, replay
        return found

    def _replay_of(self, step: Callable[[], None]) -> Callable[[], None]:
        """``step`` captured; where that fails with attention by cuDNN, without it."""
        has_graphs = self.capture.captures
        replay = self.capture.capture(step, warmed=True)
        failed = has_graphs and not self.capture.captures
        if failed and captured_attention.leave_out(self._models()):
            logger.warning("the same once more, with attention as torch chooses it")
            self.capture.captures = True
            replay = self.capture.capture(step, warmed=True)
        return replay

    def _beside_parameters(self) -> list[Tensor]:
        """Tensors that modules have made for themselves, such as masks and positions.

        fairseq replaces them when a longer batch comes; a graph still reads those of its capture.
        """
        return [
            value
            for model in self._models()
            for module in model.modules()
            for value in (*vars(module).values(), *module.buffers(recurse=False))
            if isinstance(value, Tensor)
        ]

    def _models(self) -> list[nn.Module]:
        """All that a step runs through."""
        models = [self.trainer.model, self.trainer.criterion]
        distillation = getattr(self.trainer.criterion, "distillation", None)
        return models if distillation is None else [*models, distillation.teacher]


def tensors_of(sample: Any) -> list[Tensor]:
    """All tensors of a batch, in the order of its keys and lists."""
    if isinstance(sample, Tensor):
        return [sample]
    if isinstance(sample, dict):
        return [tensor for key in sorted(sample) for tensor in tensors_of(sample[key])]
    if isinstance(sample, list):
        return [tensor for part in sample for tensor in tensors_of(part)]
    return []


def shapes_of(sample: dict) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors_of(sample))
