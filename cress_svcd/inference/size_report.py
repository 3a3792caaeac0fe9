"""How large a packed model is, part by part."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

PARTS = {
    "HuBERT transformer": ("encoder.hubert.encoder.layers.",),
    "HuBERT front-end": ("encoder.hubert.",),
    "subsampler": ("encoder.subsampler.",),
    "embeddings": (
        "encoder.embed_tokens.",
        "decoder.embed_tokens.",
        "decoder.output_projection.",
    ),
    "encoder": ("encoder.",),
    "decoder": ("decoder.",),
    "other": ("",),
}


def size_report(packed: Mapping[str, Tensor], description: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a packed model, next to those of the full-precision model without packed scales.

    Returns:
        ``quantized_weights`` (how many), ``bits_per_weight`` (of them, scales included),
        ``parts`` (name -> parameters, bytes, fp32_bytes), ``bytes``, ``fp32_bytes``, and
        ``times_smaller_than`` fp32 and fp16.
    """
    layers, low = description["layers"], description.get("low_bits", {})
    owners = {f"{name}.{key}": name for name in layers for key in _keys_of(packed, name)}
    parts = {name: {"parameters": 0, "bytes": 0} for name in PARTS}
    seen: set[tuple] = set()
    quantized_bytes = 0
    for name, tensor in packed.items():
        identity = tensor.data_ptr(), tensor.shape, tensor.dtype
        if tensor.numel() and identity in seen:
            continue
        seen.add(identity)
        part = parts[part_of(name)]
        size = tensor.numel() * tensor.element_size()
        part["bytes"] += size
        layer = layers.get(owners.get(name))
        if layer is not None:
            quantized_bytes += size
            if name.endswith(".signs"):
                part["parameters"] += layer["out_features"] * layer["in_features"]
            elif name.endswith(".bias"):
                part["parameters"] += tensor.numel()
        elif name.endswith(".weight") and name.removesuffix(".weight") in low:
            part["parameters"] += math.prod(low[name.removesuffix(".weight")]["shape"])
        elif not name.endswith(".scale"):
            part["parameters"] += tensor.numel()
    for part in parts.values():
        part["fp32_bytes"] = 4 * part["parameters"]
    weights = sum(layer["out_features"] * layer["in_features"] for layer in layers.values())
    total = sum(part["bytes"] for part in parts.values())
    fp32 = sum(part["fp32_bytes"] for part in parts.values())
    return {
        "quantized_layers": len(layers),
        "quantized_weights": weights,
        "bits_per_weight": round(8 * quantized_bytes / weights, 4) if weights else None,
        "parts": {name: part for name, part in parts.items() if part["parameters"]},
        "bytes": total,
        "fp32_bytes": fp32,
        "times_smaller_than": {
            "fp32": round(fp32 / total, 2),
            "fp16": round(fp32 / 2 / total, 2),
        },
    }


def _keys_of(packed: Mapping[str, Tensor], layer: str) -> list[str]:
    prefix = f"{layer}."
    return [name.removeprefix(prefix) for name in packed if name.startswith(prefix)]


def part_of(name: str) -> str:
    """The part of the model that the tensor ``name`` belongs to, a key of PARTS."""
    return next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
