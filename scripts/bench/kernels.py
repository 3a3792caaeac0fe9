#!/usr/bin/env python3
"""Time packed 1-bit layers on the CPU against torch's own ways, side by side, on one core.

    OMP_NUM_THREADS=1 python scripts/bench/kernels.py -o runs/bench --rows 1 5 8 64 1024
    python scripts/bench/kernels.py -o runs/bench --isas avx2 portable   # other instruction sets

Writes kernels.json and kernels.png.  Every method computes a whole layer from float32 to float32,
bias included.  A round times all methods one after the other, each for a few milliseconds, so that
a busy machine disturbs all alike; medians over the rounds are reported, ratios are taken within a
round.  The peak of vpdpbusd (AVX-512-VNNI, products from registers) is measured in every round.

Methods:
    linear        F.linear, float32                     dynamic_int8  torch's dynamic int8 layer
    onednn_fp32   oneDNN with prepacked weights         int8          packed, 8-bit activations
    onednn_bf16   the same in bfloat16, casts included  lossless      packed, hi/lo split of int8
int8_c and lossless_c are the C calls alone, without the microseconds of Python around them.
"""

import argparse
import ctypes
import functools
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from cress_svcd import atomic_files, kernels
from cress_svcd.evaluation.plots import figure
from cress_svcd.kernels.cpu import build, sign_gemm

PEAK_STEPS = 20_000
SECONDS_A_BURST = 2e-3
AGAINST = ("linear", "onednn_fp32", "onednn_bf16", "dynamic_int8")


def torch_methods(layer: nn.Linear, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """What there is without 1-bit kernels."""
    weight, bias = layer.weight, layer.bias
    half, half_bias = weight.bfloat16(), bias.bfloat16()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    packed_half = torch.ops.mkldnn._reorder_linear_weight(half)
    dense = torch.ops.mkldnn._linear_pointwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that quantize_dynamic is deprecated
        dynamic = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8
        )[0]
    return {
        "linear": lambda: F.linear(x, weight, bias),
        "onednn_fp32": lambda: dense(x, packed, bias, "none", [], ""),
        "onednn_bf16": lambda: dense(x.bfloat16(), packed_half, half_bias, "none", [], "").float(),
        "dynamic_int8": lambda: dynamic(x),
    }


def packed_methods(
    layer: nn.Linear, x: torch.Tensor, isas: list[str]
) -> dict[str, Callable[[], torch.Tensor]]:
    """int8 and lossless as a model calls them, then each instruction set that was asked for."""
    out_features, in_features = layer.weight.shape
    rows = kernels.pack_signs(layer.weight >= 0)
    signs = kernels.prepare(rows, in_features, kernels.choose(x.device))
    operands = torch.rand(in_features), torch.rand(out_features), layer.bias.detach()

    def call(bits: int | None) -> Callable[[], torch.Tensor]:
        return lambda: kernels.sign_matmul(x, signs, out_features, *operands, bits, checked=True)

    def forced(isa: str, bits: int | None) -> Callable[[], torch.Tensor]:
        return lambda: sign_gemm.sign_matmul(x, signs, out_features, *operands, bits, isa=isa)

    methods = {"int8": call(8), "lossless": call(None)}
    if signs.dim() == 3:
        y = torch.empty(len(x), out_features)
        methods["int8_c"] = c_call(x, signs, *operands, y, num_parts=1)
        methods["lossless_c"] = c_call(x, signs, *operands, y, num_parts=2)
    for isa in isas:
        methods |= {f"int8_{isa}": forced(isa, 8), f"lossless_{isa}": forced(isa, None)}
    return methods


def c_call(
    x: torch.Tensor,
    tiles: torch.Tensor,
    g: torch.Tensor,
    h: torch.Tensor,
    bias: torch.Tensor,
    y: torch.Tensor,
    num_parts: int,
) -> Callable[[], torch.Tensor]:
    """The library's function with all its arguments ready."""
    function = sign_gemm.library().cress_sign_gemm
    pointers = [tensor.data_ptr() for tensor in (g, h, bias, y)]
    arguments = (
        x.data_ptr(),
        len(x),
        x.stride(0),
        tiles.data_ptr(),
        x.shape[1],
        y.shape[1],
        *pointers,
        num_parts,
        sign_gemm.isa_number(),
        1,
        None,
    )

    def call() -> torch.Tensor:
        function(*arguments)
        return y

    return call


def seconds(function: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


@functools.cache
def peak_library() -> ctypes.CDLL | None:
    """vnni_peak.c, compiled; None without a C compiler."""
    source = Path(__file__).with_name("vnni_peak.c")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "vnni_peak.so"
        try:
            command = [*build.compiler(), *build.FLAGS[:4], str(source), "-o", str(made)]
        except build.BuildError:
            return None
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(made))
    library.cress_vnni_peak.argtypes = [ctypes.c_int64]
    library.cress_vnni_peak.restype = ctypes.c_int64
    return library


def vnni_peak() -> float | None:
    """Products a second of one core, 1e9; None where there is no AVX-512-VNNI or no compiler."""
    library = peak_library()
    if library is None:
        return None
    start = time.perf_counter()
    products = library.cress_vnni_peak(PEAK_STEPS)
    return products / (time.perf_counter() - start) / 1e9 or None


@torch.inference_mode()
def measure(shape: str, rows: int, isas: list[str], rounds: int) -> dict:
    """One row of the report: microseconds, GMAC/s, share of the peak and ratios by method."""
    out_features, in_features = map(int, shape.split("x"))
    layer, x = nn.Linear(in_features, out_features), torch.randn(rows, in_features)
    methods = torch_methods(layer, x) | packed_methods(layer, x, isas)
    repeats = {}
    for name, function in methods.items():
        seconds(function, 2)  # the first calls choose and compile their code
        repeats[name] = max(1, int(SECONDS_A_BURST / seconds(function, 1)))
    times: dict[str, list[float]] = {name: [] for name in methods}
    peaks = []
    for _ in range(rounds):
        peaks.append(vnni_peak())
        for name, function in methods.items():
            times[name].append(seconds(function, repeats[name]))
    products = out_features * in_features * rows / 1e9
    result: dict = {
        "shape": shape,
        "rows": rows,
        "vnni_peak": round(statistics.median(peaks), 1) if None not in peaks else None,
        "methods": {},
    }
    for name, taken in times.items():
        # A lossless product is two of int8, and is held against the peak as such.
        num_parts = 2 if name.startswith("lossless") else 1
        entry = result["methods"][name] = {
            "us": round(statistics.median(taken) * 1e6, 2),
            "best_us": round(min(taken) * 1e6, 2),
            "gmac": round(products / statistics.median(taken), 1),
        }
        if None not in peaks and name not in AGAINST:
            shares = [num_parts * products / time / peak for time, peak in zip(taken, peaks)]
            entry["share_of_vnni_peak"] = round(statistics.median(shares), 3)
        if name not in AGAINST:
            entry["times_faster_than"] = {
                other: round(statistics.median(a / b for a, b in zip(times[other], taken)), 2)
                for other in AGAINST
            }
    return result


def draw(report: dict, path: Path) -> None:
    """GMAC/s over rows, a panel a shape."""
    shapes = list(dict.fromkeys(row["shape"] for row in report["results"]))
    with figure(path, len(shapes), width=5, height=4) as panels:
        for panel, shape in zip(panels, shapes):
            measured = [row for row in report["results"] if row["shape"] == shape]
            rows = [row["rows"] for row in measured]
            for name in measured[0]["methods"]:
                style = "--" if name in AGAINST else "-"
                rates = [row["methods"][name]["gmac"] for row in measured]
                panel.plot(rows, rates, style, marker=".", label=name)
            if measured[0]["vnni_peak"]:
                peaks = [row["vnni_peak"] for row in measured]
                panel.plot(rows, peaks, ":", color="black", label="peak of vpdpbusd")
            title = f"{shape} (out x in), one core"
            panel.set(xscale="log", yscale="log", xlabel="rows", title=title)
        for panel in panels[1:]:
            panel.sharey(panels[0])
            panel.tick_params(labelleft=False)
        panels[0].autoscale()
        panels[0].set_ylabel("GMAC/s")
        panels[-1].legend(fontsize=7)


def table(results: list[dict]) -> str:
    """The report as text: microseconds, and how int8 and lossless compare."""
    names = list(results[0]["methods"])
    compared = ("int8_c / peak", "int8 x fp32", "lossless x fp32", "int8 x dynamic")
    header = f"{'shape':>10} {'rows':>5}", *(f"{name:>13}" for name in (*names, *compared))
    lines = [" ".join(header)]
    for row in results:
        methods = row["methods"]
        int8, lossless = methods["int8"], methods["lossless"]
        share = methods.get("int8_c", int8).get("share_of_vnni_peak")
        figures = [methods[name]["us"] for name in names]
        figures += [
            float("nan") if share is None else share,
            int8["times_faster_than"]["onednn_fp32"],
            lossless["times_faster_than"]["onednn_fp32"],
            int8["times_faster_than"]["dynamic_int8"],
        ]
        cells = (
            f"{value:{max(13, len(name))}.2f}" for value, name in zip(figures, (*names, *compared))
        )
        lines.append(" ".join([f"{row['shape']:>10} {row['rows']:>5}", *cells]))
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where kernels.json and kernels.png go",
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=["512x512", "1024x1024", "1024x4096"],
        metavar="OUTxIN",
        help="sizes of the layer",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        type=int,
        help="rows of the input",
        default=[1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 128, 256, 512, 1024, 1500],
    )
    parser.add_argument(
        "--isas",
        nargs="+",
        default=[],
        choices=sign_gemm.ISAS,
        help="instruction sets to time as well",
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds of all methods")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = [(shape, rows) for shape in args.shapes for rows in args.rows]
    results = [
        measure(shape, rows, args.isas, args.rounds)
        for shape, rows in tqdm(cases, desc="measuring", unit="case")
    ]
    report = {
        "torch": torch.__version__,
        "backends": {name: found.detail for name, found in kernels.backends().items()},
        "rounds": args.rounds,
        "results": results,
    }
    atomic_files.write_json(args.output / "kernels.json", report)
    draw(report, args.output / "kernels.png")
    sys.stdout.write(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
