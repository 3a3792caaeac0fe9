#!/usr/bin/env python3
"""Time what a captured training step could do otherwise on a GPU: attention, and the losses.

    python scripts/bench/training_kernels.py --json kernels.json

Attention: forward and backward pass of one layer over a padded batch, in half precision with a
dropout of 0.1, as a CUDA graph, by each of torch's kernels:

    efficient    memory-efficient, with a mask: what torch chooses
    cudnn        cuDNN's, with a mask
    flash        flash, with lengths instead of a mask: a segment and its padding are two sequences,
                 and queries, keys and values are copied to have the time of a segment in a row
    unmasked     flash, of segments without padding: another computation, for comparison

The losses: an output projection with label-smoothed cross-entropy over the vocabulary, and the
projection alone: the difference is what a fused loss could save at most.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from cuda_graphs import CALLS, graph_of, microseconds
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cress_svcd.atomic_files import write_json

DROPOUT, SMOOTHING = 0.1, 0.1
PADDED = 0.15  # of a segment at most
ROUNDS = 7


class Shape(NamedTuple):
    """Of attention: frames of queries and keys, segments, channels, heads."""

    queries: int
    keys: int
    segments: int
    channels: int
    heads: int


ATTENTION = {
    "HuBERT-Base, 96 segments of 5.9 s": Shape(295, 295, 96, 768, 12),
    "HuBERT-Base, 40 segments of 15 s": Shape(750, 750, 40, 768, 12),
    "HuBERT-Base, 280 segments of 2 s": Shape(100, 100, 280, 768, 12),
    "text encoder, 96 segments of 5.9 s": Shape(75, 75, 96, 512, 8),
    "cross-attention, 96 segments of 5.9 s": Shape(25, 75, 96, 512, 8),
}
LOSSES = {
    "4,608 tokens of 512 channels, 10,000 entries": (4608, 512, 10_000),
    "9,600 tokens of 256 channels, 6,000 entries": (9600, 256, 6000),
}


class Batch:
    """Queries, keys and values of a padded batch, (time, segments, channels), and its masks."""

    def __init__(self, shape: Shape):
        self.shape = shape
        factory = {"device": "cuda", "dtype": torch.float16}
        times = shape.queries, shape.keys, shape.keys
        self.inputs = [
            torch.randn(time, shape.segments, shape.channels, **factory).requires_grad_()
            for time in times
        ]
        self.grad = torch.randn(shape.queries, shape.segments, shape.channels, **factory)
        shortest = 1 - PADDED * torch.rand(shape.segments, device="cuda")
        self.query_lengths = (shape.queries * shortest).ceil().int()
        self.key_lengths = (shape.keys * shortest).ceil().int()
        padding = torch.arange(shape.keys, device="cuda") >= self.key_lengths[:, None]
        self.added = torch.zeros(padding.shape, **factory).masked_fill(padding, float("-inf"))
        self.added = self.added[:, None, None]

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.shape.heads, -1)).permute(1, 2, 0, 3)


def by_backend(backend: SDPBackend, masked: bool) -> Callable[[Batch], Tensor]:
    def attend(batch: Batch) -> Tensor:
        with sdpa_kernel(backend):
            mixed = F.scaled_dot_product_attention(
                *map(batch.heads, batch.inputs),
                attn_mask=batch.added if masked else None,
                dropout_p=DROPOUT,
            )
        return mixed.permute(2, 0, 1, 3).flatten(2)

    return attend


def by_lengths(batch: Batch) -> Tensor:
    shape = batch.shape

    def rows(x: Tensor) -> Tensor:
        return x.transpose(0, 1).reshape(-1, shape.heads, shape.channels // shape.heads)

    def starts(lengths: Tensor, time: int) -> Tensor:
        begins = torch.arange(0, shape.segments, device="cuda", dtype=torch.int32) * time
        both = torch.stack([begins, begins + lengths], 1).flatten()
        return torch.cat([both, both.new_full((1,), shape.segments * time)])

    mixed, *_ = torch.ops.aten._flash_attention_forward(
        *map(rows, batch.inputs),
        starts(batch.query_lengths, shape.queries),
        starts(batch.key_lengths, shape.keys),
        shape.queries,
        shape.keys,
        DROPOUT,
        False,
        False,
    )
    return mixed.view(shape.segments, shape.queries, shape.channels).transpose(0, 1)


KERNELS = {
    "efficient": by_backend(SDPBackend.EFFICIENT_ATTENTION, True),
    "cudnn": by_backend(SDPBackend.CUDNN_ATTENTION, True),
    "flash": by_lengths,
    "unmasked": by_backend(SDPBackend.FLASH_ATTENTION, False),
}


def milliseconds(steps: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Medians of the steps as graphs, which take turns."""
    graphs = {name: graph_of(step) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            times[name].append(microseconds(graph.replay, CALLS) / 1000)
    return {name: round(statistics.median(found), 3) for name, found in times.items()}


def attention(shape: Shape) -> dict[str, float]:
    batch = Batch(shape)

    def step(kernel: Callable[[Batch], Tensor]) -> Callable[[], None]:
        def run() -> None:
            torch.autograd.grad(kernel(batch), batch.inputs, batch.grad)

        return run

    return milliseconds({name: step(kernel) for name, kernel in KERNELS.items()})


def losses(tokens: int, channels: int, entries: int) -> dict[str, float]:
    states, weight = (
        torch.randn(rows, channels, device="cuda", dtype=torch.float16, requires_grad=True)
        for rows in (tokens, entries)
    )
    grad = torch.randn(tokens, entries, device="cuda", dtype=torch.float16)
    target = torch.randint(entries, (tokens, 1), device="cuda")

    def alone() -> None:
        torch.autograd.grad(F.linear(states, weight), [states, weight], grad)

    def with_losses() -> None:
        logs = torch.log_softmax(F.linear(states, weight), -1, dtype=torch.float32)
        smooth = SMOOTHING / (entries - 1)
        loss = -(1 - SMOOTHING - smooth) * logs.gather(1, target).sum() - smooth * logs.sum()
        torch.autograd.grad(loss, [states, weight])

    return milliseconds({"projection": alone, "with losses": with_losses})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; these kernels are a GPU's")
    torch.manual_seed(0)
    report = {"machine": torch.cuda.get_device_name(), "torch": torch.__version__}
    report["attention_ms"] = {name: attention(shape) for name, shape in ATTENTION.items()}
    report["losses_ms"] = {name: losses(*sizes) for name, sizes in LOSSES.items()}
    if args.json:
        write_json(args.json, report)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
