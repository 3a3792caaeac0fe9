"""Each method that BitLinear is compared with, against its paper's formula in plain numpy."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cress_svcd.errors import ConfigError
from cress_svcd.quantization import METHODS, QuantLinear
from cress_svcd.quantization.base import option_names
from cress_svcd.quantization.methods.quest import rotate
from cress_svcd.quantization.methods.uniform import absmax_step, best_step

WIDTHS = [(name, bits) for name, method in METHODS.items() for bits in method.WEIGHT_BITS]


VARIANTS = [*((name, {"bits": bits}) for name, bits in WIDTHS), ("svcd", {"variant": "paper"})]


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(32, 12).double()


@pytest.fixture
def x():
    return torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def numpy_of(*tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def absmax_8_bit(x: np.ndarray) -> np.ndarray:
    scale = 127 / np.abs(x).max(axis=-1, keepdims=True)
    return np.round(x * scale) / scale


def test_bitnet(linear, x):
    """Eq. 1-3 (weights), 4-6 (activations), 11 (product): y = W~ Quant(LN(x)) * beta."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    signs = np.where(weight - weight.mean() > 0, 1, -1)
    beta = np.abs(weight).sum() / weight.size
    normed = (x_ - x_.mean(-1, keepdims=True)) / np.sqrt(x_.var(-1, keepdims=True) + 1e-5)
    expected = absmax_8_bit(normed) @ signs.T * beta + bias
    layer = METHODS["bitnet"].from_linear(linear)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-9)


def test_bitnet158(linear, x):
    """Eq. 1-3: RoundClip(W / gamma, -1, 1) with gamma the mean magnitude; RMSNorm before."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    gamma = np.abs(weight).mean()
    q = np.maximum(-1, np.minimum(1, np.round(weight / gamma)))
    normed = x_ / np.sqrt((x_**2).mean(-1, keepdims=True) + 1e-5)
    expected = absmax_8_bit(normed) @ (q * gamma).T + bias
    layer = METHODS["bitnet158"].from_linear(linear)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-9)


def test_bitnet158_reloaded(linear, x):
    """The median of the magnitudes, lower of two; layer norm; gradient straight through."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    gamma = np.sort(np.abs(weight), axis=None)[(weight.size - 1) // 2]
    q = np.maximum(-1, np.minimum(1, np.round(weight / gamma)))
    assert 0 < (q == 0).mean() < 0.5
    normed = (x_ - x_.mean(-1, keepdims=True)) / np.sqrt(x_.var(-1, keepdims=True) + 1e-5)
    expected = absmax_8_bit(normed) @ (q * gamma).T + bias
    layer = METHODS["bitnet158_reloaded"].from_linear(linear)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-9)
    layer(x).sum().backward()
    straight = torch.from_numpy(absmax_8_bit(normed)).sum(0).expand_as(layer.weight)
    torch.testing.assert_close(layer.weight.grad, straight)


def test_onebit(linear, x):
    """Eq. 2 and 3: LN([(X * g) W1^T] * h), scales from the SVID of |W|, no parameters in LN."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    u, s, v = np.linalg.svd(np.abs(weight))
    y = x_ @ (np.sign(weight) * (s[0] * np.outer(u[:, 0], v[0]))).T
    normed = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    layer = METHODS["onebit"].from_linear(linear)
    np.testing.assert_allclose(layer(x).detach().numpy(), normed + bias, atol=1e-4)
    plain = METHODS["onebit"].from_linear(linear, output_norm=False)
    np.testing.assert_allclose(plain(x).detach().numpy(), y + bias, atol=1e-4)


def test_onebit_gradient_of_the_sign(linear, x):
    layer = METHODS["onebit"].from_linear(linear, output_norm=False)
    layer(x).sum().backward()
    straight = layer.h.unsqueeze(1) * (x * layer.g).sum(0)
    expected = straight * (1.001 - torch.tanh(linear.weight) ** 2)
    torch.testing.assert_close(layer.weight.grad, expected.detach())


@pytest.mark.parametrize("bits", [1, 1.58])
def test_tbt_weights(linear, x, bits):
    """Row statistics: mean magnitude; ternary 4/3 of it, rounded after clipping."""
    (weight,) = numpy_of(linear.weight)
    alpha = np.abs(weight).mean(axis=1, keepdims=True)
    if bits == 1:
        expected = alpha * np.sign(weight)
    else:
        expected = 4 / 3 * alpha * np.round(np.clip(weight / (4 / 3 * alpha), -1, 1))
    layer = METHODS["tbt"].from_linear(linear, bits=bits, activation_bits=None)
    np.testing.assert_allclose(layer.quantized_weight().numpy(), expected, atol=1e-12)
    torch.testing.assert_close(layer(x), F.linear(x, torch.from_numpy(expected), linear.bias))


@pytest.mark.parametrize(
    "bits, signed, low, high",
    [(1, True, -1, 1), (2, True, -1, 1), (8, True, -128, 127), (2, False, 0, 2), (4, False, 0, 15)],
)
def test_tbt_elastic_activations(linear, x, bits, signed, low, high):
    """alpha * round(clip(x / alpha)), and LSQ's gradients for x and alpha."""
    layer = METHODS["tbt"].from_linear(linear, activation_bits=bits, signed=signed)
    with torch.no_grad():
        layer.step.fill_(0.4)
    (ratio,) = numpy_of(x / 0.4)
    q = np.sign(ratio) if bits == 1 else np.clip(np.round(ratio), low, high)
    x = x.clone().requires_grad_()
    quantised = layer.prepare_input(x, layer)
    np.testing.assert_allclose(quantised.detach().numpy(), 0.4 * q, atol=1e-12)
    quantised.sum().backward()
    inside = (ratio >= low) & (ratio <= high)
    np.testing.assert_array_equal(x.grad.numpy(), inside)
    gradient = q if bits == 1 else np.where(inside, q - ratio, q)
    expected = gradient.sum() / math.sqrt(ratio.size * high)
    assert layer.step.grad.item() == pytest.approx(expected)


def test_tbt_step_starts_by_the_papers_rule(linear):
    """2 mean|x| / sqrt(Qp), for inputs of unit variance or of a batch at hand."""
    layer = METHODS["tbt"].from_linear(linear)
    assert layer.step.item() == pytest.approx(2 * math.sqrt(2 / math.pi) / math.sqrt(127), rel=1e-5)
    layer.calibrate(torch.full((3, 32), -5.0))
    assert layer.step.item() == pytest.approx(10 / math.sqrt(127), rel=1e-5)


# Half the width of the best uniform grid for a normal variable, in standard deviations.
QUEST_SCALES = {
    1: 0.7978845608,
    2: 1.4935346200,
    4: 2.5139305786,
    8: 3.8849386788,
}


@pytest.mark.parametrize("frequency", [20, None])
def test_biper(linear, x, frequency):
    """sign(sin(f W)) forward, f cos(f W) backward, a scale a row."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    f = frequency or np.pi / 2 / np.abs(weight).max()
    scale = np.abs(weight).mean(1)
    signs = np.sign(np.sin(f * weight))
    assert (signs == np.sign(weight)).all() == (frequency is None)
    layer = METHODS["biper"].from_linear(linear, frequency=frequency)
    y = layer(x)
    expected = absmax_8_bit(x_) @ (signs * scale[:, None]).T + bias
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-7)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    straight = upstream.numpy().T @ absmax_8_bit(x_)
    gradient = straight * scale[:, None] * f * np.cos(f * weight)
    np.testing.assert_allclose(layer.weight.grad.numpy(), gradient, atol=1e-6)
    np.testing.assert_allclose(layer.h.grad.numpy(), (straight * signs).sum(1), atol=1e-6)


@pytest.mark.parametrize("frequency", [0, -1, "20", math.inf, True])
def test_a_frequency_is_a_number_above_0(frequency):
    with pytest.raises(ConfigError, match="frequency"):
        METHODS["biper"](4, 4, frequency=frequency)


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_bipft(linear, x, rank):
    """a sign(W) Q(x) and the best estimate of rank r of the rest, which is trained."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    binary = np.abs(weight).mean(1, keepdims=True) * np.sign(weight)
    u, s, v = np.linalg.svd(weight - binary, full_matrices=False)
    estimate = (u[:, :rank] * s[:rank]) @ v[:rank]
    layer = METHODS["bipft"].from_linear(linear, rank=rank)
    y = layer(x)
    expected = absmax_8_bit(x_) @ binary.T + x_ @ estimate.T + bias
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-9)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    straight = upstream.numpy().T @ absmax_8_bit(x_)
    np.testing.assert_allclose(layer.weight.grad.numpy(), straight, atol=1e-9)
    np.testing.assert_allclose(layer.up.grad, upstream.T @ (x @ layer.down.T).detach(), atol=1e-9)
    np.testing.assert_allclose(layer.down.grad, (upstream @ layer.up).T.detach() @ x, atol=1e-9)


@pytest.mark.parametrize("rank", [0, 1.0, "1"])
def test_a_rank_is_a_whole_number_above_0(rank):
    with pytest.raises(ConfigError, match="rank"):
        METHODS["bipft"](4, 4, rank=rank)


def test_db_llm(linear, x):
    """Two binaries by the paper's thresholds, from the grid -s, 0, s, 2 s; scales are trained."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    layer = METHODS["db_llm"].from_linear(linear)
    h, h2 = numpy_of(layer.h, layer.h2)
    np.testing.assert_allclose(h, -2 * h2)
    grid = np.array([-1, 0, 1, 2]) * -h2[:, None]
    nearest = np.abs(weight[:, :, None] - grid[:, None]).min(-1)
    np.testing.assert_allclose(np.abs(layer.quantized_weight().numpy() - weight), nearest)
    with torch.no_grad():
        layer.h *= 1.2
        layer.h2 *= 0.7
    h, h2 = (each[:, None] for each in numpy_of(layer.h, layer.h2))
    first = (weight - (h + h2) / 2 >= 0) * 1.0
    second = (-(weight - h * first - h2 / 2) >= 0) * 1.0
    assert all(((first == a) & (second == b)).any() for a in (0, 1) for b in (0, 1))
    y = layer(x)
    expected = absmax_8_bit(x_) @ (h * first + h2 * second).T + bias
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-9)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    straight = upstream.numpy().T @ absmax_8_bit(x_)
    np.testing.assert_allclose(layer.weight.grad.numpy(), straight, atol=1e-9)
    np.testing.assert_allclose(layer.h.grad.numpy(), (straight * first).sum(1), atol=1e-9)
    np.testing.assert_allclose(layer.h2.grad.numpy(), (straight * second).sum(1), atol=1e-9)


def test_db_llm_starts_at_the_least_error(linear):
    weight = linear.weight.detach()
    layer = METHODS["db_llm"].from_linear(linear)
    best = (layer.quantized_weight() - weight).square().sum(1)
    for factor in (0.8, 0.9, 1.1, 1.25):
        with torch.no_grad():
            layer.reset_scales()
            layer.h *= factor
            layer.h2 *= factor
        assert ((layer.quantized_weight() - weight).square().sum(1) >= 0.98 * best).all()


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_pb_llm(linear, x, share):
    """The largest magnitudes in 8 bits and frozen, the others a sign times their mean magnitude."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    salient = np.abs(weight) >= np.sort(np.abs(weight), axis=None)[-round(share * weight.size)]
    expected = np.zeros_like(weight)
    for row, mask, out in zip(weight, salient, expected):
        out[~mask] = np.abs(row[~mask]).mean() * np.sign(row[~mask])
        if mask.any():
            step = np.abs(row[mask]).max() / 127
            out[mask] = np.round(row[mask] / step) * step
    layer = METHODS["pb_llm"].from_linear(linear, share=share)
    np.testing.assert_allclose(layer.quantized_weight().numpy(), expected, atol=1e-12)
    y = layer(x)
    np.testing.assert_allclose(y.detach().numpy(), absmax_8_bit(x_) @ expected.T + bias, atol=1e-9)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    straight = (upstream.numpy().T @ absmax_8_bit(x_)) * ~salient
    np.testing.assert_allclose(layer.weight.grad.numpy(), straight, atol=1e-9)
    with torch.no_grad():
        layer.weight.mul_(torch.from_numpy(np.where(salient, 1, 50)))
    assert (layer.salient.numpy() == salient).all()
    kept = layer.quantized_weight().numpy()[salient]
    np.testing.assert_allclose(kept, expected[salient], atol=1e-12)
    assert layer.weight_bits == pytest.approx(2 + 7 * share)


@pytest.mark.parametrize("name", ["pb_llm", "ptq161"])
@pytest.mark.parametrize("share", [0, 1.0, -0.1, "0.1", math.nan])
def test_a_share_is_between_0_and_1(name, share):
    with pytest.raises(ConfigError, match="share"):
        METHODS[name](4, 4, share=share)


@pytest.mark.parametrize("bits", [8, 1])
def test_bibert(linear, x, bits):
    """mean|W| sign(W - mean W) by rows; gradients are those of what is clipped to [-1, 1]."""
    with torch.no_grad():
        linear.weight *= 8
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    signs = np.where(weight >= weight.mean(1, keepdims=True), 1, -1)
    scale = np.abs(weight).mean(1, keepdims=True)
    q = np.where(x_ >= 0, 1, -1) if bits == 1 else absmax_8_bit(x_)
    layer = METHODS["bibert"].from_linear(linear, activation_bits=bits)
    x = x.clone().requires_grad_()
    y = layer(x)
    np.testing.assert_allclose(y.detach().numpy(), q @ (signs * scale).T + bias, atol=1e-9)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    inside = np.abs(weight - weight.mean(1, keepdims=True)) <= 1
    assert 0.1 < inside.mean() < 0.9
    straight = (upstream.numpy().T @ q) * inside
    expected = straight - straight.mean(1, keepdims=True)
    np.testing.assert_allclose(layer.weight.grad.numpy(), expected, atol=1e-9)
    passed = np.abs(x_) <= 1 if bits == 1 else 1
    expected = (upstream.numpy() @ (signs * scale)) * passed
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-9)


def test_bivit(linear, x):
    """sign(W) with a trained scale a row, which does not follow the weights."""
    with torch.no_grad():
        linear.weight *= 8
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    layer = METHODS["bivit"].from_linear(linear)
    np.testing.assert_allclose(layer.h.detach(), np.abs(weight).mean(1), atol=1e-6)
    with torch.no_grad():
        layer.h.copy_(torch.linspace(0.5, 2, 12))
    h = layer.h.detach().numpy()[:, None]
    y = layer(x)
    expected = absmax_8_bit(x_) @ (np.sign(weight) * h).T + bias
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-9)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    straight = upstream.numpy().T @ absmax_8_bit(x_)
    expected = straight * h * (np.abs(weight) <= 1)
    np.testing.assert_allclose(layer.weight.grad.numpy(), expected, atol=1e-9)
    expected = (straight * np.sign(weight)).sum(1)
    np.testing.assert_allclose(layer.h.grad.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("calibrated", [False, True])
def test_ptq161(linear, x, calibrated):
    """r c (a sign(W - m) + m) by the authors' code, and 16 values for the salient channels."""
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    layer = METHODS["ptq161"].from_linear(linear, share=0.25)
    inputs = torch.randn(50, 32).double() * torch.linspace(1, 3, 32)
    size = np.abs(weight).mean(0)
    if calibrated:
        layer.calibrate(inputs)
        size = inputs.abs().mean(0).numpy()
    salient = size >= np.sort(size)[-8]
    np.testing.assert_allclose(layer.a.detach(), np.abs(weight[:, ~salient]).mean(1))
    with torch.no_grad():
        for scale in (layer.a, layer.r, layer.c):
            scale.mul_(torch.rand_like(scale) + 0.5)
    a, r, c = numpy_of(layer.a, layer.r, layer.c)
    m = weight[:, ~salient].mean(1, keepdims=True)
    signs = np.sign(weight - m)
    expected = np.outer(r, c) * (a[:, None] * signs + m)
    kept = weight[:, salient]
    low = kept.min(1, keepdims=True)
    step = (kept.max(1, keepdims=True) - low) / 15
    expected[:, salient] = np.round((kept - low) / step) * step + low
    np.testing.assert_allclose(layer.quantized_weight().numpy(), expected, atol=1e-7)
    y = layer(x)
    np.testing.assert_allclose(y.detach(), absmax_8_bit(x_) @ expected.T + bias, atol=1e-6)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    straight = upstream.numpy().T @ absmax_8_bit(x_)
    np.testing.assert_allclose(layer.weight.grad.numpy(), straight, atol=1e-9)
    gradient = (straight * np.outer(r, c) * signs)[:, ~salient].sum(1)
    np.testing.assert_allclose(layer.a.grad.numpy(), gradient, atol=1e-6)
    assert (layer.c.grad.numpy()[salient] == 0).all() and layer.c.grad.abs().sum() > 0
    assert layer.weight_bits == 1.75


def quest_in_numpy(rows: np.ndarray, bits: int) -> np.ndarray:
    scale = QUEST_SCALES[bits] * np.sqrt((rows**2).mean(-1, keepdims=True))
    step = 2 * scale / (2**bits - 1)
    return np.round(np.clip(rows, -scale, scale) / step + 0.5) * step - step / 2


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_quest(linear, x, bits):
    """Rotated, divided by the root mean square, to the nearest of 2^bits levels, times it."""
    hadamard = np.array([[1.0]])
    for _ in range(5):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    hadamard /= np.sqrt(32)
    weight, bias, x_ = numpy_of(linear.weight, linear.bias, x)
    quantised = quest_in_numpy(weight @ hadamard, bits)
    expected = quest_in_numpy(x_ @ hadamard, 8) @ quantised.T + bias
    layer = METHODS["quest"].from_linear(linear, bits=bits)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(layer.quantized_weight().numpy(), quantised @ hadamard.T, atol=1e-9)


@pytest.mark.parametrize("bits", [1, 2])
def test_quest_trusts_gradients_within_half_a_step(linear, bits):
    """Section 3.2: the gradient of a rotated entry passes if its error is below half a step."""
    layer = METHODS["quest"].from_linear(linear, bits=bits, activation_bits=None)
    rotated = rotate(linear.weight.detach())
    scale = QUEST_SCALES[bits] * rotated.square().mean(1, keepdim=True).sqrt()
    step = 2 * scale / (2**bits - 1)
    mask = rotated.abs() <= scale + step / 2
    assert 0.01 < (~mask).double().mean() < 0.2
    upstream = torch.randn_like(rotated)
    layer.estimated_weight().backward(upstream)
    torch.testing.assert_close(layer.weight.grad, rotate(upstream * mask))


@pytest.mark.parametrize("size", [1, 6, 96, 384, 512])
def test_rotation_is_its_own_inverse_and_keeps_lengths(size):
    x = torch.randn(3, size, dtype=torch.float64)
    torch.testing.assert_close(rotate(rotate(x)), x)
    torch.testing.assert_close(rotate(x).norm(dim=1), x.norm(dim=1))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_absmax(linear, x, bits):
    """The largest weight of a row is its outermost level; 2^bits levels without zero."""
    (weight,) = numpy_of(linear.weight)
    step = np.abs(weight).max(1, keepdims=True) / (2 ** (bits - 1) - 0.5)
    levels = (np.arange(2**bits) - (2**bits - 1) / 2) * step[:, :, None]
    nearest = np.abs(weight[:, :, None] - levels).argmin(-1)
    expected = np.take_along_axis(levels.squeeze(1), nearest, axis=1)
    layer = METHODS["uniform"].from_linear(linear, bits=bits, scale="absmax")
    np.testing.assert_allclose(layer.quantized_weight().numpy(), expected, atol=1e-12)
    layer(x).sum().backward()
    straight = torch.from_numpy(absmax_8_bit(x.numpy())).sum(0).expand_as(layer.weight)
    torch.testing.assert_close(layer.weight.grad, straight)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_learned_step_starts_at_the_least_error(linear, bits):
    weight = linear.weight.detach()
    learned = METHODS["uniform"].from_linear(linear, bits=bits)
    absmax = METHODS["uniform"].from_linear(linear, bits=bits, scale="absmax")
    errors = [(layer.quantized_weight() - weight).square().sum(1) for layer in (learned, absmax)]
    assert (errors[0] <= errors[1]).all()
    if bits == 2:
        assert errors[0].sum() < 0.8 * errors[1].sum()
    assert (best_step(weight, bits) <= absmax_step(weight, bits)).all()


def test_uniform_learned_step_has_lsqs_gradient(linear):
    layer = METHODS["uniform"].from_linear(linear, bits=2)
    with torch.no_grad():
        layer.step.mul_(0.7)  # so that some weights lie outside
    layer.estimated_weight().sum().backward()
    weight, step = numpy_of(linear.weight, layer.step)
    ratio = weight / step
    inside = np.abs(ratio) <= 2
    assert 0 < (~inside).sum() < inside.size / 2
    np.testing.assert_array_equal(layer.weight.grad.numpy(), inside)
    q = np.clip(np.floor(ratio) + 0.5, -1.5, 1.5)
    gradient = np.where(inside, q - ratio, q).sum(1, keepdims=True)
    np.testing.assert_allclose(layer.step.grad.numpy(), gradient / np.sqrt(32 * 1.5), atol=1e-9)


@pytest.mark.parametrize("name, bits", WIDTHS)
class TestAllMethods:
    def test_the_levels_fit_the_bits(self, name, bits):
        """No row has more distinct magnitudes than its bits can tell apart."""
        layer = METHODS[name](16, 9, bits=bits).double()
        weight = layer.quantized_weight()
        if name == "quest":
            weight = rotate(weight)
        if name == "bipft":
            weight = weight - layer.up @ layer.down
        if name in ("svcd", "onebit"):
            weight = weight / (layer.h.unsqueeze(1) * layer.g)
        levels = 3 if bits == 1.58 else 2**bits
        if name in ("pb_llm", "ptq161"):
            weight = weight * ~layer.salient
            levels += 1
        for row in weight:
            assert len(row.detach().mul(1e6).round().unique()) <= levels

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_halves_train(self, name, bits, dtype):
        layer = METHODS[name].from_linear(nn.Linear(64, 16), bits=bits).to(dtype)
        x = (300 * torch.randn(6, 64)).to(dtype).requires_grad_()
        y = layer(x)
        assert y.dtype is dtype
        assert y.isfinite().all()
        y.mean().backward()
        for parameter in (x, *layer.parameters()):
            assert parameter.grad.dtype is dtype
            assert parameter.grad.isfinite().all()

    def test_zero_weights_and_inputs_are_harmless(self, name, bits):
        layer = METHODS[name](8, 3, bits=bits)
        with torch.no_grad():
            layer.weight.zero_()
        layer.reset_scales()
        y = layer(torch.zeros(2, 8))
        y.sum().backward()
        assert y.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())

    def test_output_does_not_depend_on_the_batch(self, name, bits):
        layer = METHODS[name].from_linear(nn.Linear(32, 8), bits=bits)
        sentence = torch.randn(4, 1, 32)
        batch = torch.cat([sentence, 100 * torch.randn(4, 3, 32)], dim=1)
        torch.testing.assert_close(layer(batch)[:, :1], layer(sentence), rtol=1e-5, atol=1e-5)

    def test_settings_make_an_equal_layer(self, name, bits):
        layer = METHODS[name].from_linear(nn.Linear(16, 8), bits=bits)
        twin = METHODS[name](16, 8, **layer.settings())
        twin.load_state_dict(layer.state_dict())
        x = torch.randn(3, 16)
        torch.testing.assert_close(twin(x), layer(x))
        assert str(bits) in repr(twin)

    def test_copies_compute_the_same(self, name, bits):
        layer = METHODS[name].from_linear(nn.Linear(16, 8), bits=bits)
        x = torch.randn(3, 16)
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(copied(x), layer(x))

    def test_outputs_may_be_scaled_in_place(self, name, bits):
        """As fairseq's attention does with its queries."""
        layer = METHODS[name](16, 8, bits=bits)
        x = torch.randn(3, 2, 16)
        expected = 0.5 * layer(x)
        expected.square().sum().backward()
        grad = layer.weight.grad.clone()
        layer.zero_grad()
        y = layer(x)
        y *= 0.5
        y.square().sum().backward()
        assert torch.equal(y, expected) and torch.equal(layer.weight.grad, grad)

    def test_without_bias(self, name, bits):
        layer = METHODS[name].from_linear(nn.Linear(16, 8, bias=False), bits=bits)
        assert layer.bias is None
        layer(torch.randn(3, 16)).sum().backward()

    def test_no_activation_bits_is_possible(self, name, bits):
        layer = METHODS[name].from_linear(
            nn.Linear(16, 8), bits=bits, activation_bits=None, normalization="none"
        )
        x = torch.randn(3, 16)
        expected = F.linear(x, layer.quantized_weight(), layer.bias)
        if name == "onebit":
            layer.output_norm = False
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("name", METHODS)
def test_a_width_that_a_method_lacks_is_refused(name):
    with pytest.raises(ConfigError, match=f"bits of method {name}: found 3, expected one of: "):
        METHODS[name](4, 4, bits=3)


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_an_attribute(name):
    layer = METHODS[name](4, 4)
    assert isinstance(layer, QuantLinear)
    assert set(layer.settings()) == set(option_names(type(layer)))
    assert {"bits", "activation_bits", "normalization"} <= set(layer.settings())


@pytest.mark.parametrize("name, option", [("onebit", "output_norm"), ("tbt", "signed")])
def test_switches_are_true_or_false(name, option):
    with pytest.raises(ConfigError, match=option):
        METHODS[name](4, 4, **{option: "no"})


@pytest.mark.parametrize("name, options", VARIANTS, ids=str)
def test_shapes_can_be_had_on_meta(name, options):
    layer = METHODS[name](32, 12, **options, device="meta")
    y = layer(torch.empty(2, 5, 32, device="meta"))
    assert y.is_meta and y.shape == (2, 5, 12)
    y.sum().backward()
    assert layer.weight.grad.is_meta and layer.weight.grad.shape == (12, 32)
