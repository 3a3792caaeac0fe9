"""Batches reach the device while the steps before them run."""

import pytest
import torch
from fairseq import utils

from cress_svcd.kernels.cuda_graph import GraphCapture
from cress_svcd.training.copied_batches import CopiedBatches


def test_without_a_gpu_a_batch_is_what_it_was():
    sample = {"id": torch.arange(3)}
    copies = CopiedBatches(GraphCapture(torch.device("cpu")))
    assert copies.copied(lambda given: (given, False), sample) == (sample, False)
    assert copies.copied(lambda given: ({}, given is None), None) == ({}, True)


@pytest.mark.gpu
def test_a_copy_does_not_wait_for_the_step_before():
    device = torch.device("cuda", torch.cuda.current_device())
    capture = GraphCapture(device)
    copies = CopiedBatches(capture)
    seen = []

    def prepare(sample):
        seen.append((torch.cuda.current_stream(), sample["net_input"]["source"].is_pinned()))
        return utils.move_to_cuda(sample), False

    with capture.on_stream():
        torch.cuda._sleep(2_000_000_000)  # cycles: a second or so
        step = torch.cuda.Event()
        step.record()
    wave = torch.randn(1000, 1000)
    sample, is_dummy = copies.copied(prepare, {"net_input": {"source": wave}, "nsentences": 1})
    ((stream, pinned),) = seen
    assert pinned and not is_dummy and sample["nsentences"] == 1
    assert stream not in (capture.stream, torch.cuda.default_stream(device))
    stream.synchronize()
    assert not step.query()
    with capture.on_stream():
        read = sample["net_input"]["source"].clone()
    torch.cuda.synchronize()
    assert torch.equal(read.cpu(), wave)
