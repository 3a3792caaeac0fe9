"""``kernels.explain``: it names what runs, and why what stands before it does not."""

import pytest
import torch
from torch import nn

from cress_svcd import kernels
from cress_svcd.inference.int8_modules import CompactConv1d, Int8Projection, quantize_rows
from cress_svcd.kernels import dispatch
from cress_svcd.kernels.cpu import sign_gemm
from cress_svcd.quantization import METHODS
from cress_svcd.quantization.packed_linear import PackedLinear

needs_cpu = pytest.mark.skipif(
    not kernels.backends()["cpu"].available, reason="the C kernels are not built"
)
# What torch's profiler shows of each row: the operators that multiply.
MULTIPLIERS = {"aten::_int_mm", "aten::linear", "aten::matmul", "aten::conv1d"}
SEEN = {
    "reference": {"aten::matmul"},
    "torch_int8": {"aten::_int_mm"},
    "cpu/sign_gemm": set(),
    "cpu/conv1d project": set(),
    "cpu/conv1d": set(),
}


def packed(backend):
    layer = METHODS["svcd"].from_linear(nn.Linear(40, 24), bits=1)
    return PackedLinear.from_layer(layer, backend=backend)


def projection():
    linear = nn.Linear(40, 24, bias=False)
    return Int8Projection(linear, *quantize_rows(linear.weight))


def convolution(backend):
    conv = nn.Conv1d(16, 16, 3, stride=2, bias=False)
    made = CompactConv1d(conv, torch.int8, backend=backend)
    weight, scale = quantize_rows(conv.weight)
    made.load_state_dict({"weight": weight, "scale": scale})
    return made


def run_row(text: str) -> str:
    """The name in the line of what runs, which is the last."""
    line = text.splitlines()[-1]
    assert line.startswith("  runs  ")
    return line.removeprefix("  runs  ").split(":")[0]


def tried(text: str) -> list[str]:
    """The lines of what does not run."""
    return [line.removeprefix("  not   ") for line in text.splitlines()[1:-1]]


CALLS = {
    "reference": (lambda: packed("reference"), (5, 40), {}),
    "torch": (lambda: packed("torch"), (5, 40), {}),
    "cpu": (lambda: packed("cpu"), (2, 3, 40), {}),
    "double": (lambda: packed("cpu").double(), (5, 40), {"dtype": torch.float64}),
    "projection": (projection, (5, 40), {}),
    "projection with a gradient": (projection, (5, 40), {"requires_grad": True}),
    "convolution": (lambda: convolution(None), (2, 16, 30), {}),
    "convolution by torch": (lambda: convolution("torch"), (2, 16, 30), {}),
}


@needs_cpu
@pytest.mark.parametrize("call", CALLS)
def test_what_it_says_is_what_runs(call):
    make, shape, options = CALLS[call]
    layer, x = make(), torch.randn(*shape, **options)
    row = run_row(kernels.explain(x, layer))
    layer(x)  # what is prepared once is no part of a call
    with torch.autograd.profiler.profile() as profile:
        layer(x)
    seen = {event.name for event in profile.function_events} & MULTIPLIERS
    plain = {"aten::conv1d"} if isinstance(layer, CompactConv1d) else {"aten::linear"}
    expected = SEEN.get(row, plain)
    assert expected == seen - ({"aten::matmul"} if row == "torch" else set())


def test_the_first_line_is_the_call():
    first = kernels.explain(torch.zeros(8, 40), packed("reference")).splitlines()[0]
    assert first == "sign_gemm of float32 (8, 40) on cpu"
    first = kernels.explain(torch.zeros(1, 16, 30).half(), convolution("torch")).splitlines()[0]
    assert first == "conv1d of float16 (1, 16, 30) on cpu"


def test_rows_before_say_what_they_would_need():
    text = kernels.explain(torch.zeros(8, 40), packed("reference"))
    rows = dispatch.TABLE["sign_gemm"]
    assert [line.split(":")[0] for line in tried(text)] == [row.name for row in rows[:-1]]
    assert tried(text)[:3] == [
        "cpu/sign_gemm: needs signs in tiles (back end cpu)",
        "torch_int8: needs signs expanded (back end torch)",
        "triton/sign_gemm_fused: needs x on CUDA with Triton, not in double precision",
    ]
    assert text.splitlines()[-1] == "  runs  reference: always: signs are unpacked"


@needs_cpu
def test_the_condition_that_fails_is_the_one_that_is_said():
    x = torch.zeros(8, 40, dtype=torch.float64)
    (first, *_) = tried(kernels.explain(x, packed("cpu")))
    assert first == "cpu/sign_gemm: needs x on the CPU, not in double precision"


def test_rows_that_were_not_tried_are_not_listed():
    text = kernels.explain(torch.zeros(8, 40), packed("torch"))
    assert tried(text) == ["cpu/sign_gemm: needs signs in tiles (back end cpu)"]
    assert run_row(text) == "torch_int8" and "triton" not in text


@needs_cpu
def test_a_row_in_c_names_its_instruction_set():
    text = kernels.explain(torch.zeros(8, 40), packed("cpu"))
    assert tried(text) == [] and run_row(text) == "cpu/sign_gemm"
    assert text.endswith(
        f"x on the CPU, not in double precision; {sign_gemm.ISAS[sign_gemm.isa_number()]}"
    )


def test_a_layer_in_training_is_explained():
    text = kernels.explain(torch.zeros(8, 40), METHODS["svcd"](40, 24, bits=1))
    first, row, last = text.splitlines()
    assert first == "training of float32 (8, 40) on cpu"
    assert row.startswith("  not   triton/training: needs x and weight on CUDA with Triton")
    assert last == "  runs  torch: always: its own operators"
