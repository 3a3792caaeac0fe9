"""A batch that does not fit the memory is run in parts, whose gradients are added.

An update stays what the training's options say, whatever the GPU: --max-tokens may be as large as
the update, and the memory decides in how many parts a shape runs, found when it comes first.
"""

import logging
from typing import Any

import torch
from torch import Tensor

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.dataset import SAMPLES_A_FRAME
from cress_svcd.errors import ConfigError
from cress_svcd.training.device_update import DeviceUpdate
from cress_svcd.training.step_graphs import Done, StepGraphs, shapes_of

logger = logging.getLogger(__name__)

COUNTED = ("ntokens", "ntokens_list", "predicted")


class SplitBatches:
    """Runs batches by ``graphs``, in as many parts as the memory demands."""

    def __init__(self, graphs: StepGraphs, update: DeviceUpdate):
        self.graphs, self.update = graphs, update
        self._before = torch.empty_like(update.gradients)
        self._parts: dict[tuple, int] = {}

    def run(self, sample: dict) -> Done:
        """Add the gradients of ``sample`` to those of the parameters.

        Raises:
            ConfigError: a segment alone does not fit.
        """
        shapes = shapes_of(sample)
        parts = self._parts.get(shapes, 1)
        self._before.copy_(self.update.gradients)
        while True:
            try:
                done = []
                for part in split(sample, parts):
                    done.append(self.graphs.run(part))
                break
            except torch.OutOfMemoryError as error:
                if parts >= len(sample["id"]):
                    raise ConfigError(_too_long(part)) from error
            # Outside of the except clause, whose traceback holds what filled the memory.
            self.update.gradients.copy_(self._before)
            if self.update.gradients.is_cuda:
                torch.cuda.empty_cache()
            parts *= 2
            self._parts[shapes] = parts
            logger.info(
                "a batch does not fit the memory; in %d parts from now on: %s", parts, shapes
            )
        return Done.all_of(done)


def _too_long(part: dict) -> str:
    """What is wrong where ``part``, of one segment, does not fit the memory."""
    inputs = part["net_input"]
    source = inputs["src_tokens"] if "src_tokens" in inputs else inputs["source"]
    length = source.size(1)
    if source.is_floating_point():
        if source.dim() > 2:  # features
            length *= SAMPLES_A_FRAME
        what = f"segment, padded to {length} samples ({length / SAMPLE_RATE:.1f} s)"
        option = "--max-audio-positions; of pretraining: task.max_sample_size"
    else:
        what = f"sentence pair, padded to {length} tokens,"
        option = "--max-source-positions, --max-target-positions"
    return (
        f"a single {what} does not fit the memory of the device: leave out the longest (a lower "
        f"{option}), or save memory (--fp16, --checkpoint-activations)"
    )


def split(sample: dict, parts: int) -> list[dict]:
    """``sample`` in up to so many parts, all but the last with as many segments.

    What the host has counted of the whole (COUNTED) is counted in the first part.
    """
    rows = len(sample["id"])
    if parts == 1:
        return [sample]
    size = -(-rows // parts)
    found = [_rows(sample, rows, start, start + size) for start in range(0, rows, size)]
    for part in found:
        part["nsentences"] = len(part["id"])
    for part in found[1:]:
        part.update({key: _nothing(part[key]) for key in COUNTED if key in part})
    return found


def _nothing(count: Any) -> Any:
    return type(count)(map(_nothing, count)) if isinstance(count, list | tuple) else 0


def _rows(value: Any, rows: int, start: int, end: int) -> Any:
    if isinstance(value, dict):
        return {key: _rows(item, rows, start, end) for key, item in value.items()}
    if isinstance(value, list):
        return [_rows(item, rows, start, end) for item in value]
    if isinstance(value, Tensor) and value.dim() and value.size(0) == rows:
        return value[start:end]
    return value
