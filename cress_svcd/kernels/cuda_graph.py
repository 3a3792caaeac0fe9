"""CUDA graphs behind one function: many small kernels captured once and launched together.

    run = GraphCapture(device).capture(step)   # step works on tensors that stay where they are
    tokens.copy_(now); run(); use(logits)

Where the device has no graphs ``run`` is ``step`` itself, so that all but the capture is the same
everywhere.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

logger = logging.getLogger(__name__)

WARMING = 2  # calls before a capture: kernels are compiled and chosen, workspaces allocated
SCARCE = 0.25  # share of the device's memory: where less is free, a capture could not get its own
_TURN = threading.Lock()  # torch captures one graph at a time


def is_capturing() -> bool:
    """Whether what runs now is being captured: nothing may be decided by values on the GPU, and
    nothing may be kept for the next run that this one was to compute."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


class GraphCapture:
    """Captures functions without arguments and results on one device.

    Such a function reads and writes tensors that outlive it, in place; it neither waits for the
    device nor decides by values on it; and to call it twice is to call it once, since it is called
    before it is captured.  What it allocates lies in one pool for all graphs of a capture,
    which takes no more memory than the largest of them: their temporary tensors share it.  So do
    all captures of a device the workspaces of libraries.  Graphs must therefore not run at the
    same time, on several streams.  A graph holds addresses, not tensors: whoever keeps one
    keeps what it works on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.captures = device.type == "cuda"  # False also from the first failure on
        self._pool: Any = None
        self._first: Any = None

    def capture(self, function: Callable[[], None], warmed: bool = False) -> Callable[[], None]:
        """What does the same as ``function``, by a single launch where the device has graphs.

        A function that cannot be captured is returned itself, with a warning, and so are all that
        follow: a failure costs more than a graph saves.  One for which there is no memory is
        returned itself, too; others may fit.

        Args:
            warmed: it has run on the stream of captures (``on_stream``) before, with these shapes,
                and is not called once more.
        """
        if not self.captures:
            return function
        with _TURN, torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            try:
                if self._pool is None:
                    self._prepare()
                if not warmed:
                    self._warm(function)
                return self._capture(function).replay
            except RuntimeError as error:
                torch.cuda.set_stream(current)  # which torch leaves undone if a capture fails
                self._recover()
                # The end of a broken capture raises too: what broke it says more.
                cause = error.__context__ or error
                if not isinstance(cause, torch.OutOfMemoryError):
                    self.captures = False
                    logger.warning("no CUDA graph, every kernel is launched by itself: %s", cause)
                return function

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Run the block on the stream on which functions are captured, after what was launched
        before the block and before what is launched after it.

        Autograd remembers on which stream a parameter was first used in a graph that still lives.
        Where that is the default stream, no backward pass can be captured.
        """
        if self.device.type != "cuda":
            yield
            return
        current, side = torch.cuda.current_stream(self.device), self.stream
        side.wait_stream(current)
        with torch.cuda.stream(side):
            yield
        current.wait_stream(side)

    @property
    def stream(self) -> "torch.cuda.Stream":
        """The one on which functions of this device are captured."""
        return _stream(self.device)

    def _prepare(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # Torch refuses a pool that all graphs have left: this one stays.
        anything = functools.partial(torch.zeros, 1, device=self.device)
        self._warm(anything)
        self._first = self._capture(anything)

    def _recover(self) -> None:
        """End what a failed capture has begun (torch 2.11): its memory pool, and the random numbers
        of the device, which count as captured until a capture has succeeded."""
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        try:
            torch._C._cuda_endAllocateToPool(index, self._pool)
        except RuntimeError as error:
            logger.debug("the pool was ended already: %s", error)
        self._pool = torch.cuda.graph_pool_handle()
        self._first = self._capture(functools.partial(torch.zeros, 1, device=self.device))

    def _capture(self, function: Callable[[], object]) -> "torch.cuda.CUDAGraph":
        """The graph of what ``function`` launches."""
        graph = torch.cuda.CUDAGraph()
        # torch.cuda.graph would also give back all memory that is free, that of pinned batches
        # included: to get it again takes longer than the capture.
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        if free < SCARCE * total:
            torch.cuda.empty_cache()
        with torch.cuda.stream(self.stream):
            # Other threads, such as those that pin memory, may go on.
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                function()
            finally:
                graph.capture_end()
        return graph

    def _warm(self, function: Callable[[], object]) -> None:
        """Call it as torch demands before a capture: on another stream than the current one.

        It is the stream of the capture, so that workspaces that libraries keep for each stream
        are allocated here and not in the pool.
        """
        current, side = torch.cuda.current_stream(), self.stream
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARMING):
                function()
        current.wait_stream(side)


@functools.cache
def _stream(device: torch.device) -> "torch.cuda.Stream":
    """The one on which graphs are captured.

    Torch's own is of whichever device came first, and with one for each capture cuBLAS would hold
    as many workspaces, of 32 MB on recent GPUs.
    """
    return torch.cuda.Stream(device)
