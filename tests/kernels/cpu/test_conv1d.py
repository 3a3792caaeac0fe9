"""conv1d against torch's in double precision."""

import pytest
import torch
from torch.nn import functional as F

from cress_svcd import kernels
from cress_svcd.kernels.cpu import conv1d, sign_gemm

needs_windows = pytest.mark.skipif(
    not conv1d.is_available(), reason="no kernel for convolutions here, or it is not asked for"
)
# batch, frames, channels, outputs, kernel_size, stride, padding, groups
SHAPES = [
    (1, 1, 1, 1, 1, 1, 0, 1),
    (1, 700, 1, 40, 10, 5, 0, 1),
    (2, 77, 5, 23, 4, 3, 2, 1),
    (3, 66, 64, 48, 3, 2, 0, 1),
    (2, 40, 12, 20, 8, 1, 4, 4),
    (1, 9, 96, 33, 5, 2, 2, 1),
    (1, 1100, 8, 16, 2, 2, 0, 1),
]


@pytest.fixture(params=conv1d.WEIGHT_TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def weight(request):
    """Makes a weight of given sizes, in every type."""

    def make(out, channels, kernel_size):
        dense = torch.randn(out, channels, kernel_size)
        if request.param == torch.int8:
            return (dense * 40).round().clamp(-127, 127).to(torch.int8)
        return dense.to(request.param)

    return make


def distance(y, expected):
    return ((y - expected).norm() / expected.norm()).item()


def exact(x, weight, scale, bias, stride, padding, groups, gelu=False):
    y = F.conv1d(x.double().transpose(1, 2), weight.double(), None, stride, padding, 1, groups)
    y = y.transpose(1, 2) * scale.double() + bias.double()
    return F.gelu(y) if gelu else y


@pytest.mark.parametrize("groups", [1, 3])
def test_the_layout_gives_the_weight_back(weight, groups):
    dense = weight(21, 5, 7)
    assert torch.equal(conv1d.restore(conv1d.prepare(dense, groups), (21, 5, 7)), dense)


@needs_windows
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_it_is_the_convolution(weight, sizes, gelu):
    batch, frames, channels, out, kernel_size, stride, padding, groups = sizes
    torch.manual_seed(1)
    x, dense = torch.randn(batch, frames, channels), weight(out, channels // groups, kernel_size)
    scale, bias = torch.rand(batch, out) + 0.5, torch.randn(batch, out)
    tiles = conv1d.prepare(dense, groups)
    for scales in ((scale[0], bias[0]), (scale, bias), (scale, bias[0])):
        of_each = [each.expand(batch, out).unsqueeze(1) for each in scales]
        expected = exact(x, dense, *of_each, stride, padding, groups, gelu)
        for num_parts, tolerance in ((2, 1e-5), (1, 5e-3)):
            for threads in (1, 3):
                y = conv1d.convolve(
                    x,
                    tiles,
                    tuple(dense.shape),
                    *scales,
                    stride=stride,
                    padding=padding,
                    gelu=gelu,
                    num_parts=num_parts,
                    threads=threads,
                )
                assert y.shape == expected.shape
                assert distance(y, expected) < tolerance, (num_parts, threads)


@needs_windows
def test_any_magnitude_and_gelu_far_from_zero():
    weight = torch.ones(1, 1, 1, dtype=torch.int8)
    x = torch.tensor([0.0, 1e-45, 1e-30, -1e-3, 3, -5, 8, -12, -30, 1e4, -1e30, 1e30])
    x = x.view(1, -1, 1)
    tiles = conv1d.prepare(weight)
    for gelu in (False, True):
        y = conv1d.convolve(x, tiles, (1, 1, 1), torch.ones(1), gelu=gelu)
        expected = F.gelu(x.double()) if gelu else x.double()
        assert torch.allclose(y.double(), expected, rtol=1e-5, atol=2e-6)


@needs_windows
def test_nan_and_infinity_stay_in_their_windows(weight):
    dense = weight(20, 32, 3)
    x = torch.randn(2, 50, 32)
    x[0, 20, 3], x[1, 7, 0] = float("nan"), float("inf")
    y = conv1d.convolve(x, conv1d.prepare(dense), (20, 32, 3), torch.ones(20), stride=2)
    for utterance, broken in ((0, {9, 10}), (1, {3})):
        found = y[utterance].isnan().any(1).nonzero().flatten().tolist()
        assert set(found) == broken


@needs_windows
def test_an_utterance_does_not_see_its_batch(weight):
    dense, scales = weight(24, 16, 3), (torch.rand(24), torch.randn(24))
    x, tiles = torch.randn(3, 600, 16), conv1d.prepare(dense)
    together = conv1d.convolve(x, tiles, (24, 16, 3), *scales, stride=2, threads=2)
    memory = torch.full((3, 400, 24), 7.0)
    conv1d.convolve(x, tiles, (24, 16, 3), *scales, stride=2, out=memory[:, 50:349])
    assert torch.equal(memory[:, 50:349], together)
    assert bool((memory[:, :50] == 7).all() and (memory[:, 349:] == 7).all())
    for number in range(3):
        alone = conv1d.convolve(x[number : number + 1], tiles, (24, 16, 3), *scales, stride=2)
        assert torch.equal(alone[0], together[number])


@needs_windows
def test_any_strides():
    dense = torch.randn(16, 4, 3).bfloat16()
    tiles, ones = conv1d.prepare(dense), torch.ones(16)
    base = torch.randn(2, 60, 8)
    for x in (
        base[:, ::2, :4],
        base[:, :30, 2:6],
        base[:1, :30, :4].expand(2, 30, 4),
        base[:, :30, :1].expand(2, 30, 4),
        base[:, :4].transpose(1, 2),
    ):
        y = conv1d.convolve(x, tiles, (16, 4, 3), ones)
        expected = exact(x, dense, ones, torch.zeros(16), 1, 0, 1)
        assert distance(y, expected) < 1e-5


@pytest.mark.parametrize("sizes", [(1, 1, 16), (5, 100, 64), (7, 33, 20), (70, 48, 132)], ids=str)
def test_a_projection_from_rows_of_weights(sizes):
    rows, out, width = sizes
    torch.manual_seed(2)
    x, weight = torch.randn(rows, width), torch.randint(-127, 128, (out, width), dtype=torch.int8)
    if not conv1d.can_project(x, weight):
        pytest.skip("no AVX-512-VNNI, or it is not asked for")
    scale, bias = torch.rand(out), torch.randn(out)
    expected = x.double() @ weight.double().t() * scale + bias
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 1e-2)):
        y = conv1d.project(x.to(dtype).view(rows, 1, width), weight, scale, bias)
        assert y.dtype == dtype and y.shape == (rows, 1, out)
        assert distance(y.view(rows, out), expected) < tolerance
    x[0, 3] = float("inf")
    y = conv1d.project(x, weight, scale, None)
    assert bool(y[0].isnan().all()) and bool(y[1:].isfinite().all())


def test_projections_that_are_left_to_torch():
    weight = torch.zeros(3, 18, dtype=torch.int8)
    assert not conv1d.can_project(torch.zeros(1, 18), weight)
    assert not conv1d.can_project(torch.zeros(1, 64), torch.zeros(3, 64))
    assert not conv1d.can_project(torch.zeros(1, 64).double(), torch.zeros(3, 64).to(torch.int8))


@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.zeros(1, 20, 5)},
        {"x": torch.zeros(1, 20, 4).double()},
        {"x": torch.zeros(1, 2, 4)},
        {"shape": (17, 4, 3)},
        {"tiles": torch.zeros(1, 1, 1, 16, 16, 2)},
        {"scale": torch.ones(15)},
        {"bias": torch.ones(2, 16)},
        {"stride": 0},
        {"num_parts": 3},
        {"out": torch.zeros(1, 18, 15)},
        {"out": torch.zeros(1, 16, 18).transpose(1, 2)},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes):
    tiles = conv1d.prepare(torch.zeros(16, 4, 3, dtype=torch.int8))
    arguments = {
        "x": torch.zeros(1, 20, 4),
        "tiles": tiles,
        "shape": (16, 4, 3),
        "scale": torch.ones(16),
    } | changes
    with pytest.raises(ValueError, match="convolve: "):
        conv1d.convolve(**arguments)


def test_another_instruction_set_does_without(monkeypatch):
    if not kernels.backends()["cpu"].available:
        pytest.skip("the C kernels are not built")
    sign_gemm.isa_number.cache_clear()
    monkeypatch.setenv(sign_gemm.ISA_VARIABLE, "portable")
    try:
        assert not conv1d.is_available()
    finally:
        monkeypatch.undo()
        sign_gemm.isa_number.cache_clear()
