"""Decoder layers in few launches.  It also runs in Triton's interpreter, without a GPU:

    TRITON_INTERPRET=1 python -m pytest tests/models/test_packed_steps.py   (needs triton)
"""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from triton_marks import CUDA, DEVICE, needs_triton

from cress_svcd.kernels import gpu
from cress_svcd.models.packed_steps import PackedStep
from cress_svcd.models.static_decoder import _layer
from cress_svcd.quantization import Policy, apply_policy
from cress_svcd.quantization.packing import pack_model
from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase


@pytest.fixture(autouse=True)
def anywhere(monkeypatch):
    monkeypatch.setattr(gpu, "is_for", lambda x: True)


def decoder_layer(match="*", packed=True, pre_norm=True, activation="relu", width=64, **rule):
    torch.manual_seed(0)
    cfg = OmegaConf.structured(TransformerConfig(activation_fn=activation, dropout=0.0))
    cfg.decoder.embed_dim = cfg.encoder.embed_dim = width
    cfg.decoder.ffn_embed_dim, cfg.decoder.normalize_before = 96, pre_norm
    layer = TransformerDecoderLayerBase(cfg)
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    model = nn.Module()
    model.layer = layer
    rule = {"match": f"layer.{match}", "method": "svcd", "bits": 1, **rule}
    apply_policy(model, Policy.from_dict({"rules": [rule]}))
    if packed:
        pack_model(model, backend=None if CUDA else "reference")
    return model.layer.to(DEVICE).eval()


def past(query, key, value):
    return query - key + 2 * value


def source(query):
    return query.tanh()


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_a_step_is_that_of_the_modules(activation, rows):
    layer = decoder_layer(activation=activation)
    x = torch.randn(rows, 64, device=DEVICE)
    found = PackedStep.of(layer)(past, source, x)
    expected = _layer(layer, past, source, x)
    assert (found - expected).norm() < 2e-3 * expected.norm()  # levels tip over by roundings


@pytest.mark.parametrize(
    "changes",
    [
        {"packed": False},
        {"match": "fc?"},
        {"pre_norm": False},
        {"activation": "tanh"},
        {"activation_bits": 16},
        {"options": {"normalization": "layernorm"}},
        {"method": "bitnet"},
        {"bits": 1.58},
        {"method": "tbt"},
        {"width": 32},
    ],
    ids=str,
)
def test_what_modules_must_do(changes):
    assert PackedStep.of(decoder_layer(**changes)) is None


def test_a_layer_on_another_back_end(monkeypatch):
    assert PackedStep.of(decoder_layer()) is not None
    assert PackedStep.of(decoder_layer().double()) is None
    monkeypatch.setattr(gpu, "is_for", lambda x: False)
    assert PackedStep.of(decoder_layer()) is None
