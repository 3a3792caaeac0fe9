"""Every back end and instruction set against the reference, which is against training elsewhere."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cress_svcd.kernels import reference

SIZES = [(1, 1), (3, 17), (64, 16), (65, 33), (200, 161), (512, 256)]
ROWS = [1, 2, 3, 4, 5, 7, 12, 13, 16, 17, 33, 64, 65, 300]


def distance(y, expected):
    return ((y - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("in_features, out_features", SIZES)
def test_eight_bits_are_the_reference_to_the_last_place(
    product, operands, in_features, out_features
):
    for rows in ROWS:
        x, signs, g, h, bias = operands(rows, in_features, out_features)
        expected = reference.sign_matmul(x, signs, g, h, bias, 8)
        y = product(x, signs, g, h, bias)
        assert torch.equal(y, expected), rows


@pytest.mark.parametrize("has_g, has_h, has_bias", [*itertools.product([False, True], repeat=3)])
def test_scales_may_be_left_out(product, operands, has_g, has_h, has_bias):
    x, signs, g, h, bias = operands(5, 70, 35)
    scales = [v if has else None for v, has in zip((g, h, bias), (has_g, has_h, has_bias))]
    assert torch.equal(product(x, signs, *scales), reference.sign_matmul(x, signs, *scales, 8))


@pytest.mark.parametrize("bits", [16, None])
@pytest.mark.parametrize("rows", [1, 3, 8, 9, 20, 130])
def test_hi_lo_split_loses_next_to_nothing(product, operands, bits, rows):
    x, signs, _, h, _ = operands(rows, 512, 96)
    expected = reference.sign_matmul(x.double(), signs.double(), None, h.double(), None, None)
    assert distance(product(x, signs, None, h, bits=bits).double(), expected) < 5e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(product, operands, dtype, request):
    if dtype == torch.float64 and "cpu-" in request.node.name:
        pytest.skip("float64 never reaches the C kernels: the operator takes the reference")
    x, signs, g, h, bias = operands(6, 100, 40)
    x = x.to(dtype)
    y = product(x, signs, g, h, bias)
    expected = reference.sign_matmul(x.double(), signs.double(), g, h, bias, 8)
    assert y.dtype == dtype
    assert distance(y.double(), expected) < {2: 4e-3, 8: 1e-9}[dtype.itemsize]


def test_any_strides(product, operands):
    x, signs, g, h, bias = operands(24, 96, 20)
    views = {
        "leading dimensions": x.view(2, 3, 4, 96),
        "transposed": x.t().contiguous().t(),
        "every other row": x[::2],
        "columns of a wider one": torch.cat([x, x], 1)[:, 7:103],
        "one row for all": x[:1].expand(8, 96),
        "no rows": x[:0],
        "one dimension": x[0],
        "swapped": x.view(4, 6, 96).transpose(0, 1),
    }
    for name, view in views.items():
        expected = reference.sign_matmul(view, signs, g, h, bias, 8)
        y = product(view, signs, g, h, bias)
        assert y.shape == expected.shape and torch.equal(y, expected), name


@pytest.mark.parametrize("bits", [8, 16, None])
def test_nan_and_infinity_break_their_own_row_only(product, operands, bits):
    x, signs, g, h, bias = operands(20, 70, 18)
    clean = product(x, signs, g, h, bias, bits)
    x[3, 5], x[7, 69], x[9, 0], x[17, 1] = float("nan"), float("inf"), -float("inf"), 3e38
    g[1] = 1e3  # 3e38 * 1e3 overflows; the other rows must not be those of ``clean`` for that
    expected = reference.sign_matmul(x, signs, g, h, bias, 8)
    y = product(x, signs, g, h, bias, bits)
    broken = {3, 7, 9, 17}
    for row in range(20):
        assert bool(y[row].isnan().all()) == (row in broken) == bool(expected[row].isnan().all())
    assert clean.isfinite().all()


def test_zeros_and_denormals(product):
    x = torch.tensor(
        [[0.0, 0, 0], [-0.0, 0, 0], [1e-40, -1e-41, 0], [1e-30, 2e-30, 0], [1e-45, 0, 1]]
    )
    signs = torch.tensor([[1.0, -1, 1], [-1, -1, -1]])
    for bits in (8, 16):
        y, expected = (
            product(x, signs, bits=bits),
            reference.sign_matmul(x, signs, None, None, None, bits),
        )
        assert y.isfinite().all()
        assert torch.allclose(y, expected, rtol=1e-4, atol=1e-33)
    assert torch.equal(product(x[:2], signs), torch.zeros(2, 2))


SPECIAL = st.sampled_from(
    [
        0.0,
        -0.0,
        1e-45,
        -1e-40,
        1e-30,
        1.0,
        -127.0,
        0.5,
        3e38,
        float("nan"),
        float("inf"),
        -float("inf"),
    ]
)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_whatever_the_input(product, operands, data):
    rows, in_features = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 150))
    out_features = data.draw(st.integers(1, 70))
    x, signs, g, h, bias = operands(rows, in_features, out_features, data.draw(st.integers(0, 99)))
    x *= 10.0 ** data.draw(st.integers(-30, 30))
    for value in data.draw(st.lists(SPECIAL, max_size=4)):
        x[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, in_features - 1))] = value
    y, expected = (f(x, signs, g, h, bias, 8) for f in (product, reference.sign_matmul))
    # The reference may fuse the product with h and the bias, which rounds once instead of twice.
    tolerance = 1e-6 * expected.nan_to_num(0, 0, 0).abs().max()
    assert torch.allclose(y, expected, rtol=1e-5, atol=float(tolerance), equal_nan=True)
