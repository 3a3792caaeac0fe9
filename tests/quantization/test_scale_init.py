import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.scale_init import INITS, initial_scales, rank_one


@given(rows=st.integers(1, 30), columns=st.integers(1, 30), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_svid_is_the_best_rank_one_of_the_magnitudes(rows, columns, seed):
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns, dtype=torch.float64)
    g, h = initial_scales("svid", weight)
    u, s, v = torch.linalg.svd(weight.abs())
    best = s[0] * torch.outer(u[:, 0], v[0])
    torch.testing.assert_close(torch.outer(h, g), best, rtol=1e-4, atol=1e-5)
    assert (g >= 0).all()
    assert (h >= 0).all()


def test_svid_brings_signs_nearer_than_any_other_start():
    weight = torch.randn(60, 40) * torch.rand(60, 1) * torch.rand(40)
    error = {}
    for init in ("svid", "row", "constraint", "svd"):
        g, h = initial_scales(init, weight)
        error[init] = (weight - torch.outer(h, g) * weight.sign()).norm()
    assert min(error, key=error.get) == "svid"


def test_svid_shares_the_scale_between_g_and_h():
    g, h = initial_scales("svid", 1e-3 * torch.randn(2000, 30))
    torch.testing.assert_close(g.square().mean(), h.square().mean())


def test_rank_one_ignores_what_lies_outside_the_support():
    left, right = torch.rand(12) + 0.1, torch.rand(9) + 0.1
    magnitude = torch.outer(left, right)
    support = (torch.rand(12, 9) > 0.3).float()
    spoiled = torch.where(support > 0, magnitude, 1e3)
    found_left, found_right = rank_one(spoiled, support)
    torch.testing.assert_close(
        torch.outer(found_left, found_right), magnitude, rtol=1e-4, atol=1e-5
    )


def test_empty_rows_and_columns_are_zero():
    weight = torch.randn(5, 6)
    weight[2], weight[:, 3] = 0, 0
    g, h = initial_scales("svid", weight)
    assert h[2] == 0 and g[3] == 0
    assert g.isfinite().all() and h.isfinite().all()


def test_row_is_the_mean_magnitude_of_each_row():
    weight = torch.tensor([[1.0, -3.0], [0.0, 4.0]])
    g, h = initial_scales("row", weight)
    assert g.tolist() == [1, 1]
    assert h.tolist() == [2, 2]
    _, h = initial_scales("row", weight, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert h.tolist() == [1, 4]


def test_constraint_is_uniform_in_one_over_root_fan_in():
    g, h = initial_scales("constraint", torch.empty(3000, 400))
    bound = 1 / math.sqrt(400)
    for scale, size in ((g, 400), (h, 3000)):
        assert len(scale) == size
        assert scale.abs().max() <= bound
        assert scale.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_unconstrained_is_standard_normal():
    _, h = initial_scales("unconstrained", torch.empty(3000, 4))
    assert h.std() == pytest.approx(1, rel=0.1)


def test_svd_is_the_published_code():
    """There, on the transposed matrix: g = U[:, 0] and h = VT[0]."""
    weight = torch.randn(7, 5, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(weight.t())
    g, h = initial_scales("svd", weight)
    torch.testing.assert_close(torch.outer(h, g), torch.outer(vt[0], u[:, 0]))
    assert g.norm() == pytest.approx(1)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_all_starts_have_the_layers_shape_and_are_finite(init, dtype):
    g, h = initial_scales(init, torch.randn(6, 9).to(dtype))
    assert (g.shape, h.shape) == ((9,), (6,))
    assert g.isfinite().all() and h.isfinite().all()
    assert g.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)


def test_an_unknown_start_is_refused():
    with pytest.raises(ConfigError, match="init: found 'svdi'.*did you mean"):
        initial_scales("svdi", torch.randn(2, 2))
