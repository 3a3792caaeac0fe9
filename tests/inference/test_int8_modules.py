"""Modules that hold less than they compute in, against torch's own."""

import os
import subprocess
import sys

import pytest
import torch
from fairseq.modules import Fp32GroupNorm
from torch.utils._python_dispatch import TorchDispatchMode

from cress_svcd.inference.int8_modules import (
    CompactConv1d,
    Int8Embedding,
    Int8Projection,
    constant,
    dequantize_rows,
    quantize_rows,
)
from cress_svcd.models.hubert_convolutions import masked_channel_norm


@pytest.mark.parametrize("groups, padding", [(1, 0), (1, 2), (4, 2)])
def test_convolutions_are_torchs(groups, padding):
    """In fp32 exactly, in bf16 nearly; for one utterance and for several."""
    conv = torch.nn.Conv1d(8, 12, 5, stride=2, padding=padding, groups=groups)
    for dtype, compute, tolerance in (
        (torch.float16, None, 1e-3),
        (torch.int8, None, 1e-2),
        (torch.bfloat16, torch.bfloat16, 2e-2),
    ):
        compact = CompactConv1d(conv, dtype, compute)
        q, scale = quantize_rows(conv.weight)
        state = {"bias": conv.bias, "weight": q if dtype == torch.int8 else conv.weight}
        compact.load_state_dict(state | ({"scale": scale} if dtype == torch.int8 else {}))
        for batch in (1, 3):
            x = torch.randn(batch, 8, 31)
            y, expected = compact(x), conv(x)
            assert y.dtype == x.dtype and y.shape == expected.shape
            assert (y - expected).norm() < tolerance * expected.norm()


def test_int8_tables():
    embedding = torch.nn.Embedding(30, 16, padding_idx=1)
    linear = torch.nn.Linear(16, 30)
    q, scale = quantize_rows(embedding.weight)
    assert torch.equal(q[1], torch.zeros(16, dtype=torch.int8))
    dense = dequantize_rows(q, scale)
    assert (dense - embedding.weight).abs().max() <= scale.max() / 2 * 1.001
    tokens = torch.tensor([[3, 1], [29, 4]])
    assert torch.equal(Int8Embedding(embedding, q, scale)(tokens), dense[tokens])
    projection = Int8Projection(linear, q, scale)
    projection.load_state_dict({"weight": q, "scale": scale, "bias": linear.bias})
    x = torch.randn(5, 1, 16)
    expected = torch.nn.functional.linear(x, dense, linear.bias)
    assert (projection(x) - expected).norm() < 1e-4 * expected.norm()
    assert projection(x.bfloat16()).dtype == torch.bfloat16


PROJECT = """
import torch
from cress_svcd.inference.int8_modules import Int8Projection, quantize_rows
linear, x = torch.nn.Linear(64, 30), torch.full((5, 64), 3.0)
linear.weight.data.fill_(1.0)
q, scale = quantize_rows(linear.weight)
projection = Int8Projection(linear, q, scale)
projection.load_state_dict({"weight": q, "scale": scale, "bias": linear.bias})
with torch.no_grad():
    print(float((projection(x) / linear(x) - 1).abs().max()))
"""


def test_int8_projections_are_right_where_onednns_integers_overflow():
    """As it is on processors with AVX2 and no VNNI."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "CRESS_SVCD_ISA": "avx2"}
    command = [sys.executable, "-c", PROJECT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_int8_projections_elsewhere_compute_in_the_inputs_type(dtype):
    linear = torch.nn.Linear(16, 30)
    q, scale = quantize_rows(linear.weight)
    projection = Int8Projection(linear, q, scale)
    projection.load_state_dict({"weight": q, "scale": scale, "bias": linear.bias})
    weight = projection.to(dtype).dense_weight(dtype)
    dense = dequantize_rows(q, scale)
    assert weight.dtype == dtype and torch.allclose(weight.float(), dense, rtol=2e-2)
    x = torch.empty(5, 1, 16, dtype=dtype, device="meta")
    made = set()

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            made.add(result.dtype)
            return result

    projection.to("meta")
    with Watching():
        assert projection(x).shape == (5, 1, 30)
    assert made == {dtype}


def test_a_shared_table_stays_one_wherever_it_goes():
    embedding = torch.nn.Embedding(30, 16)
    q, scale = map(constant, quantize_rows(embedding.weight))
    linear = torch.nn.Linear(16, 30, bias=False)
    both = torch.nn.ModuleList(
        [Int8Embedding(embedding, q, scale), Int8Projection(linear, q, scale)]
    ).half()
    if torch.cuda.is_available():
        both.cuda()
    looked_up, projected = both
    assert looked_up.scale.dtype == torch.float16 and looked_up.weight.dtype == torch.int8
    assert looked_up.weight.data_ptr() == projected.weight.data_ptr()
    assert looked_up.scale.data_ptr() == projected.scale.data_ptr()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_norm_is_the_same_in_both_layouts(dtype, tolerance):
    norm = Fp32GroupNorm(6, 6, affine=True)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (torch.randn(2, 700, 6) + 3).to(dtype).transpose(1, 2)
    lengths = torch.tensor([700, 700])
    expected = norm(x.float())
    found = masked_channel_norm(x, lengths, norm)
    assert found.dtype == dtype and found.stride(1) == 1
    assert (found - expected).norm() < tolerance * expected.norm()
