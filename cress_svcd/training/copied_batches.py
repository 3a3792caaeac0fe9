"""Batches copied to the device while the steps before them run.

The host launches a step and goes on to the next batch at once.  On the steps' own stream its copy
would wait for all that was launched before, and of memory that is not pinned the host would wait
for it.
"""

import collections
import functools
from collections.abc import Callable

import torch
from fairseq import utils
from torch import Tensor

from cress_svcd.kernels.cuda_graph import GraphCapture
from cress_svcd.training.step_graphs import tensors_of

AHEAD = 4  # batches that wait on the device for their step, at most


class CopiedBatches:
    """Copies batches for steps that run on the stream of ``capture``."""

    def __init__(self, capture: GraphCapture):
        self.capture = capture
        on_device = capture.device.type == "cuda"
        # Not the stream of captures, either.  When a loader's thread drops a pinned batch, torch
        # records an event on each stream that has read it, and asks for it later.  One that was
        # recorded on a stream in capture cannot be asked for: the thread would die.
        self._stream = _stream(capture.device) if on_device else None
        self._steps: collections.deque[torch.cuda.Event] = collections.deque()

    def copied(
        self, prepare: Callable[[dict | None], tuple[dict, bool]], sample: dict | None
    ) -> tuple[dict, bool]:
        """Run ``prepare``, which brings a batch to the device, on a stream of its own; what is
        launched after this waits for it.

        Args:
            prepare: fairseq's ``Trainer._prepare_sample``.
            sample: on the host; None: ``prepare`` gives the dummy batch.

        Returns:
            the batch on the device, and whether it is the dummy batch.
        """
        if self._stream is None:
            return prepare(sample)
        self._wait_for_room()
        with torch.cuda.stream(self._stream):
            sample, is_dummy = prepare(utils.apply_to_sample(_pinned, sample) if sample else sample)
        torch.cuda.current_stream(self.capture.device).wait_stream(self._stream)
        for tensor in tensors_of(sample):
            tensor.record_stream(self.capture.stream)  # its memory is free when that has read it
        return sample, is_dummy

    def _wait_for_room(self) -> None:
        """Else the host, which runs ahead until something is logged, would fill the memory."""
        launched = torch.cuda.Event(blocking=True)
        launched.record(self.capture.stream)
        self._steps.append(launched)
        if len(self._steps) > AHEAD:
            self._steps.popleft().synchronize()


@functools.cache
def _stream(device: torch.device) -> "torch.cuda.Stream":
    """One for all trainings of a process: torch has few, and gives them out again."""
    return torch.cuda.Stream(device)


def _pinned(tensor: Tensor) -> Tensor:
    """Loaders pin most batches; fairseq's of several modes does not, nor what a task adds."""
    return tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()
