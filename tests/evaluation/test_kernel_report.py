"""Which kernel computes each kind of a model's layers: counted, merged, and reported in words."""

import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import make_conv_pos
from torch import nn

from cress_svcd import kernels
from cress_svcd.evaluation.kernel_report import ROWS, format_kernels, kernel_rows
from cress_svcd.inference.int8_modules import CompactConv1d, Int8Projection, quantize_rows
from cress_svcd.kernels.triton import conv1d as triton_conv1d
from cress_svcd.models.conv_positions import ConvolutionalPositions
from cress_svcd.quantization import Policy, apply_policy
from cress_svcd.quantization.packing import packed_layers
from tests.helpers.packed_layers import pack_model

DECODER = "decoder.layers.0"


def packed(translator, *rules, backend="reference"):
    apply_policy(translator, Policy.from_dict({"rules": list(rules)}))
    pack_model(translator, backend=backend)
    return translator


def numbers(rows, *keys) -> list[tuple]:
    return [tuple(row[key] for key in keys) for row in rows]


def test_a_kind_is_named_by_its_first_layer_and_counted(translator):
    model = packed(translator, {"match": "decoder.layers.*"})
    rows = kernel_rows(model, (1,))
    assert numbers(rows, "layer", "layers", "shape") == [
        (f"{DECODER}.self_attn.q_proj", 16, "16x16"),
        (f"{DECODER}.fc1", 2, "32x16"),
        (f"{DECODER}.fc2", 2, "16x32"),
    ]
    assert sum(row["layers"] for row in rows) == len(packed_layers(model))


def test_each_number_of_rows_is_asked_about(translator):
    rows = kernel_rows(packed(translator, {"match": f"{DECODER}.fc1"}))
    assert numbers(rows, "m", "operation", "kernel") == [
        (m, "sign_gemm", "reference") for m in ROWS
    ]
    for row in rows:
        first, *_, last = row["explanation"].splitlines()
        assert first == f"sign_gemm of float32 ({row['m']}, 16) on cpu"
        assert last == f"  runs  reference: {row['when']}"


def test_the_back_end_of_a_layer_shows(translator):
    rows = kernel_rows(packed(translator, {"match": f"{DECODER}.fc1"}, backend="torch"), (8,))
    assert numbers(rows, "kernel", "when") == [("torch_int8", "signs expanded (back end torch)")]


def test_layers_of_one_shape_on_two_back_ends_are_two_kinds(translator):
    model = packed(translator, {"match": "decoder.layers.*.fc1"})
    packed_layers(model)["decoder.layers.1.fc1"].use_backend("torch")
    assert numbers(kernel_rows(model, (1,)), "layer", "layers", "kernel") == [
        ("decoder.layers.0.fc1", 1, "reference"),
        ("decoder.layers.1.fc1", 1, "torch_int8"),
    ]


@pytest.mark.parametrize("changes", [{"activation_bits": None}, {"bits": 1.58}], ids=str)
def test_layers_of_one_shape_and_other_bits_are_two_kinds(translator, changes):
    rules = {"match": "decoder.layers.0.fc1"}, {"match": "decoder.layers.1.fc1", **changes}
    rows = kernel_rows(packed(translator, *rules), (1,))
    assert numbers(rows, "layer", "layers") == [
        ("decoder.layers.0.fc1", 1),
        ("decoder.layers.1.fc1", 1),
    ]


def test_layers_in_training_are_of_the_model_too(translator):
    apply_policy(translator, Policy.from_dict({"rules": [{"match": f"{DECODER}.fc?"}]}))
    assert numbers(kernel_rows(translator, (8,)), "operation", "kernel", "shape") == [
        ("training", "torch", "32x16"),
        ("training", "torch", "16x32"),
    ]


def test_convolutions_and_projections_of_bytes():
    model, linear, conv = nn.Module(), nn.Linear(40, 24, bias=False), nn.Conv1d(16, 32, 3, stride=2)
    model.projection = Int8Projection(linear, *quantize_rows(linear.weight))
    model.conv = CompactConv1d(conv, torch.int8, backend="torch")
    (projection, convolution) = kernel_rows(model, (8,))
    assert projection["operation"] == "int8_gemm" and projection["shape"] == "24x40"
    assert projection["m"] == 8
    assert convolution == {
        "layer": "conv",
        "layers": 1,
        "operation": "conv1d",
        "shape": "32x16x3",
        "m": None,
        "kernel": "torch",
        "when": "always: F.conv1d",
        "explanation": convolution["explanation"],
    }
    assert convolution["explanation"].startswith("conv1d of float32 (1, 16, 400) on cpu\n")


def test_the_table_merges_equal_neighbours(translator):
    rows = kernel_rows(packed(translator, {"match": "decoder.layers.*.fc1"}), (1, 8))
    heading, line, empty, title, *backends = format_kernels(rows).splitlines()
    assert heading.split() == ["layers", "operation", "out", "x", "in", "M", "kernel"]
    assert line == (
        f"{DECODER}.fc1 and 1 more  sign_gemm            32x16         1–8  "
        "reference: always: signs are unpacked"
    )
    assert (empty, title) == ("", "back ends here:")
    found = kernels.backends().values()
    assert backends == [f"  {backend.name}: {backend.detail}" for backend in found]


def test_the_table_keeps_apart_what_other_kernels_compute(translator):
    (row,) = kernel_rows(packed(translator, {"match": f"{DECODER}.fc1"}), (1,))
    rows = [row, {**row, "m": 8, "kernel": "other"}, {**row, "m": 64, "kernel": "other"}]
    lines = format_kernels(rows).splitlines()[1:3]
    assert [line.split()[3:5] for line in lines] == [["1", "reference:"], ["8–64", "other:"]]


def test_a_model_without_such_layers_has_an_empty_table(translator):
    assert kernel_rows(translator) == []
    assert format_kernels([]).splitlines()[1:3] == ["", "back ends here:"]


def positions():
    (_, trim, gelu) = make_conv_pos(32, 8, 4)
    packed_conv = CompactConv1d(nn.Conv1d(32, 32, 8, padding=4, groups=4), torch.int8)
    model = nn.Module()
    model.pos_conv = ConvolutionalPositions(packed_conv, trim, gelu)
    return model


def test_positions_are_listed_with_the_convolution_that_computes_them():
    assert numbers(kernel_rows(positions()), "layer", "operation", "kernel")[0] == (
        "pos_conv",
        "conv_positions",
        "modules",
    )
    assert numbers(kernel_rows(positions()), "layer", "operation")[1:] == [("pos_conv.0", "conv1d")]


def test_what_is_computed_as_a_whole_hides_its_parts(monkeypatch):
    monkeypatch.setattr(triton_conv1d, "is_for", lambda x: True)
    assert numbers(kernel_rows(positions()), "layer", "kernel") == [("pos_conv", "triton/conv1d")]
