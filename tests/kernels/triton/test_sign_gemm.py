"""The CUDA back end.  The fused kernel also runs in Triton's interpreter, without a GPU:

TRITON_INTERPRET=1 python -m pytest tests/kernels/triton/test_sign_gemm.py   (needs the package
triton)
"""

import pytest
import torch
from torch.nn import functional as F

from cress_svcd import kernels
from cress_svcd.kernels import reference
from cress_svcd.kernels.triton import quantize, sign_gemm_bitplane, sign_gemm_float, sign_gemm_fused
from tests.helpers.triton_marks import DEVICE, needs_triton

EIGHT_BITS = sign_gemm_fused.sign_matmul, sign_gemm_bitplane.sign_matmul


@needs_triton
@pytest.mark.parametrize("bits", [8, 16, None])
@pytest.mark.parametrize("rows, in_features, out_features", [(1, 64, 32), (3, 300, 45), (9, 77, 1)])
@pytest.mark.parametrize("scaled", [True, False], ids=["scales", "plain"])
def test_the_fused_kernel(operands, bits, rows, in_features, out_features, scaled):
    values = operands(rows, in_features, out_features)
    x, signs, *given = (value.to(DEVICE) for value in values)
    given = given if scaled else [None] * 3
    y = sign_gemm_float.by_rows(x, kernels.pack_signs(signs), *given, bits)
    expected = reference.sign_matmul(x, signs, *given, bits)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-3 if bits is None else 1e-5)


@needs_triton
@pytest.mark.parametrize(
    "rows, in_features, out_features", [(1, 64, 32), (5, 300, 45), (33, 77, 1), (70, 520, 130)]
)
@pytest.mark.parametrize("scaled", [True, False], ids=["scales", "plain"])
@pytest.mark.parametrize("kernel", EIGHT_BITS, ids=["fused", "bitplane"])
def test_8_bits(operands, kernel, rows, in_features, out_features, scaled):
    values = operands(rows, in_features, out_features)
    x, signs, *given = (value.to(DEVICE) for value in values)
    given = given if scaled else [None] * 3
    y = kernel(x, kernels.pack_signs(signs), *given)
    expected = reference.sign_matmul(x, signs, *given, 8)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-5)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "activation", [sign_gemm_fused.NONE, sign_gemm_fused.RELU, sign_gemm_fused.GELU]
)
@pytest.mark.parametrize("num_projections", [1, 3])
@pytest.mark.parametrize(
    "kernel, tile",
    [
        (sign_gemm_fused, None),
        (sign_gemm_fused, (16, 64, 8)),
        (sign_gemm_bitplane, None),
        (sign_gemm_bitplane, (32, 64, 4)),
    ],
    ids=["fused", "fused-large", "bitplane", "bitplane-large"],
)
def test_what_stands_around_a_product(operands, dtype, activation, num_projections, kernel, tile):
    """As if norm, layers, activation and residual were torch's, one after the other."""
    rows, in_features, out_features = 5, 72, 64
    layers = [operands(rows, in_features, out_features, seed) for seed in range(num_projections)]
    x, residual = layers[0][0].to(DEVICE, dtype), torch.randn(rows, num_projections * out_features)
    residual = residual.to(DEVICE, dtype)
    weight, bias = (torch.randn(in_features, device=DEVICE) for _ in range(2))
    functions = {sign_gemm_fused.RELU: F.relu, sign_gemm_fused.GELU: F.gelu}
    expected_norm = F.layer_norm(x.float(), (in_features,), weight, bias, 1e-3).to(dtype)
    expected = []
    for _, signs, *given in layers:
        signs, *given = (value.to(DEVICE) for value in (signs, *given))
        y = reference.sign_matmul(expected_norm.float(), signs, *given, 8).to(dtype)
        expected.append(functions[activation](y) if activation else y)
    signs, g, h, shift = (torch.cat(values).to(DEVICE) for values in list(zip(*layers))[1:])
    normed = torch.empty_like(x)
    y = kernel.sign_matmul(
        x,
        kernels.pack_signs(signs),
        g,
        h,
        shift,
        num_projections=num_projections,
        activation=activation,
        norm=sign_gemm_fused.Norm(weight, bias, 1e-3),
        residual=residual,
        normed=normed,
        tile=tile,
    )
    error = (y - residual - torch.cat(expected, 1)).float().norm() / y.float().norm()
    assert y.dtype == dtype and error < (1e-2 if dtype == torch.float16 else 2e-3)  # q tip over
    assert torch.allclose(normed, expected_norm, atol=4e-3 if dtype == torch.float16 else 1e-5)


@needs_triton
@pytest.mark.parametrize("tile", [tuple(shape) for _, *shape in sign_gemm_float.TILES], ids=str)
@pytest.mark.parametrize(
    "rows, in_features, out_features", [(40, 256, 96), (7, 77, 1), (140, 300, 45)]
)
@pytest.mark.parametrize("scaled", [True, False], ids=["scales", "plain"])
def test_unrounded_halves(operands, tile, rows, in_features, out_features, scaled):
    values = operands(rows, in_features, out_features)
    x, signs, *given = (value.to(DEVICE) for value in values)
    g, h, bias = given if scaled else [None] * 3
    x = x.half()
    q, scale = quantize.quantize(x, g, None)
    y = sign_gemm_float.by_tiles(q, scale, kernels.pack_signs(signs), h, bias, torch.float32, tile)
    expected = reference.sign_matmul(x.float(), signs, g, h, bias, None)
    assert (y - expected).norm() < 1e-3 * expected.norm()


@needs_triton
@pytest.mark.parametrize(
    "tile", [sign_gemm_bitplane.SMALL, sign_gemm_bitplane.MEDIUM, sign_gemm_bitplane.LARGE], ids=str
)
@pytest.mark.parametrize("in_features", [512, 768, 1300])
def test_tiles_of_planes(operands, tile, in_features):
    """Whole and broken blocks of bytes, more rows and outputs than a tile has."""
    x, signs, *given = (value.to(DEVICE) for value in operands(140, in_features, 200))
    y = sign_gemm_bitplane.sign_matmul(x, kernels.pack_signs(signs), *given, tile=tile)
    assert torch.allclose(y, reference.sign_matmul(x, signs, *given, 8), rtol=1e-5, atol=1e-5)


def test_tiles_fit_the_gpu():
    capacity, num_sms = 170 << 10, 132  # of an H200
    assert sign_gemm_fused.tile_for(5, 512, 2048, capacity, num_sms) == (16, 16, 8)
    assert sign_gemm_fused.tile_for(40, 512, 2048, capacity, num_sms) == (16, 64, 8)
    assert sign_gemm_fused.tile_for(160, 512, 512, capacity, num_sms) == (16, 64, 8)
    assert (
        sign_gemm_fused.tile_for(160, 512, 1536, capacity, num_sms) is None
    )  # they would wait for others
    assert sign_gemm_fused.tile_for(40, 1024, 2048, 48 << 10, num_sms) is None  # of any GPU
    assert sign_gemm_fused.tile_for(5, 2048, 512, capacity, num_sms) is None  # too wide
    assert sign_gemm_fused.tile_for(0, 512, 512, capacity, num_sms) is None
    assert sign_gemm_bitplane.tile_for(40, 512, 1, num_sms) == sign_gemm_bitplane.SMALL
    assert sign_gemm_bitplane.tile_for(249, 768, 1, num_sms) == sign_gemm_bitplane.MEDIUM
    assert sign_gemm_bitplane.tile_for(249, 3072, 1, num_sms) == sign_gemm_bitplane.LARGE
    assert sign_gemm_bitplane.tile_for(249, 768, 3, num_sms) == sign_gemm_bitplane.MEDIUM
    assert (
        sign_gemm_bitplane.tile_for(4096, 192, 3, num_sms) == sign_gemm_bitplane.MEDIUM
    )  # 128 reach too far


@needs_triton
def test_broken_rows_stay_alone(operands):
    x, signs, g, h, bias = (value.to(DEVICE) for value in operands(4, 70, 20))
    x[1, 3], x[2, 0] = float("inf"), float("nan")
    y = sign_gemm_float.by_rows(x, kernels.pack_signs(signs), g, h, bias, 8)
    assert y.isnan().all(1).tolist() == [False, True, True, False]
    for kernel in EIGHT_BITS:
        y = kernel(x, kernels.pack_signs(signs), g, h, bias)
        assert y.isnan().all(1).tolist() == [False, True, True, False]
    assert not sign_gemm_float.by_rows(
        torch.zeros_like(x), kernels.pack_signs(signs), *[None] * 3, 8
    ).any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 32, 33, 200])
@pytest.mark.parametrize("bits", [8, None])
def test_on_a_gpu(operands, dtype, rows, bits):
    x, signs, g, h, bias = (value.cuda() for value in operands(rows, 256, 96))
    form = kernels.prepare(kernels.pack_signs(signs), 256, kernels.choose(x.device))
    y = kernels.sign_matmul(x.to(dtype), form, 96, g, h, bias, bits)
    expected = reference.sign_matmul(x.to(dtype).float(), signs, g, h, bias, bits)
    error = (y.float() - expected).norm() / expected.norm()
    assert y.dtype == dtype and error < {torch.float32: 1e-5}.get(dtype, 2e-2)
