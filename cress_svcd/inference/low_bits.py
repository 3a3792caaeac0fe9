"""Embeddings and convolutions at 1 to 4 bits a weight in a file, int8 where they compute.

A weight of b bits is q * scale, one scale a row (an entry of the vocabulary, an output channel) and
q one of the 2^b odd numbers from -(2^b - 1) to 2^b - 1: a sum of b sign planes, plane i times 2^i.
A file holds the planes, (rows, b, ceil(n / 8)) bytes as ``packed_layout.pack_signs`` makes them, n
weights a row.  Loading turns them into int8 in the weight's shape, so that a model computes by the
kernels of int8 and as fast as with these.  ``quantization.low_bit_grid`` finds q and scale.
"""

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from cress_svcd.errors import CheckpointError
from cress_svcd.kernels.packed_layout import pack_signs, row_bytes, unpack_signs
from cress_svcd.quantization.low_bit_grid import CHOICES


def to_bit_planes(q: Tensor, bits: int) -> Tensor:
    """The planes (rows, bits, ceil(n / 8)) of q (rows x ...), uint8."""
    codes = (q.flatten(1).to(torch.int16) + (2**bits - 1)) // 2
    planes = [pack_signs((codes >> bit & 1).bool()) for bit in range(bits)]
    return torch.stack(planes, dim=1)


def from_bit_planes(planes: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """int8 q of this ``shape`` from its planes.

    Raises:
        CheckpointError: they are not of this shape.
    """
    rows, width = shape[0], torch.Size(shape[1:]).numel()
    if planes.dim() != 3 or (len(planes), planes.shape[2]) != (rows, row_bytes(width)):
        raise CheckpointError(
            f"bit planes of shape {tuple(planes.shape)} are no weight of shape {tuple(shape)}; "
            f"expected {rows} rows of {row_bytes(width)} bytes a bit"
        )
    if planes.shape[1] not in CHOICES:
        raise CheckpointError(f"a weight of {planes.shape[1]} bit planes; expected 1 to 4")
    q = torch.zeros(rows, width, dtype=torch.int8)
    for bit in range(planes.shape[1]):
        plane = planes[:, bit].contiguous().cpu()
        q += unpack_signs(plane, width, torch.int8) << bit
    return q.view(shape)


def require_described(low_bits: Any) -> None:
    """Raise CheckpointError unless this is name -> ``bits`` and ``shape``."""
    sound = isinstance(low_bits, dict) and all(
        isinstance(how, dict)
        and how.get("bits") in CHOICES
        and isinstance(how.get("shape"), list)
        and len(how["shape"]) >= 2
        and all(type(size) is int and size > 0 for size in how["shape"])
        for how in low_bits.values()
    )
    if not sound:
        raise CheckpointError(
            "packed model: the low_bits of its description are no bits and shapes; the file is "
            "damaged: copy it again"
        )


def take_planes(state: MutableMapping[str, Any], key: str, shape: tuple[int, ...]) -> None:
    """Turn the planes under ``key`` of a module's state into int8; int8 stays as it is."""
    weight = state.get(key)
    if isinstance(weight, Tensor) and weight.dtype == torch.uint8:
        try:
            state[key] = from_bit_planes(weight, shape)
        except CheckpointError as error:
            raise CheckpointError(f"packed model: {key}: {error}") from None


def widen(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> dict[str, Tensor]:
    """``tensors`` of a packed model with all planes as int8, tied ones tied as they were.

    Args:
        described: name of a module -> ``bits`` and ``shape``: ``low_bits`` of a description.
            It must be ``require_described``.
    Raises:
        CheckpointError: planes are not there, or not of their shape.
    """
    widened = dict(tensors)
    done: dict[int, Tensor] = {}
    for name, how in described.items():
        key = f"{name}.weight"
        planes = tensors.get(key)
        if planes is None or planes.dtype != torch.uint8:
            raise CheckpointError(f"packed model: {key}: expected {how['bits']} bit planes there")
        if planes.data_ptr() not in done:
            take_planes(widened, key, tuple(how["shape"]))
            done[planes.data_ptr()] = widened[key]
        widened[key] = done[planes.data_ptr()]
    return widened


def has_low_bits(state: Mapping[str, Any]) -> bool:
    """Whether the content of a packed file has planes."""
    model = (state.get("cfg") or {}).get("model") or {}
    return "low_bits" in json.loads(model.get("packed") or "{}")


def widen_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a packed file (``read_packed``) with all planes as int8; its header stays."""
    model = dict(state["cfg"]["model"])
    description = json.loads(model["packed"])
    described = description.pop("low_bits", {})
    model["packed"] = json.dumps(description)
    cfg = {**state["cfg"], "model": model}
    return {**state, "cfg": cfg, "model": widen(state["model"], described)}
