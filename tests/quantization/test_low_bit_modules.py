"""Convolutions, tables and projections that are trained at 1 to 4 bits a weight."""

import numpy as np
import pytest
import torch
from torch import nn

from cress_svcd.quantization import parameters_by_kind
from cress_svcd.quantization.low_bit_grid import (
    CHOICES,
    LowBits,
    quantize_low,
    quantize_trained,
)
from cress_svcd.quantization.low_bit_modules import (
    QuantConv1d,
    QuantEmbedding,
    QuantProjection,
    convert,
)
from cress_svcd.quantization.report import summary

EVERY = LowBits(embedding=2, hubert=3, subsampler=1)


class Toy(nn.Module):
    """Names as those of our models: a shared table, convolutions, one of them normalised."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        hubert = nn.Module()
        hubert.conv = nn.Conv1d(6, 8, 3, 2, 1, bias=False)
        hubert.pos_conv = nn.Sequential(
            nn.utils.weight_norm(nn.Conv1d(8, 8, 4, padding=2, groups=2), dim=2)
        )
        hubert.post_extract_proj = nn.Linear(8, 10)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.hubert = hubert
        self.encoder.subsampler = nn.Sequential(nn.Conv1d(10, 12, 3))
        self.encoder.embed_tokens = nn.Embedding(11, 10, padding_idx=1)
        self.decoder.embed_tokens = self.encoder.embed_tokens
        self.decoder.output_projection = nn.Linear(10, 11, bias=False)
        self.decoder.output_projection.weight = self.encoder.embed_tokens.weight
        self.decoder.fc = nn.Linear(10, 10)


@pytest.fixture
def toy():
    return Toy()


def on_the_grid(weight, bits, steps):
    """The formula: the nearest of the odd multiples of half a step, ties upwards, by numpy."""
    ratio = weight / steps[:, None]
    return (np.clip(np.floor(ratio), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 0.5) * steps[
        :, None
    ]


@pytest.mark.parametrize("bits", CHOICES)
def test_forward_and_gradients_are_those_of_lsq(bits):
    torch.manual_seed(bits)
    layer = QuantProjection.from_module(nn.Linear(20, 6, dtype=torch.double), bits)
    layer.fit_step()
    x = torch.randn(9, 20, dtype=torch.double)
    out = layer(x)
    weight, steps = layer.weight.detach().numpy(), 2 ** layer.log2_step.detach().numpy()
    dense = on_the_grid(weight, bits, steps)
    np.testing.assert_allclose(
        out.detach().numpy(), x.numpy() @ dense.T + layer.bias.detach().numpy(), rtol=1e-6
    )
    given = torch.randn(9, 6, dtype=torch.double)
    out.backward(given)
    of_dense = given.numpy().T @ x.numpy()
    # Esser et al. 2020, eq. 3: q beyond the grid, q - w / step in it; eq. 5 for the weight; the
    # gradient's scale of section 2.2.  The logarithm's own is step * ln 2.
    ratio, half = weight / steps[:, None], 2 ** (bits - 1)
    inside = np.abs(ratio) <= half
    of_step = (of_dense * (dense / steps[:, None] - ratio * inside)).sum(1)
    of_step /= np.sqrt(weight.shape[1] * (half - 0.5))
    np.testing.assert_allclose(layer.weight.grad.numpy(), of_dense * inside, rtol=1e-6)
    np.testing.assert_allclose(
        layer.log2_step.grad.numpy(), of_step * steps * np.log(2), rtol=1e-4, atol=1e-7
    )


def test_everything_is_converted_and_what_is_shared_stays_shared(toy):
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    done = convert(toy, EVERY)
    assert done == {
        "encoder.hubert.conv": 3,
        "encoder.hubert.pos_conv.0": 3,
        "encoder.hubert.post_extract_proj": 3,
        "encoder.subsampler.0": 1,
        "encoder.embed_tokens": 2,
        "decoder.output_projection": 2,
    }
    table, projection = toy.encoder.embed_tokens, toy.decoder.output_projection
    assert toy.decoder.embed_tokens is table and type(toy.decoder.fc) is nn.Linear
    assert projection.weight is table.weight and projection.log2_step is table.log2_step
    state = toy.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert {name for name in state if name not in before} == {
        f"{name}.log2_step" for name in (*done, "decoder.embed_tokens")
    }


def test_each_computes_with_the_grid_that_pack_finds(toy):
    position = toy.encoder.hubert.pos_conv[0]
    normed = torch._weight_norm(position.weight_v, position.weight_g, 2).detach()
    convert(toy, EVERY)
    hubert, x = toy.encoder.hubert, torch.randn(2, 6, 15)

    def dense(weight, bits):
        q, scale = quantize_low(weight, bits)
        return q * scale.view(-1, *[1] * (weight.dim() - 1))

    close = torch.testing.assert_close
    y = nn.functional.conv1d(x, dense(hubert.conv.weight, 3), None, 2, 1)
    close(hubert.conv(x), y)
    new = hubert.pos_conv[0]
    close(new(y), nn.functional.conv1d(y, dense(normed, 3), new.bias, padding=2, groups=2))
    tokens = torch.tensor([[4, 0, 10], [1, 1, 2]])
    table = dense(toy.encoder.embed_tokens.weight, 2)
    close(toy.encoder.embed_tokens(tokens), table[tokens])
    states = torch.randn(3, 4, 10)
    close(toy.decoder.output_projection(states), states @ table.T)


def test_a_packed_file_gets_what_is_computed_with(toy):
    convert(toy, EVERY)
    for module in toy.modules():
        if isinstance(module, QuantConv1d | QuantEmbedding | QuantProjection):
            with torch.no_grad():
                module.log2_step.add_(torch.randn_like(module.log2_step) * 0.2)
            q, scale = quantize_trained(module.latent_weight(), module.bits, module.log2_step)
            qmax = 2**module.bits - 1
            assert set(q.flatten().tolist()) <= set(range(-qmax, qmax + 1, 2))
            again = q * scale.view(-1, *[1] * (q.dim() - 1))
            assert torch.equal(module.dense_weight(), again)


def test_half_precision_is_rounded_on_the_same_grid(toy):
    convert(toy, EVERY)
    conv = toy.encoder.subsampler[0]
    expected = conv.dense_weight()
    found = conv.half().dense_weight()
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=5e-3, atol=0)


def test_optimizers_find_latent_weights_and_steps(toy):
    convert(toy, EVERY)
    kinds = parameters_by_kind(toy)
    hubert = toy.encoder.hubert
    assert {id(p) for p in kinds["vectors"]} == {
        id(m.log2_step) for m in toy.modules() if hasattr(m, "log2_step")
    }
    latent = {id(p) for p in kinds["latent"]}
    assert {id(hubert.pos_conv[0].weight_g), id(toy.encoder.embed_tokens.weight)} <= latent
    assert id(hubert.pos_conv[0].bias) in {id(p) for p in kinds["other"]}


def test_a_frozen_weight_has_a_frozen_step(toy):
    toy.encoder.requires_grad_(False)
    convert(toy, EVERY)
    assert not any(parameter.requires_grad for parameter in toy.encoder.parameters())


def test_the_report_counts_their_bits(toy):
    full = summary(toy)
    convert(toy, EVERY)
    low = summary(toy)
    assert low["full_bits"] == full["full_bits"]
    weights = {3: 8 * 6 * 3 + 8 * 4 * 4 + 80, 1: 12 * 10 * 3, 2: 110}
    steps = 8 + 8 + 10 + 12 + 11
    saved = sum((16 - bits) * count for bits, count in weights.items()) - 16 * steps
    assert full["bits"] - low["bits"] == saved


def test_a_state_is_loaded_without_a_search(toy):
    convert(toy, EVERY)
    fresh = Toy()
    convert(fresh, EVERY, fit=False)
    assert not fresh.encoder.embed_tokens.log2_step.any()
    fresh.load_state_dict(toy.state_dict())
    tokens = torch.arange(11)
    assert torch.equal(fresh.encoder.embed_tokens(tokens), toy.encoder.embed_tokens(tokens))
