"""Many small kernels recorded once and launched together: CUDA graphs behind one function.

    run = Recorder(device).record(step)     # step reads and writes tensors that stay where they are
    tokens.copy_(now); run(); use(logits)

Where the device has no graphs ``run`` is ``step`` itself, so that all but the recording is the same
everywhere.
"""

import functools
import logging
import threading
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

WARMING = 2  # calls before a recording: kernels are compiled and chosen, workspaces allocated
_TURN = threading.Lock()  # torch records one graph at a time


class Recorder:
    """Records functions without arguments and results on one device.

    Such a function reads and writes tensors that outlive it, in place; it neither waits for the
    device nor decides by values on it; and to call it twice is to call it once, since it is called
    before it is recorded.  What it allocates lies in one pool for all recordings of a recorder,
    which takes no more memory than the largest of them: their temporary tensors share it.  So do
    all recorders of a device the workspaces of libraries.  Recordings must therefore not run at the
    same time, on several streams.  A recording holds addresses, not tensors: whoever keeps one
    keeps what it works on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.records = device.type == "cuda"  # False also from the first failure on
        self._pool = self._first = None

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """What does the same as ``function``, by a single launch where the device has graphs.

        A function that cannot be recorded is returned itself, with a warning, and so are all that
        follow: a failure costs more than a recording saves.  It also costs the process torch's
        random numbers on that device (torch 2.11), which a search without sampling does not need.
        """
        if not self.records:
            return function
        with _TURN, torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            try:
                if self._pool is None:
                    self._prepare()
                self._warm(function)
                return self._capture(function).replay
            except RuntimeError as error:
                self.records = False
                torch.cuda.set_stream(current)  # which torch leaves undone if a recording fails
                logger.warning("no CUDA graph, every kernel is launched by itself: %s", error)
                return function

    def _prepare(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # Torch refuses a pool that all graphs have left: this one stays.
        anything = functools.partial(torch.zeros, 1, device=self.device)
        self._warm(anything)
        self._first = self._capture(anything)

    def _capture(self, function: Callable[[], object]) -> "torch.cuda.CUDAGraph":
        """The graph of what ``function`` launches."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that pin memory, may go on.
        with torch.cuda.graph(
            graph, self._pool, _stream(self.device), capture_error_mode="thread_local"
        ):
            function()
        return graph

    def _warm(self, function: Callable[[], object]) -> None:
        """Call it as torch demands before a recording: on another stream than the current one.

        It is the stream of the recording, so that workspaces that libraries keep for each stream
        are allocated here and not in the pool.
        """
        current, side = torch.cuda.current_stream(), _stream(self.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARMING):
                function()
        current.wait_stream(side)


@functools.cache
def _stream(device: torch.device) -> "torch.cuda.Stream":
    """The one on which recordings are made.

    Torch's own is of whichever device came first, and with one for each recorder cuBLAS would hold
    as many workspaces, of 32 MB on recent GPUs.
    """
    return torch.cuda.Stream(device)
