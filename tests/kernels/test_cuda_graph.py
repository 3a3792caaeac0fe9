"""CUDA graphs; what needs a GPU is skipped without one."""

import multiprocessing

import pytest
import torch

from cress_svcd.kernels import cuda_graph


@pytest.fixture
def counter():
    """y = x + 1 on the device; counts how often Python calls it."""

    class Counter:
        def __init__(self):
            self.x = torch.full((4,), 5.0, device="cuda")
            self.y = torch.zeros(4, device="cuda")
            self.calls = 0

        def __call__(self):
            self.calls += 1
            self.y.copy_(self.x + 1)

    return Counter()


@pytest.mark.gpu
def test_a_graph_is_replayed(counter):
    run = cuda_graph.GraphCapture(counter.x.device).capture(counter)
    before = counter.calls
    for number in (7, 8):
        counter.x.fill_(number)
        run()
        assert counter.y.tolist() == [number + 1] * 4
    assert counter.calls == before


@pytest.mark.gpu
def test_graphs_may_come_and_go(counter):
    capture = cuda_graph.GraphCapture(counter.x.device)
    for number in range(3):
        run = capture.capture(counter)
        counter.x.fill_(number)
        run()
        assert counter.y.tolist() == [number + 1] * 4
        del run  # none but the capture's own is left
        torch.cuda.empty_cache()
    assert capture.captures


@pytest.mark.gpu
def test_on_a_device_that_is_not_the_current_one(counter):
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    counter.x, counter.y = counter.x.to(last), counter.y.to(last)
    capture = cuda_graph.GraphCapture(last)
    capture.capture(counter)()
    assert capture.captures and counter.y.tolist() == [6] * 4


@pytest.mark.gpu
def test_what_cannot_be_captured_runs_as_it_is():
    """In a process of its own: torch's random numbers on CUDA cannot be used after it."""
    process = multiprocessing.get_context("spawn").Process(target=record_what_waits)
    process.start()
    process.join()
    assert process.exitcode == 0


def record_what_waits():
    x = torch.full((4,), 5.0, device="cuda")
    capture, stream = cuda_graph.GraphCapture(x.device), torch.cuda.current_stream()
    seen = []

    def function():
        seen.append(x.sum().item())

    run = capture.capture(function)
    assert run is function and not capture.captures
    assert torch.cuda.current_stream() == stream
    run()
    assert seen[-1] == 20
    assert capture.capture(function) is function  # nor is anything later


def test_without_graphs_a_function_is_called_as_it_is():
    def function():
        """Nothing."""

    capture = cuda_graph.GraphCapture(torch.device("cpu"))
    assert not capture.captures and capture.capture(function) is function
