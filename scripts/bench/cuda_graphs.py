"""Time calls without what Python and torch take to launch them: as CUDA graphs."""

import time
from collections.abc import Callable

import torch

CALLS = 20  # of a graph


def graph_of(call: Callable) -> "torch.cuda.CUDAGraph":
    """``CALLS`` calls as one graph."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    return graph


def microseconds(run: Callable, calls: int) -> float:
    """Of one of the ``calls`` that ``run`` makes, until the device has ended them."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls * 1e6
