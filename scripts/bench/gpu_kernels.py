#!/usr/bin/env python3
"""Time packed 1-bit layers on a CUDA GPU against half-precision ones, side by side.

    python scripts/bench/gpu_kernels.py -o runs/bench
    python scripts/bench/gpu_kernels.py -o runs/bench --tiles       # every kernel at every size

A layer computes from float16 to float16, bias included, 8-bit activations.  HuBERT-Base's
convolutional positions (--positions: batches of 5 seconds each) are timed as well, by torch and by
``kernels.triton.conv1d``.  Two times each:
``device``, in a CUDA graph, without the microseconds in which Python and torch launch a kernel;
``eager``, as a program sees it that calls the layer many times in a row.  A round times all methods
in turn; medians over the rounds, ratios within a round.  Writes gpu_kernels.json.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from cuda_graphs import CALLS, graph_of, microseconds
from torch.nn import functional as F
from tqdm import tqdm

from cress_svcd import kernels
from cress_svcd.atomic_files import write_json
from cress_svcd.kernels.triton import (
    conv1d,
    quantize,
    sign_gemm_bitplane,
    sign_gemm_float,
    sign_gemm_fused,
)

# Candidates of --tiles: rows, outputs, warps.
FUSED_TILES = {(16, 16, 4), (16, 16, 8), (16, 32, 8), (16, 64, 4), (16, 64, 8), (32, 64, 8)}
BITPLANE_TILES = {
    sign_gemm_bitplane.SMALL,
    sign_gemm_bitplane.MEDIUM,
    sign_gemm_bitplane.LARGE,
    (32, 32, 4),
    (64, 64, 4),
    (128, 64, 4),
    (128, 128, 8),
}
CONV1D_TILES = {(32, 64, 4), (32, 128, 4), (64, 128, 4), (64, 128, 8), (128, 64, 4), (128, 64, 8)}
CHANNELS, GROUPS, KERNEL_SIZE, FRAMES = 768, 16, 128, 249  # HuBERT-Base's, and those of 5 seconds


def methods(rows: int, in_features: int, out_features: int, tiles: bool) -> dict[str, Callable]:
    factory = {"device": "cuda", "dtype": torch.float16}
    x = torch.randn(rows, in_features, **factory)
    weight = torch.randn(out_features, in_features, **factory)
    g, h, bias = (torch.rand(size, **factory) for size in (in_features, out_features, out_features))
    signs = kernels.pack_signs(weight >= 0)
    chosen = {
        "float16": lambda: F.linear(x, weight, bias),
        "packed": lambda: kernels.sign_matmul(x, signs, out_features, g, h, bias, 8, checked=True),
    }
    if tiles:
        if rows <= 16:
            chosen["row by row"] = lambda: sign_gemm_float.by_rows(x, signs, g, h, bias, 8)
        held = in_features <= sign_gemm_fused.WIDEST and rows <= 256
        for tile in sorted(FUSED_TILES) if held else []:
            chosen[f"whole {tile}"] = lambda tile=tile: sign_gemm_fused.sign_matmul(
                x, signs, g, h, bias, tile=tile
            )
        for tile in sorted(BITPLANE_TILES):
            chosen[f"planes {tile}"] = lambda tile=tile: sign_gemm_bitplane.sign_matmul(
                x, signs, g, h, bias, tile=tile
            )
    return chosen


def positions(batch: int, tiles: bool) -> dict[str, Callable]:
    factory = {"device": "cuda", "dtype": torch.float16}
    x = torch.randn(batch, FRAMES, CHANNELS, **factory)
    weight = torch.randn(CHANNELS, CHANNELS // GROUPS, KERNEL_SIZE, **factory)
    bias = torch.rand(CHANNELS, **factory)
    chosen = {
        "float16": lambda: F.conv1d(
            x.transpose(1, 2), weight, bias, padding=KERNEL_SIZE // 2, groups=GROUPS
        )
    }
    for tile in sorted(CONV1D_TILES) if tiles else []:
        chosen[f"convolution {tile}"] = lambda tile=tile: conv1d.convolve(
            x, weight, bias, GROUPS, KERNEL_SIZE // 2, tile
        )
    chosen["convolution"] = lambda: conv1d.convolve(x, weight, bias, GROUPS, KERNEL_SIZE // 2)
    return chosen


def measure(rows: int, shape: str, args: argparse.Namespace) -> dict:
    """Times of a layer for so many rows, or of the positions for so many utterances."""
    if shape == "positions":
        calls = positions(rows, args.tiles)
    else:
        out_features, in_features = map(int, shape.split("x"))
        calls = methods(rows, in_features, out_features, args.tiles)
    graphs = {name: graph_of(call) for name, call in calls.items()}

    def eager(call: Callable) -> None:
        for _ in range(CALLS):
            call()

    times: dict[str, list] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            device = microseconds(graphs[name].replay, CALLS)
            times[name].append((device, microseconds(partial(eager, call), CALLS)))
    return {
        "shape": shape,
        "rows": rows,
        "methods": {
            name: {
                kind: round(statistics.median(pair[place] for pair in pairs), 2)
                for place, kind in enumerate(("device_us", "eager_us"))
            }
            | {
                f"{kind}_ratio": round(
                    statistics.median(
                        pair[place] / base[place] for pair, base in zip(pairs, times["float16"])
                    ),
                    3,
                )
                for place, kind in enumerate(("device", "eager"))
            }
            for name, pairs in times.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=["512x512", "2048x512", "512x2048", "768x768", "3072x768", "768x3072"],
        metavar="OUTxIN",
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[5, 40, 160, 250, 1000, 2000, 8000])
    parser.add_argument("--positions", nargs="*", type=int, default=[1, 8, 32], metavar="BATCH")
    parser.add_argument("--tiles", action="store_true", help="also each kernel by itself")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if reason := quantize.why_unavailable():
        sys.stderr.write(f"gpu_kernels: {reason}\n")
        return 2
    torch.manual_seed(0)
    args.output.mkdir(parents=True, exist_ok=True)
    sizes = [(rows, shape) for shape in args.shapes for rows in args.rows]
    sizes += [(batch, "positions") for batch in args.positions]
    layers = [measure(rows, shape, args) for rows, shape in tqdm(sizes, desc="layers")]
    report = {"machine": torch.cuda.get_device_name(), "layers": layers}
    write_json(args.output / "gpu_kernels.json", report)
    for layer in layers:
        for name, figures in layer["methods"].items():
            sys.stdout.write(
                f"{layer['shape']:>10} {layer['rows']:>5} {name:28} {figures['device_us']:8.1f} us "
                f"({figures['device_ratio']:.2f})  eager {figures['eager_us']:8.1f} us "
                f"({figures['eager_ratio']:.2f})\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
