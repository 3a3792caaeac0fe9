"""What the native engine computes with the tensors of a ``.cress`` file, as plain data.

The plan is read off a packed model's modules, not off its options: whatever arch made them, blocks,
widths, scales and norms are named one by one, and the engine knows no arch.  ``docs/native.md``
describes it.
"""

from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.modules import LearnedPositionalEmbedding, SinusoidalPositionalEmbedding, gelu
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.inference.int8_modules import CompactConv1d, Int8Projection
from cress_svcd.models.decoder_blocks import (
    CrossAttention,
    FeedForward,
    SelfAttention,
    decoder_blocks,
)
from cress_svcd.quantization.packed_linear import PackedLinear

ACTIVATIONS = {F.relu: "relu", gelu: "gelu", F.gelu: "gelu"}

Plan = dict[str, Any]


def make_plan(
    model: nn.Module,
    dictionary: Dictionary,
    normalize: bool,
    segmenter: Plan | None = None,
    languages: dict[str, int] | None = None,
) -> Plan:
    """The plan of a packed model.

    Args:
        dictionary: of the target language.
        normalize: its waveforms are brought to mean 0 and variance 1.
        segmenter: numbers of the one that the model carries.
        languages: target language -> token that translations begin with, of a model of several.
    """
    names = {module: name for name, module in model.named_modules()}
    encoder = model.get_submodule("encoder")
    return {
        "sample_rate": 16000,
        "normalize": normalize,
        "bos": dictionary.bos(),
        "pad": dictionary.pad(),
        "eos": dictionary.eos(),
        "unk": dictionary.unk(),
        **({"languages": languages} if languages else {}),
        "segmenter": segmenter and {**segmenter, "normalize": bool(segmenter["normalize"])},
        "speech": _speech(encoder, names),
        "encoder": _stack(encoder, names),
        "decoder": _decoder(model.get_submodule("decoder"), names),
        "linears": {
            name: _linear(module)
            for module, name in names.items()
            if isinstance(module, PackedLinear | Int8Projection | nn.Linear)
        },
    }


def token_tensors(dictionary: Dictionary) -> dict[str, Tensor]:
    """The tokens in UTF-8 one after the other, and where each begins and the last ends."""
    tokens = [symbol.encode() for symbol in dictionary.symbols]
    ends = torch.tensor([0, *map(len, tokens)]).cumsum(0)
    content = torch.frombuffer(bytearray(b"".join(tokens)), dtype=torch.uint8)
    return {"tokens": content, "token_offsets": ends.to(torch.int32)}


def _speech(encoder: nn.Module, names: dict[nn.Module, str]) -> Plan | None:
    hubert: Any = getattr(encoder, "hubert", None)
    if hubert is None:
        return None
    positions = hubert.encoder.pos_conv
    stack = hubert.encoder
    return {
        "convolutions": [
            _conv_block(block, names) for block in hubert.feature_extractor.conv_layers
        ],
        "norm": _norm(hubert.layer_norm, names),
        "projection": None if hubert.post_extract_proj is None else names[hubert.post_extract_proj],
        "positions": _convolution(positions[0], names),
        "norm_first": stack.layer_norm_first,
        "stack_norm": _norm(stack.layer_norm, names),
        "layers": [_layer(each, each.layer_norm_first, names) for each in stack.layers],
        "subsampler": [_convolution(conv, names) for conv in encoder.subsampler.conv_layers],
    }


def _conv_block(block: Any, names: dict[nn.Module, str]) -> Plan:
    kinds = {"Fp32GroupNorm": "time", "Fp32LayerNorm": "channels"}
    norms = [m for m in block.modules() if type(m).__name__ in kinds]
    plan = _convolution(block[0], names)
    return {
        **plan,
        "norm": _norm(norms[0], names) if norms else None,
        "norm_over": kinds[type(norms[0]).__name__] if norms else None,
    }


def _convolution(conv: Any, names: dict[nn.Module, str]) -> Plan:
    if isinstance(conv, CompactConv1d):
        shape, groups = conv.shape, conv.options["groups"]
        stride, padding = conv.stride, conv.padding
    else:
        shape, groups = tuple(conv.weight.shape), conv.groups
        (stride,), (padding,) = conv.stride, conv.padding
    return {
        "name": names[conv],
        "out": shape[0],
        "channels": shape[1],
        "kernel": shape[2],
        "groups": groups,
        "stride": stride,
        "padding": padding,
    }


def _norm(norm: Any, names: dict[nn.Module, str]) -> Plan | None:
    return None if norm is None else {"name": names[norm], "eps": norm.eps}


def _stack(module: Any, names: dict[nn.Module, str]) -> Plan:
    """What encoder and decoder share."""
    positions = module.embed_positions
    if positions is None:
        places: Plan | None = None
    elif isinstance(positions, SinusoidalPositionalEmbedding):
        places = {"kind": "sinusoidal", "first": positions.padding_idx + 1}
    elif isinstance(positions, LearnedPositionalEmbedding):
        places = {
            "kind": "learned",
            "first": positions.padding_idx + 1,
            "name": names[positions],
        }
    else:
        places = {"kind": type(positions).__name__}
    return {
        "scale": float(module.embed_scale),
        "positions": places,
        "embedding_norm": _norm(module.layernorm_embedding, names),
        "norm": _norm(module.layer_norm, names),
        "layers": [_layer(each, each.normalize_before, names) for each in module.layers],
    }


def _decoder(decoder: Any, names: dict[nn.Module, str]) -> Plan:
    return {
        **_stack(decoder, names),
        "embedding": names[decoder.embed_tokens],
        "width": decoder.embed_tokens.embedding_dim,
        "output": names[decoder.output_projection],
        "most_positions": decoder.max_positions(),
    }


def _layer(layer: Any, pre_norm: bool, names: dict[nn.Module, str]) -> Plan:
    if hasattr(layer, "encoder_attn"):
        blocks = decoder_blocks(layer)
    else:
        blocks = [
            SelfAttention(layer.self_attn, layer.self_attn_layer_norm),
            FeedForward(layer.fc1, layer.fc2, layer.final_layer_norm),
        ]
    function = layer.activation_fn
    return {
        "pre_norm": bool(pre_norm),
        "activation": ACTIVATIONS.get(function, getattr(function, "__name__", "unknown")),
        "blocks": [_block(block, names) for block in blocks],
    }


def _block(block: Any, names: dict[nn.Module, str]) -> Plan:
    norm = _norm(block.norm, names)
    if isinstance(block, FeedForward):
        return {
            "kind": "feed_forward",
            "norm": norm,
            "first": names[block.first],
            "second": names[block.second],
        }
    attention: Any = block.attention
    return {
        "kind": "source" if isinstance(block, CrossAttention) else "self",
        "norm": norm,
        "heads": attention.num_heads,
        **{
            letter: names[getattr(attention, f"{letter}_proj")] for letter in ("q", "k", "v", "out")
        },
    }


def _linear(module: Any) -> Plan:
    shape = {"in": module.in_features, "out": module.out_features}
    shape["bias"] = module.bias is not None
    if isinstance(module, Int8Projection):
        return {"kind": "int8", **shape}
    if not isinstance(module, PackedLinear):
        return {"kind": "dense", **shape}
    method = module.method
    steps = method.steps_around_product()
    return {
        "kind": "packed",
        **shape,
        "planes": module.planes,
        "plane_scales": list(method.plane_scales(module.planes)),
        "bits": method.product_bits,
        "norm": method.normalization,
        "eps": getattr(module.norm, "eps", None),
        "not_computed": method.METHOD if steps is None else None,
        **(steps or {}),
    }
