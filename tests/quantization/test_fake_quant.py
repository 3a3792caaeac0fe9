import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cress_svcd.quantization.fake_quant import (
    fake_quantize_tokens,
    quantize_tokens,
    straight_through,
)


@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9),
    bits=st.sampled_from([2, 4, 8, 16]),
)
@settings(deadline=None)
def test_values_are_within_half_a_step_and_signs_kept(values, bits):
    row = torch.tensor([values])
    peak = row.abs().max()
    step = peak / (2 ** (bits - 1) - 1)
    error = (fake_quantize_tokens(row, bits) - row).abs().max()
    assert error <= step * 0.5001 + 1e-30
    assert fake_quantize_tokens(row, bits).abs().max() <= peak * 1.00001


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_q_are_integers_over_a_power_of_two(dtype):
    x = torch.randn(20, 30).to(dtype)
    q, step = quantize_tokens(x, 8)
    unit = 128 if dtype in (torch.float16, torch.bfloat16) else 1
    integers = q.double() * unit
    assert torch.equal(integers, integers.round())
    assert (integers.abs().amax(1) == 127).all()  # the largest of each row is qmax
    torch.testing.assert_close((q * step).to(dtype), fake_quantize_tokens(x, 8))


def test_halves_round_to_even():
    """The rule of IEEE conversions, which integer kernels use too."""
    q, _ = quantize_tokens(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]]), 8)
    assert q.tolist() == [[127, 0, 2, 2, 0, -2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_do_not_touch_each_other(dtype):
    x = torch.randn(4, 8).to(dtype)
    x[1] = 0
    x[2] = float("nan")
    x[3] *= 1e-7
    alone = torch.cat([fake_quantize_tokens(row.unsqueeze(0), 8) for row in x])
    torch.testing.assert_close(fake_quantize_tokens(x, 8), alone, equal_nan=True, rtol=0, atol=0)
    assert (alone[1] == 0).all()
    assert alone[2].isnan().all()
    assert (alone[3] != 0).any()


def test_gain_is_applied_beyond_the_range_of_float16():
    x = torch.tensor([[4e4, -2e4]], dtype=torch.float16)
    q, step = quantize_tokens(x, 8, gain=torch.tensor([100.0, 100.0], dtype=torch.float16))
    torch.testing.assert_close(q * step, torch.tensor([[4e6, -2e6]]), rtol=1e-2, atol=0)


def test_the_input_is_left_alone():
    x = torch.randn(3, 4)
    before = x.clone()
    quantize_tokens(x, 8)
    quantize_tokens(x, None)
    assert torch.equal(x, before)


def test_gradients_pass_straight_through():
    x = torch.randn(2, 3, 4, requires_grad=True)
    weight = torch.randn(2, 3, 4)
    (fake_quantize_tokens(x, 8) * weight).sum().backward()
    assert torch.equal(x.grad, weight)
    latent = torch.randn(4, requires_grad=True)
    value = latent.sign()
    y = straight_through(latent, value)
    assert torch.equal(y, value)
    (y * weight[0, 0]).sum().backward()
    assert torch.equal(latent.grad, weight[0, 0])


def test_off_is_the_input_itself():
    x = torch.randn(3)
    assert fake_quantize_tokens(x, None) is x
