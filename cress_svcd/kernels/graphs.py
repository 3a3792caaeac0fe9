"""Many small kernels recorded once and launched together: CUDA graphs behind one function.

    run = Recorder(device).record(step)     # step reads and writes tensors that stay where they are
    tokens.copy_(now); run(); use(logits)

Where the device has no graphs ``run`` is ``step`` itself, so that all but the recording is the same
everywhere.
"""

import logging
from typing import Callable

import torch

logger = logging.getLogger(__name__)

WARMING = 2  # calls before a recording: kernels are compiled and chosen, workspaces allocated


class Recorder:
    """Records functions without arguments and results on one device.

    Such a function reads and writes tensors that outlive it, in place; it neither waits for the
    device nor decides by values on it; and to call it twice is to call it once, since it is called
    before it is recorded.  What it allocates lies in one pool for all recordings of a recorder,
    which takes no more memory than the largest of them: their temporary tensors share it, so they
    must not run at the same time.  A recording holds addresses, not tensors: whoever keeps one
    keeps what it works on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    @property
    def records(self) -> bool:
        """Whether there are graphs on the device."""
        return self._pool is not None

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """What does the same as ``function``, by a single launch where the device has graphs.

        A function that cannot be recorded is returned itself, with a warning.
        """
        if not self.records:
            return function
        with torch.cuda.device(self.device):
            self._warm(function)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads, such as those that pin memory, may go on.
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    function()
            except RuntimeError as error:
                logger.warning("no CUDA graph, every kernel is launched by itself: %s", error)
                return function
        return graph.replay

    @staticmethod
    def _warm(function: Callable[[], None]) -> None:
        """Call it on a stream of its own, as torch demands before a recording."""
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARMING):
                function()
        current.wait_stream(side)
