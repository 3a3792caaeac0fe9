"""Attention that calls its projections gives what fairseq's gives, and calls them."""

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerConfig, TransformerDecoderBase
from fairseq.modules import MultiheadAttention
from torch.utils._python_dispatch import TorchDispatchMode

from cress_svcd.models.attention import ReorderingDecoder, call_projections

WIDTH, HEADS, LENGTH, KEYS, BATCH = 16, 4, 5, 7, 3


def make(**options):
    torch.manual_seed(0)
    attention = MultiheadAttention(WIDTH, HEADS, **options)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def padding(length):
    return torch.arange(length) >= torch.tensor([[length], [length - 2], [length - 3]])


CAUSAL = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
CASES = {
    "self": dict(),
    "self, padded": dict(key_padding_mask=padding(LENGTH)),
    "self, causal": dict(attn_mask=CAUSAL),
    "self, causal and padded": dict(attn_mask=CAUSAL, key_padding_mask=padding(LENGTH)),
    "cross": dict(static_kv=True),
    "cross, padded": dict(static_kv=True, key_padding_mask=padding(KEYS)),
}


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_fairseqs_gives(name, weights):
    cross = name.startswith("cross")
    kind = {"encoder_decoder_attention": True} if cross else {"self_attention": True}
    own, reference = make(**kind), make(**kind)
    call_projections(own)
    query = torch.randn(LENGTH, BATCH, WIDTH)
    key = torch.randn(KEYS, BATCH, WIDTH) if cross else query
    called = []
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        getattr(own, part).register_forward_hook(lambda *_, part=part: called.append(part))
    found, found_weights = own(query, key, key, need_weights=weights, **CASES[name])
    wanted, wanted_weights = reference(query, key, key, need_weights=True, **CASES[name])
    torch.testing.assert_close(found, wanted)
    assert (found_weights is not None) == weights
    if weights:
        torch.testing.assert_close(found_weights, wanted_weights)
    assert called == ["q_proj", "k_proj", "v_proj", "out_proj"]


def test_its_dropout_acts_in_training_only():
    attention = make(self_attention=True, dropout=0.5)
    call_projections(attention)
    x = torch.randn(LENGTH, BATCH, WIDTH)
    first, second = (attention.train()(x, x, x, need_weights=False)[0] for _ in range(2))
    assert not torch.allclose(first, second)
    first, second = (attention.eval()(x, x, x, need_weights=False)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_parameters_keep_their_names_and_state():
    attention, reference = make(self_attention=True), make(self_attention=True)
    call_projections(attention)
    for (name, value), (other, expected) in zip(
        attention.state_dict().items(), reference.state_dict().items(), strict=True
    ):
        assert name == other and torch.equal(value, expected)


def make_decoder():
    cfg, dictionary = TransformerConfig(), Dictionary()
    for piece in "abcdefgh":
        dictionary.add_symbol(piece)
    cfg.decoder.layers, cfg.decoder.attention_heads, cfg.decoder.ffn_embed_dim = 2, HEADS, WIDTH
    cfg.decoder.embed_dim = cfg.decoder.input_dim = cfg.decoder.output_dim = WIDTH
    cfg.encoder.embed_dim = WIDTH
    embedding = torch.nn.Embedding(len(dictionary), WIDTH, dictionary.pad())
    return ReorderingDecoder(cfg, dictionary, embedding).eval()


class Operators(TorchDispatchMode):
    """The names of torch's operators, as they are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("steps", [1, 3])
@torch.no_grad()
def test_a_projection_that_is_not_trained_is_read_once(steps):
    decoder = make_decoder().requires_grad_(False)
    features = torch.randn(steps, 4, WIDTH).transpose(0, 1)
    with Operators() as operators:
        logits = decoder.output_layer(features)
    expected = TransformerDecoderBase.output_layer(decoder, features)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    if steps == 1:
        assert "mm" in operators.names and "bmm" not in operators.names


@pytest.mark.parametrize("beam", [1, 2])
@torch.no_grad()
def test_beams_are_reordered_as_by_fairseq(beam):
    decoder = make_decoder()
    decoder.apply(lambda module: hasattr(module, "set_beam_size") and module.set_beam_size(beam))
    states = torch.randn(KEYS, 4, WIDTH)
    encoder_out = {"encoder_out": [states], "encoder_padding_mask": []}
    tokens = torch.tensor([[4, 5], [6, 7], [8, 9], [10, 11]])
    caches = []
    for reorder in (
        decoder.reorder_incremental_state_scripting,
        lambda *both: TransformerDecoderBase.reorder_incremental_state_scripting(decoder, *both),
    ):
        cache = {}
        decoder(tokens[:, :1], encoder_out, incremental_state=cache)
        decoder(tokens[:, :2], encoder_out, incremental_state=cache)
        before = [
            value.clone() for part in cache.values() for value in part.values() if value is not None
        ]
        reorder(cache, torch.tensor([1, 1, 2, 2]))
        caches.append(
            [value for part in cache.values() for value in part.values() if value is not None]
        )
    assert len(caches[0]) == len(caches[1]) >= 8
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*caches))
    assert not all(
        old.shape == new.shape and torch.equal(old, new) for old, new in zip(before, caches[0])
    )
