"""The project's own BitLinear: formula, numerical safety, conversion."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cress_svcd.errors import ConfigError
from cress_svcd.quantization import BitLinear


def by_hand(layer: BitLinear, x: np.ndarray) -> np.ndarray:
    """y = h * (sign(W - mean W) q(g * x)) + b in plain loops; groups of rows by ceil and floor."""
    weight, g, h = (getattr(layer, name).detach().numpy() for name in ("weight", "g", "h"))
    outputs = np.zeros((len(x), len(weight)))
    means = np.concatenate(
        [np.full(len(part), part.mean()) for part in np.array_split(weight, layer.num_groups)]
    )
    for t, row in enumerate(x):
        scaled = g * row
        peak = max(abs(scaled))
        if layer.activation_bits and peak:
            qmax = 2 ** (layer.activation_bits - 1) - 1
            scaled = np.round(scaled * (qmax / peak)) * peak / qmax
        for i in range(len(weight)):
            signs = np.array([1.0 if w >= means[i] else -1.0 for w in weight[i]])
            outputs[t, i] = h[i] * (signs @ scaled)
    return outputs if layer.bias is None else outputs + layer.bias.detach().numpy()


@given(
    rows=st.integers(1, 6),
    in_features=st.integers(1, 17),
    out_features=st.integers(1, 9),
    groups=st.integers(1, 4),
    bits=st.sampled_from([8, 16, None]),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_output_is_the_formula(rows, in_features, out_features, groups, bits, bias, seed):
    torch.manual_seed(seed)
    layer = BitLinear(
        in_features,
        out_features,
        bias,
        num_groups=min(groups, out_features),
        activation_bits=bits,
        init="constraint",
    ).double()
    x = torch.randn(rows, in_features, dtype=torch.float64)
    np.testing.assert_allclose(
        layer(x).detach().numpy(), by_hand(layer, x.numpy()), rtol=0, atol=1e-9
    )


def test_any_leading_shape():
    layer = BitLinear(6, 4)
    x = torch.randn(2, 3, 5, 6)
    assert torch.equal(layer(x), layer(x.view(-1, 6)).view(2, 3, 5, 4))
    assert layer(x[0, 0, 0]).shape == (4,)
    assert layer(torch.empty(0, 3, 6)).shape == (0, 3, 4)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (9, 2, 6)], ids=str)
def test_outputs_may_be_scaled_in_place(shape):
    """As fairseq's attention does with its queries; autograd forbids it on some views."""
    layer = BitLinear(6, 4)
    x = torch.randn(shape)
    gradients = []
    for in_place in (True, False):
        layer.zero_grad()
        y = layer(x)
        if in_place:
            y *= 0.25
        else:
            y = y * 0.25
        y.square().sum().backward()
        gradients.append([parameter.grad for parameter in layer.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bias", [True, False])
def test_without_any_row_gradients_are_zero(bias):
    layer = BitLinear(6, 4, bias)
    layer(torch.empty(0, 6)).sum().backward()
    assert all((p.grad == 0).all() for p in layer.parameters())


class TestInvariance:
    """The same sentence gives the same output alone, in a batch, padded, or step by step."""

    @pytest.fixture
    def layer(self):
        torch.manual_seed(0)
        return BitLinear.from_linear(nn.Linear(512, 300)).eval()

    @pytest.fixture
    def sentence(self):
        return torch.randn(7, 1, 512)

    def test_batch_mates(self, layer, sentence):
        batch = torch.cat([sentence, 1000 * torch.randn(7, 9, 512)], dim=1)
        assert torch.equal(layer(batch)[:, :1], layer(sentence))

    def test_padding(self, layer, sentence):
        padded = torch.cat([sentence, torch.full((20, 1, 512), math.nan)])
        assert torch.equal(layer(padded)[:7], layer(sentence))

    def test_step_by_step(self, layer, sentence):
        steps = torch.cat([layer(step.unsqueeze(0)) for step in sentence])
        assert torch.equal(steps, layer(sentence))


class TestTies:
    def test_are_plus_one(self):
        layer = BitLinear(3, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[0.0, -0.0, 0.0], [0.5, -0.5, 0.0]]))
        assert layer.sign_weights().tolist() == [[1, 1, 1], [1, -1, 1]]

    @given(value=st.floats(-4, 4, width=16), dtype=st.sampled_from([torch.float16, torch.float32]))
    @settings(deadline=None)
    def test_a_constant_matrix_is_all_plus_one(self, value, dtype):
        layer = BitLinear(4, 4, dtype=dtype)
        with torch.no_grad():
            layer.weight.fill_(value)
        assert (layer.sign_weights() == 1).all()

    def test_ternary_weights_become_binary_as_the_threshold_closes(self):
        layer = BitLinear(50, 40)
        with torch.no_grad():
            layer.weight[0] = 0
        binary = layer.sign_weights()
        layer.ternary_threshold = 1e-6
        nearly = layer.sign_weights()
        assert (nearly[1:] == binary[1:]).all()
        assert set(nearly.unique().tolist()) <= {-1.0, 0.0, 1.0}


class TestNumericalSafety:
    HALVES = (torch.float16, torch.bfloat16)

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_halves_agree_with_float64(self, dtype):
        torch.manual_seed(0)
        layer = BitLinear.from_linear(nn.Linear(256, 64).to(dtype))
        exact = BitLinear(256, 64).double()
        exact.load_state_dict(layer.state_dict())
        x = torch.randn(20, 256).to(dtype)
        error = (layer(x).double() - exact(x.double())).norm() / exact(x.double()).norm()
        assert error < (1e-2 if dtype is torch.bfloat16 else 2e-3)

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("size", [6e4, 1e-4, 0.0])
    @pytest.mark.parametrize("activation_bits", [8, None])
    def test_extreme_inputs_stay_finite(self, dtype, size, activation_bits):
        """At 60,000 the products of inputs and scales, and sums of them, pass float16's range."""
        torch.manual_seed(0)
        layer = BitLinear(512, 16, bias=False, activation_bits=activation_bits, dtype=dtype)
        with torch.no_grad():
            layer.h.fill_(1e-3)
            layer.g.fill_(2.0)
        signs = torch.randint(2, (5, 512)) * 2 - 1
        x = (signs * size).to(dtype).requires_grad_()
        y = layer(x)
        assert y.isfinite().all()
        if size:
            assert (y != 0).any()
        (y * 1e-3).sum().backward()
        assert x.grad.isfinite().all()

    def test_a_row_of_zero_weights_and_a_zero_token_give_the_bias(self):
        linear = nn.Linear(8, 3)
        with torch.no_grad():
            linear.weight[1] = 0
        layer = BitLinear.from_linear(linear)
        x = torch.randn(4, 8)
        x[2] = 0
        y = layer(x)
        torch.testing.assert_close(y[:, 1], linear.bias[1].expand(4))
        torch.testing.assert_close(y[2], linear.bias)
        y.sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())

    def test_a_matrix_of_zeros_can_be_converted(self):
        linear = nn.Linear(8, 3)
        nn.init.zeros_(linear.weight)
        layer = BitLinear.from_linear(linear)
        torch.testing.assert_close(layer(torch.randn(2, 8)), linear.bias.expand(2, 3))

    def test_broken_weights_are_not_hidden_by_the_sign(self):
        layer = BitLinear(8, 3)
        with torch.no_grad():
            layer.weight[0, 0] = math.nan
        assert layer(torch.randn(2, 8)).isnan().all()

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_broken_inputs_are_not_hidden_by_rounding(self, bad):
        layer = BitLinear(8, 3)
        x = torch.randn(2, 8)
        x[0, 0] = bad
        y = layer(x)
        assert y[0].isnan().all()
        assert y[1].isfinite().all()


class TestConversion:
    def test_weight_and_bias_are_the_trained_ones(self):
        linear = nn.Linear(6, 4).eval()
        layer = BitLinear.from_linear(linear)
        assert layer.weight is linear.weight
        assert layer.bias is linear.bias
        assert not layer.training

    def test_a_frozen_layer_stays_frozen(self):
        """A trainable scale that never gets a gradient would stop data parallel training."""
        layer = BitLinear.from_linear(
            nn.Linear(6, 4).requires_grad_(False), normalization="layernorm"
        )
        assert not any(parameter.requires_grad for parameter in layer.parameters())

    def test_nothing_is_drawn_from_the_random_generator(self):
        linear = nn.Linear(6, 4)
        before = torch.get_rng_state()
        BitLinear.from_linear(linear)
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("init", ["svid", "row"])
    def test_the_function_is_kept_as_far_as_signs_can(self, init):
        torch.manual_seed(0)
        linear = nn.Linear(256, 256)
        with torch.no_grad():
            nn.init.normal_(linear.weight).mul_(torch.rand(256, 1) + 0.1)
            linear.weight.mul_(torch.rand(256) + 0.1)  # outputs and inputs of different sizes
        x = torch.randn(100, 256)
        layer = BitLinear.from_linear(linear, init=init)
        cosine = F.cosine_similarity(layer(x).flatten(), linear(x).flatten(), dim=0)
        assert cosine > (0.78 if init == "svid" else 0.70)

    def test_a_bias_survives_however_small_h_is(self):
        linear = nn.Linear(6, 4)
        layer = BitLinear.from_linear(linear)
        with torch.no_grad():
            layer.h.zero_()
        torch.testing.assert_close(layer(torch.randn(3, 6)), linear.bias.expand(3, 4))

    def test_the_weight_can_be_drawn_again_as_published(self):
        linear = nn.Linear(6, 4)
        layer = BitLinear.from_linear(linear, keep_weight=False, variant="paper")
        assert layer.weight.shape == linear.weight.shape
        assert not torch.equal(layer.weight, linear.weight)
        assert layer.bias is not linear.bias

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_type_is_kept(self, dtype):
        layer = BitLinear.from_linear(nn.Linear(6, 4, dtype=dtype), normalization="layernorm")
        assert {parameter.dtype for parameter in layer.parameters()} == {dtype}

    @pytest.mark.parametrize("bias", [True, False])
    def test_bias(self, bias):
        layer = BitLinear.from_linear(nn.Linear(6, 4, bias=bias))
        assert (layer.bias is not None) == bias


class TestNormalization:
    @pytest.mark.parametrize(
        "kind, function",
        [
            ("none", lambda x: x),
            ("layernorm", lambda x: F.layer_norm(x, (16,), eps=1e-5)),
            ("rmsnorm", lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()),
        ],
    )
    def test_comes_before_g(self, kind, function):
        torch.manual_seed(0)
        layer = BitLinear(16, 8, normalization=kind).double()
        plain = BitLinear(16, 8).double()
        plain.load_state_dict(layer.state_dict(), strict=False)
        x = torch.randn(3, 16, dtype=torch.float64)
        torch.testing.assert_close(layer(x), plain(function(x)))


def test_mix_goes_from_full_precision_to_quantised():
    layer = BitLinear.from_linear(nn.Linear(16, 8))
    x = torch.randn(5, 16)
    full, quantised = F.linear(x, layer.weight, layer.bias), layer(x)
    layer.mix = 0.0
    assert torch.equal(layer(x), full)
    layer.mix = 0.25
    torch.testing.assert_close(layer(x), 0.75 * full + 0.25 * quantised)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"bits": 2}, "bits"),
        ({"bits": True}, "bits"),
        ({"activation_bits": 4}, "activation_bits"),
        ({"variant": "papr"}, "did you mean 'paper'"),
        ({"init": "svd2"}, "init"),
        ({"normalization": "batchnorm"}, "normalization"),
        ({"estimator": "clipped"}, "did you mean 'clip'"),
        ({"estimator_width": -1}, "estimator_width"),
        ({"estimator_width": "wide"}, "estimator_width"),
        ({"num_groups": 0}, "num_groups"),
        ({"num_groups": 1.5}, "num_groups"),
    ],
    ids=str,
)
def test_unknown_options_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        BitLinear(4, 4, **options)


def test_a_layer_learns():
    """Gradients of all parameters point downhill: a student nears its teacher's outputs."""
    torch.manual_seed(0)
    teacher = nn.Linear(32, 32)
    layer = BitLinear.from_linear(nn.Linear(32, 32))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    x = torch.randn(256, 32)
    target = teacher(x).detach()
    losses = []
    for _ in range(150):
        loss = F.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
