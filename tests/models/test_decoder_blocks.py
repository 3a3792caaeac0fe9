"""Blocks of a decoder layer: their order, and the sums that they are to make up a layer."""

import functools

import pytest
import torch
from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from omegaconf import OmegaConf

from cress_svcd.models.decoder_blocks import (
    CrossAttention,
    FeedForward,
    SelfAttention,
    decoder_blocks,
    feed_forward,
    run_block,
)
from cress_svcd.models.deltalm import InterleavedDecoderLayer

WIDTH = 16


def make(kind=TransformerDecoderLayerBase, pre_norm=True, source=True, dropout=0.0):
    cfg = OmegaConf.structured(
        TransformerConfig(activation_fn="gelu", dropout=dropout, attention_dropout=0.0)
    )
    cfg.decoder.embed_dim = cfg.encoder.embed_dim = WIDTH
    cfg.decoder.ffn_embed_dim, cfg.decoder.attention_heads = 24, 2
    cfg.decoder.normalize_before = pre_norm
    layer = kind(cfg, no_encoder_attn=not source).eval()
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return layer


def test_blocks_of_fairseqs_layer_in_their_order():
    layer = make()
    assert decoder_blocks(layer) == [
        SelfAttention(layer.self_attn, layer.self_attn_layer_norm),
        CrossAttention(layer.encoder_attn, layer.encoder_attn_layer_norm),
        FeedForward(layer.fc1, layer.fc2, layer.final_layer_norm),
    ]


def test_deltalm_has_a_feed_forward_block_between_its_attentions():
    layer = make(InterleavedDecoderLayer)
    first, second, third, last = decoder_blocks(layer)
    assert (type(first), type(third)) == (SelfAttention, CrossAttention)
    assert second == FeedForward(layer.fc3, layer.fc4, layer.ffn_layer_norm)
    assert last == FeedForward(layer.fc1, layer.fc2, layer.final_layer_norm)


@pytest.mark.parametrize(
    "kind, blocks",
    [
        (TransformerDecoderLayerBase, [SelfAttention, FeedForward]),
        (InterleavedDecoderLayer, [SelfAttention, FeedForward, FeedForward]),
    ],
)
def test_without_a_source_there_is_no_block_for_it(kind, blocks):
    assert [type(block) for block in decoder_blocks(make(kind, source=False))] == blocks


@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])
def test_the_norm_stands_before_or_after_the_sum(pre_norm):
    layer, x = make(pre_norm=pre_norm), torch.randn(3, 2, WIDTH)
    block = decoder_blocks(layer)[-1]
    found = run_block(layer, block, x, torch.tanh)
    expected = x + block.norm(x).tanh() if pre_norm else block.norm(x + x.tanh())
    assert torch.equal(found, expected)


def test_dropout_falls_on_the_block_and_never_on_the_sum():
    layer, x = make(dropout=0.5).train(), torch.zeros(50, 4, WIDTH)
    added = run_block(layer, decoder_blocks(layer)[0], x + 1, torch.ones_like) - 1
    assert set(added.unique().tolist()) == {0.0, 2.0}
    assert (added == 0).float().mean() == pytest.approx(0.5, abs=0.05)


def test_the_inner_part_of_a_feed_forward_block():
    layer, x = make(), torch.randn(3, 2, WIDTH)
    found = feed_forward(layer, decoder_blocks(layer)[-1], x)
    hidden = torch.nn.functional.gelu(x @ layer.fc1.weight.t() + layer.fc1.bias)
    expected = hidden @ layer.fc2.weight.t() + layer.fc2.bias
    torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("source", [True, False], ids=["source", "alone"])
@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("kind", [TransformerDecoderLayerBase, InterleavedDecoderLayer])
def test_the_blocks_make_up_the_layer(kind, pre_norm, source):
    layer = make(kind, pre_norm, source)
    x, encoded = torch.randn(3, 2, WIDTH), torch.randn(5, 2, WIDTH) if source else None
    found = x
    for block in decoder_blocks(layer):
        if isinstance(block, FeedForward):
            inner = functools.partial(feed_forward, layer, block)
        else:
            inner = functools.partial(_attend, block, encoded)
        found = run_block(layer, block, found, inner)
    expected = layer(x, encoded)[0]
    assert (expected - x).norm() > 1
    torch.testing.assert_close(found, expected)


def _attend(block, encoded, query):
    keys = query if isinstance(block, SelfAttention) else encoded
    return block.attention(query, keys, keys, need_weights=False)[0]
