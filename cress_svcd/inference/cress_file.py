"""The file ``.cress``: a packed model that the native engine maps into memory and uses there.

It is a safetensors file; ``docs/native.md`` describes it byte by byte.  Its metadata, all strings:

    format      "cress"
    version     "1", or "2" of a model of several target languages; a reader refuses versions
                that it does not know
    state       JSON: the packed file (``packed_checkpoint``) with {"": 0} for each tensor
    ties        JSON: name -> name of the tensor in the file that it shares
    plan        JSON: what the engine computes with which tensors (``engine_plan``)
    crc32       the checksum of the whole file, these eight digits taken for zeros; older files have
                none

A tensor of the model has its own name, any other its place in ``state``, joined by "/".  Signs of
packed layers are in the layout of the C kernels (``kernels.packed_layout``, "tiles"), weights of
convolutions are (out, kernel_size, channels).  ``engine/`` holds what only the engine reads.  So
the file holds the whole packed file, its digest included.
"""

import json
import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from cress_svcd.atomic_files import replacing
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.inference.packed_checkpoint import check
from cress_svcd.inference.packed_structure import read_description
from cress_svcd.kernels.packed_layout import from_tiles, to_tiles
from cress_svcd.models.checkpoint_files import explained, register_reader

FORMAT, VERSION = "cress", "1"
VERSION_OF_SEVERAL = "2"  # target languages, of which a reader of version 1 does not know
ENGINE = "engine/"
MOST_HEADER = 100_000_000  # bytes, as in safetensors itself
NO_SUM = b"00000000"
# Nowhere else: within strings of the header quotes have backslashes before them.
_SUM = re.compile(rb'"crc32":"([0-9a-f]{8})"')
_REMEDY = "export the packed model again with 'cress-svcd export'"

Tensors = dict[str, Tensor]


def write_cress(
    path: str | os.PathLike[str],
    state: Mapping[str, Any],
    plan: Mapping[str, Any],
    engine: Mapping[str, Tensor],
) -> None:
    """Write the packed model ``state`` (see ``read_packed``), all or nothing.

    Args:
        plan: see ``engine_plan.make_plan``.
        engine: further tensors, by the names that the plan uses.
    Raises:
        ConfigError: safetensors is not installed.
    """
    save = _safetensors().save
    tensors, ties = _untied(_named(state))
    tensors = {name: _frames_first(tensor) for name, tensor in tensors.items()}
    for name, layer in _layers(state).items():
        key = f"{name}.signs"
        if key in tensors:
            tensors[key] = to_tiles(tensors[key], layer["in_features"])
    tensors |= {ENGINE + name: tensor for name, tensor in engine.items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION_OF_SEVERAL if plan.get("languages") else VERSION,
        "state": json.dumps(_plain(state)),
        "ties": json.dumps(ties),
        "plan": json.dumps(plan),
        "crc32": NO_SUM.decode(),
    }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = with_checksum(_in_order(save(tensors, metadata)))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def _in_order(content: bytes) -> bytes:
    """The file with its metadata in the order of names: safetensors' own changes each time."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def with_checksum(content: bytes) -> bytes:
    """A whole file whose ``crc32`` is right; one that has none as it is."""
    found = _SUM.search(content)
    if found is None:
        return content
    before, after = content[: found.start(1)], content[found.end(1) :]
    digits = f"{zlib.crc32(after, zlib.crc32(before + NO_SUM)):08x}"
    return before + digits.encode() + after


def is_cress(path: str | os.PathLike[str]) -> bool:
    """Whether the file at ``path`` is of this format, of any version, sound or not."""
    return (_metadata(path) or {}).get("format") == FORMAT


def read_cress(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The packed model in a file of ``write_cress``, as ``read_packed`` returns it.

    Raises:
        CheckpointError: damaged or of another version.
        ConfigError: safetensors is not installed.
    """
    load_file = _safetensors().load_file
    metadata = _metadata(path) or {}
    version = metadata.get("version")
    if version not in (VERSION, VERSION_OF_SEVERAL):
        raise CheckpointError(
            f"{path}: is a .cress file of version {version!r}, and this program reads versions "
            f"{VERSION} and {VERSION_OF_SEVERAL}: update cress_svcd, or {_REMEDY}"
        )
    with explained(path):
        _require_checksum(path)
        tensors = load_file(str(path))
        state, ties = json.loads(metadata["state"]), json.loads(metadata["ties"])
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(ENGINE)}
        signs: Tensors = {}
        for name, layer in _layers(state).items():
            key, planes = f"{name}.signs", layer["planes"]
            if key in tensors:
                rows = planes * layer["out_features"]
                signs[key] = from_tiles(tensors[key], rows, layer["in_features"])
        tensors = {name: _frames_first(tensor) for name, tensor in tensors.items()} | signs
        tensors |= {name: tensors[first] for name, first in ties.items()}
        state = _filled(state, tensors, ())
    check(state, path)
    return state


def _require_checksum(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError: the file's bytes are others than those that were written."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        (size,) = struct.unpack("<Q", content[:8])
        found = _SUM.search(content, 0, 8 + size)
        if found is None:
            return  # written before there was one
        begin, end = found.span(1)
        stated, view = found[1].decode(), memoryview(content)
        found = None
        with view:
            sum_ = zlib.crc32(NO_SUM, zlib.crc32(view[:begin]))
            sum_ = zlib.crc32(view[end:], sum_)
    if f"{sum_:08x}" != stated:
        raise CheckpointError(
            f"{path}: is damaged: its checksum is {sum_:08x}, and it says {stated}; copy it again, "
            f"or {_REMEDY}"
        )


def _frames_first(tensor: Tensor) -> Tensor:
    """A convolution's weight (out, channels, kernel_size) as (out, kernel_size, channels), in which
    order a window of frames lies in memory, and back; any other tensor as it is."""
    return tensor.transpose(1, 2).contiguous() if tensor.dim() == 3 else tensor


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ConfigError(
            "a .cress file needs the package safetensors: pip install 'cress_svcd[export]'"
        ) from None
    return safetensors.torch


def _metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The metadata of a safetensors file; None where it is none."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if not 2 <= size <= MOST_HEADER or file.read(1) != b"{":
                return None
            header = json.loads(b"{" + file.read(size - 1))
    except (OSError, ValueError, struct.error, RecursionError):
        return None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else None


def _layers(state: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> description of the packed layers of a packed file."""
    return read_description(state["cfg"]["model"]["packed"])["layers"]


def _places(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _places(item, (*place, str(key)))


def _name(place: tuple[str, ...]) -> str:
    return place[1] if place[0] == "model" else "/".join(place)


def _named(state: Mapping[str, Any]) -> Tensors:
    return {_name(place): tensor for place, tensor in _places(state)}


def _untied(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """Those that share no memory, and the name of the one that each of the others is."""
    first: dict[tuple, str] = {}
    kept: Tensors = {}
    ties: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = tensor.data_ptr(), tuple(tensor.shape), tensor.dtype
        if tensor.numel() and key in first:
            ties[name] = first[key]
        else:
            first[key] = name
            kept[name] = tensor
    return kept, ties


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"": 0}  # a place for a tensor: no dictionary of ours has an empty key
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _filled(value: Any, tensors: Tensors, place: tuple[str, ...]) -> Any:
    if value == {"": 0}:
        return tensors[_name(place)]
    if isinstance(value, dict):
        return {key: _filled(item, tensors, (*place, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, tensors, (*place, str(n))) for n, item in enumerate(value)]
    return value


register_reader(is_cress, read_cress)
