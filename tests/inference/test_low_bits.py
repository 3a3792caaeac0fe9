"""Weights of 1 to 4 bits: the grid, its scales, and the planes that a file holds."""

import numpy as np
import pytest
import torch

from cress_svcd.errors import CheckpointError
from cress_svcd.inference.int8_modules import (
    CompactConv1d,
    Int8Embedding,
    Int8Projection,
    dequantize_rows,
)
from cress_svcd.inference.low_bits import (
    from_bit_planes,
    require_described,
    to_bit_planes,
    widen,
)
from cress_svcd.quantization.low_bit_grid import CHOICES, quantize_low


def weights(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("bits", CHOICES)
@pytest.mark.parametrize("shape", [(5, 16), (12, 3, 7), (1, 1)], ids=str)
def test_planes_come_back_to_the_bit(bits, shape):
    qmax = 2**bits - 1
    q = torch.randint(0, 2**bits, shape, dtype=torch.int8) * 2 - qmax
    q.flatten()[[0, -1]] = torch.tensor([-qmax, qmax], dtype=torch.int8)
    planes = to_bit_planes(q, bits)
    width = int(np.prod(shape[1:]))
    assert planes.dtype == torch.uint8 and planes.shape == (shape[0], bits, -(-width // 8))
    assert torch.equal(from_bit_planes(planes, shape), q)
    # The formula of the file, by numpy: q is the sum of 2^i times -1 or +1.
    signs = np.unpackbits(planes.numpy(), axis=2, bitorder="little")[:, :, :width] * 2.0 - 1
    total = (signs * 2.0 ** np.arange(bits)[None, :, None]).sum(1)
    assert (total.reshape(shape) == q.numpy()).all()


@pytest.mark.parametrize("bits", CHOICES)
def test_q_is_the_nearest_and_scale_fits_it(bits):
    weight = weights(20, 4, 9)
    weight[3] = 0
    weight[4] = 0
    weight[4, 0, 0] = 7
    q, scale = quantize_low(weight, bits)
    qmax = 2**bits - 1
    assert q.dtype == torch.int8 and q.shape == weight.shape and scale.shape == (20,)
    assert set(q.flatten().tolist()) <= set(range(-qmax, qmax + 1, 2))
    dense = dequantize_rows(q, scale)
    assert torch.equal(dense[3], torch.zeros(4, 9))
    grid = torch.arange(-qmax, qmax + 1, 2).float()
    nearest = (weight.unsqueeze(-1) - scale.view(-1, 1, 1, 1) * grid).abs().amin(-1)
    torch.testing.assert_close((weight - dense).abs(), nearest)
    # No worse than the grid over the whole range, and than other scales near.
    error = (weight - dense).square().flatten(1).sum(1)
    for factor in (0.9, 1.1, None):
        other = weight.flatten(1).abs().amax(1) / qmax if factor is None else scale * factor
        there = (weight.unsqueeze(-1) - other.view(-1, 1, 1, 1) * grid).square().amin(-1)
        assert (error <= there.flatten(1).sum(1) * (1 + 1e-5) + 1e-9).all()


def test_one_bit_is_the_sign_with_the_mean_magnitude():
    weight = weights(6, 30)
    q, scale = quantize_low(weight, 1)
    assert torch.equal(q, weight.sign().to(torch.int8))
    torch.testing.assert_close(scale, weight.abs().mean(1))


@pytest.mark.parametrize("bits", CHOICES)
def test_modules_compute_from_planes_what_they_compute_from_int8(bits):
    conv = torch.nn.Conv1d(16, 24, 3, padding=1)
    table, linear = torch.nn.Embedding(30, 16), torch.nn.Linear(16, 30)
    x = weights(2, 16, 11)
    for module, weight, given in (
        (CompactConv1d(conv, torch.int8), conv.weight, x),
        (Int8Projection(linear, *quantize_low(linear.weight, 2)), linear.weight, x.mT),
        (Int8Embedding(table, *quantize_low(table.weight, 2)), table.weight, torch.arange(30)),
    ):
        q, scale = quantize_low(weight, bits)
        rest = {"scale": scale} | ({} if module.__class__ is Int8Embedding else {"bias": scale * 0})
        module.load_state_dict({"weight": q, **rest})
        expected = module(given)
        state = {"weight": to_bit_planes(q, bits), **rest}
        module.load_state_dict({"weight": q * 0, **rest})
        module.load_state_dict(state)
        assert torch.equal(module(given), expected)
        assert torch.equal(module.state_dict()["weight"], q)
        assert state["weight"].dtype == torch.uint8  # the caller's


def test_tied_tables_stay_tied():
    planes = to_bit_planes(quantize_low(weights(9, 5), 3)[0], 3)
    how = {"bits": 3, "shape": [9, 5]}
    wide = widen({"a.weight": planes, "b.weight": planes}, {"a": how, "b": how})
    assert wide["a.weight"] is wide["b.weight"] and wide["a.weight"].shape == (9, 5)


def test_what_is_not_of_its_shape_is_refused():
    planes = to_bit_planes(quantize_low(weights(9, 5), 3)[0], 3)
    for shape in ((9, 9), (8, 5), (9, 1, 12)):
        with pytest.raises(CheckpointError, match="bit planes of shape"):
            from_bit_planes(planes, shape)
    with pytest.raises(CheckpointError, match="expected 1 to 4"):
        from_bit_planes(torch.zeros(9, 5, 1, dtype=torch.uint8), (9, 5))
    with pytest.raises(CheckpointError, match="expected 3 bit planes there"):
        widen({}, {"a": {"bits": 3, "shape": [9, 5]}})


@pytest.mark.parametrize(
    "wrong",
    [[], {"a": 4}, {"a": {"bits": 9, "shape": [1, 2]}}, {"a": {"bits": 4, "shape": [2, -1]}}],
    ids=str,
)
def test_a_description_is_checked(wrong):
    require_described({"a": {"bits": 4, "shape": [2, 3]}})
    with pytest.raises(CheckpointError, match="low_bits"):
        require_described(wrong)
