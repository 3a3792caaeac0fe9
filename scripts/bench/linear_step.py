#!/usr/bin/env python3
"""Time one forward and backward pass of a quantised layer against nn.Linear, as JSON.

    OMP_NUM_THREADS=1 python scripts/bench/linear_step.py --shapes 512x512 2048x512 --rows 64 1024
    python scripts/bench/linear_step.py --device cuda --dtype float16 --methods svcd bitnet quest

Shapes are out x in.  Each step starts with a fresh weight version, so sign weights are made again
after an optimizer's update.  The two layers are timed alternately and the median of the ratios is
reported, so that a busy machine disturbs both alike.
"""

import argparse
import json
import statistics
import sys
import time

import torch
from torch import nn

from cress_svcd.quantization import METHODS


def step_seconds(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor, repeats: int) -> float:
    """Mean seconds of ``repeats`` forward and backward passes."""
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        layer.zero_grad()
        x.grad = None
        layer(x).backward(grad)
    if x.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def compare(method: str, shape: str, rows: int, args: argparse.Namespace) -> dict:
    out_features, in_features = map(int, shape.split("x"))
    factory = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    linear = nn.Linear(in_features, out_features, **factory)
    layer = METHODS[method].from_linear(nn.Linear(in_features, out_features, **factory))
    x = torch.randn(rows, in_features, requires_grad=True, **factory)
    grad = torch.randn(rows, out_features, **factory)
    for warming in (linear, layer):
        step_seconds(warming, x, grad, 3)
    pairs = [
        tuple(step_seconds(timed, x, grad, args.repeats) for timed in (linear, layer))
        for _ in range(args.rounds)
    ]
    return {
        "method": method,
        "shape": shape,
        "rows": rows,
        "linear_us": round(statistics.median(pair[0] for pair in pairs) * 1e6, 1),
        "layer_us": round(statistics.median(pair[1] for pair in pairs) * 1e6, 1),
        "ratio": round(statistics.median(pair[1] / pair[0] for pair in pairs), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["512x512", "2048x512"], metavar="OUTxIN")
    parser.add_argument("--rows", nargs="+", type=int, default=[64, 1024])
    parser.add_argument("--methods", nargs="+", default=["svcd"], choices=METHODS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=10, help="steps timed together")
    parser.add_argument("--rounds", type=int, default=9, help="alternations of the two layers")
    args = parser.parse_args()
    torch.manual_seed(0)
    results = [
        compare(method, shape, rows, args)
        for method in args.methods
        for shape in args.shapes
        for rows in args.rows
    ]
    json.dump(results, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
