"""Decoder layers in few launches.  It also runs in Triton's interpreter, without a GPU:

TRITON_INTERPRET=1 python -m pytest tests/inference/test_fused_layers.py   (needs triton)
"""

import pytest
import torch
from fairseq.models.transformer import TransformerConfig
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from omegaconf import OmegaConf
from torch import nn

from cress_svcd.evaluation.kernel_report import kernel_rows
from cress_svcd.inference.cuda_graph_decoder import _layer
from cress_svcd.inference.cuda_graph_encoder import CudaGraphLayers
from cress_svcd.inference.fused_layers import (
    FusedDecoderLayer,
    FusedEncoderLayer,
    products_of,
)
from cress_svcd.kernels import dispatch, explain
from cress_svcd.models.attention import call_quantized_projections
from cress_svcd.models.deltalm import InterleavedDecoderLayer
from cress_svcd.quantization import Policy, apply_policy
from tests.helpers.packed_layers import pack_model
from tests.helpers.triton_marks import CUDA, DEVICE, needs_triton


@pytest.fixture(autouse=True)
def anywhere(monkeypatch):
    monkeypatch.setattr(dispatch, "is_on_gpu", lambda x: True)


def quantized(layer, match="*", packed=True, **rule):
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    model = nn.Module()
    model.layer = layer
    rule = {"match": f"layer.{match}", "method": "svcd", "bits": 1, **rule}
    apply_policy(model, Policy.from_dict({"rules": [rule]}))
    if packed:
        pack_model(model, backend=None if CUDA else "reference")
    call_quantized_projections(model)
    return model.layer.to(DEVICE).eval()


def decoder_layer(
    pre_norm=True, activation="relu", width=64, kind=TransformerDecoderLayerBase, **rule
):
    torch.manual_seed(0)
    cfg = OmegaConf.structured(TransformerConfig(activation_fn=activation, dropout=0.0))
    cfg.decoder.embed_dim = cfg.encoder.embed_dim = width
    cfg.decoder.ffn_embed_dim, cfg.decoder.normalize_before = 96, pre_norm
    return quantized(kind(cfg), **rule)


def encoder_layer(hubert=False, pre_norm=True, activation="gelu", width=64, **rule):
    torch.manual_seed(0)
    if hubert:
        layer = TransformerSentenceEncoderLayer(
            width, 96, 4, activation_fn=activation, layer_norm_first=pre_norm
        )
        return quantized(layer, **rule)
    cfg = OmegaConf.structured(TransformerConfig(activation_fn=activation, dropout=0.0))
    cfg.encoder.embed_dim, cfg.encoder.attention_heads = width, 4
    cfg.encoder.ffn_embed_dim, cfg.encoder.normalize_before = 96, pre_norm
    return quantized(TransformerEncoderLayerBase(cfg), **rule)


def past(query, key, value):
    return query - key + 2 * value


def source(query):
    return query.tanh()


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("rows", [1, 5, 20])
@pytest.mark.parametrize("kind", [TransformerDecoderLayerBase, InterleavedDecoderLayer])
def test_a_step_is_that_of_the_modules(activation, pre_norm, rows, kind):
    layer = decoder_layer(activation=activation, pre_norm=pre_norm, kind=kind)
    x = torch.randn(rows, 64, device=DEVICE)
    found = FusedDecoderLayer.of(layer)(past, source, x)
    expected = _layer(layer, past, source, x)
    assert (found - expected).norm() < 2e-3 * expected.norm()  # q tip over by roundings


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize("hubert", [True, False], ids=["hubert", "text"])
@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
def test_layers_of_an_encoder_are_those_of_the_modules(hubert, pre_norm, padded):
    """Packed ones and others together, as they stand in an encoder."""
    layers = nn.ModuleList(
        encoder_layer(hubert, pre_norm, packed=packed) for packed in (True, False, True)
    )
    x = torch.randn(3, 12, 64, device=DEVICE).transpose(0, 1)  # as an encoder has it
    padding = torch.arange(12) >= torch.tensor([[12], [7], [3]]) if padded else None
    padding = padding if padding is None else padding.to(DEVICE)
    name = "self_attn_padding_mask" if hubert else "encoder_padding_mask"
    found, expected = CudaGraphLayers(layers)(x, **{name: padding}), x
    for layer in layers:
        expected = layer(expected, **{name: padding})
        expected = expected[0] if hubert else expected
    error = ((found[0] if hubert else found) - expected)[:3].norm()  # none of these is padding
    assert error < 1e-2 * expected[:3].norm()  # q tip over by roundings


def test_which_layers_of_an_encoder():
    for hubert in (True, False):
        assert FusedEncoderLayer.of(encoder_layer(hubert)) is not None
        assert FusedEncoderLayer.of(encoder_layer(hubert, packed=False)) is None
        assert FusedEncoderLayer.of(encoder_layer(hubert, activation_bits=16)) is None
        assert FusedEncoderLayer.of(encoder_layer(hubert, match="self_attn.*")) is None
        assert FusedEncoderLayer.of(encoder_layer(hubert, activation="tanh")) is None
    layer = encoder_layer()
    layer.__class__ = type("Other", (TransformerEncoderLayerBase,), {"forward": lambda *_: None})
    assert FusedEncoderLayer.of(layer) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"packed": False},
        {"match": "fc?"},
        {"match": "*[!34]", "kind": InterleavedDecoderLayer},
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
    assert FusedDecoderLayer.of(decoder_layer(**changes)) is None


def test_a_layer_on_another_back_end(monkeypatch):
    assert FusedDecoderLayer.of(decoder_layer()) is not None
    assert FusedDecoderLayer.of(decoder_layer().double()) is None
    monkeypatch.setattr(dispatch, "is_on_gpu", lambda x: False)
    assert FusedDecoderLayer.of(decoder_layer()) is None


@pytest.mark.parametrize("make", [decoder_layer, encoder_layer])
def test_explain_tells_of_whole_layers(make):
    runs = explain(torch.zeros(1, 64), products_of(make())).splitlines()
    assert runs[0].startswith("fused_layer of float32") and len(runs) == 2
    assert runs[1].startswith("  runs  triton/sign_gemm_fused: ")
    plain = explain(torch.zeros(1, 64), products_of(make(packed=False))).splitlines()
    assert plain[1:] == [
        "  not   triton/sign_gemm_fused: needs packed projections of 8-bit inputs",
        "  runs  modules: always: each module by its own kernel",
    ]
    assert products_of(nn.Linear(4, 4)) is None


@pytest.mark.gpu
def test_the_report_has_a_row_for_layers_that_run_fused():
    model = nn.ModuleList([decoder_layer(), decoder_layer()])
    (row,) = [row for row in kernel_rows(model, (1,)) if row["operation"] == "fused_layer"]
    assert (row["layer"], row["layers"], row["kernel"]) == ("0", 2, "triton/sign_gemm_fused")
