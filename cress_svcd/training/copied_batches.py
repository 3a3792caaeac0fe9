"""Batches copied to the device while the steps before them run.

The host launches a step and goes on to the next batch at once.  On the steps' own stream its copy
would wait for all that was launched before, and of memory that is not pinned the host would wait
for it.
"""

from collections.abc import Callable

import torch
from fairseq import utils
from torch import Tensor

from cress_svcd.kernels.cuda_graph import GraphCapture
from cress_svcd.training.step_graphs import tensors_of


class CopiedBatches:
    """Copies batches for steps that run on the stream of ``capture``."""

    def __init__(self, capture: GraphCapture):
        self.capture = capture
        on_device = capture.device.type == "cuda"
        # Not the stream of captures, either.  When a loader's thread drops a pinned batch, torch
        # records an event on each stream that has read it, and asks for it later.  One that was
        # recorded on a stream in capture cannot be asked for: the thread would die.
        self._stream = torch.cuda.Stream(capture.device) if on_device else None

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
        with torch.cuda.stream(self._stream):
            sample, is_dummy = prepare(utils.apply_to_sample(_pinned, sample) if sample else sample)
        torch.cuda.current_stream(self.capture.device).wait_stream(self._stream)
        for tensor in tensors_of(sample):
            tensor.record_stream(self.capture.stream)  # its memory is free when that has read it
        return sample, is_dummy


def _pinned(tensor: Tensor) -> Tensor:
    """Loaders pin most batches; fairseq's of several modes does not, nor what a task adds."""
    return tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()
