"""The file of a packed model: what is in it, how it is written and checked.

A packed file is written by torch.save and read with ``torch.load(weights_only=True)``.  It is a
dictionary with the keys of a checkpoint of fairseq, so that fairseq's own loader reads it, and two
more:

    packed       format: "cress_svcd packed model"; version: 1 or 2; digest: see ``digest_of``
    vocabulary   file name -> its bytes (uint8): config.yaml, dictionary and sentencepiece model,
                 from which the model can be used without its data folder; or empty
    cfg          task: of the training; model: the arch's options, without the quantization map,
                 and ``packed``: JSON that says how the tensors are to be understood
                 (``packed_tensors.pack_tensors``)
    model        name -> tensor.  A packed layer has ``signs`` (uint8, planes * out x ceil(in / 8);
                 bit b of byte k is input 8 k + b, 1 for +1, 0 for -1) and its scales; an int8
                 table or convolution ``weight`` (int8) and ``scale`` (a row each); all else is in
                 one floating type.  Tied tables stand in the file once.
    task_state   the digest of the dictionary
    optimizer_history, extra_state, args, criterion: what fairseq's loader asks for

Not in it: latent weights, optimizer, teacher; nor the CTC head, unless it was to be kept.

Version 1 is the first.  Version 2 has tables or convolutions of 1 to 4 bits: their ``weight`` is
uint8, (rows, bits, ceil(n / 8)), see ``low_bits``, and the description has their bits and shapes
under ``low_bits``.  A file without them is of version 1 as before.  A reader refuses versions that
it does not know.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cress_svcd.atomic_files import write_checkpoint
from cress_svcd.errors import CheckpointError
from cress_svcd.inference.low_bits import has_low_bits
from cress_svcd.inference.packed_structure import require_packed
from cress_svcd.models.checkpoint_files import (
    PACKED_HEADER,
    check_before_reading,
    explained,
    is_packed,
    read_other_format,
)
from cress_svcd.models.checkpoint_structure import has_values, require_sound

FORMAT = "cress_svcd packed model"
VERSION = 2  # the newest that is read


def write_packed(path: str | os.PathLike, state: dict) -> None:
    """Write ``state`` (all keys but the header) with its digest, all or nothing.

    The same state gives the same bytes.
    """
    write_checkpoint(path, with_digest(state))


def with_digest(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` with the header that belongs to it."""
    rest = {key: value for key, value in state.items() if key != PACKED_HEADER}
    header = {"format": FORMAT, "version": 2 if has_low_bits(state) else 1}
    header["digest"] = digest_of({**rest, PACKED_HEADER: header})
    return {PACKED_HEADER: header, **rest}


def read_packed(path: str | os.PathLike, mmap: bool = False) -> dict:
    """The content of a packed file, checked.

    Args:
        mmap: leave the tensors in the file until they are used.
    Raises:
        CheckpointError: missing, damaged, newer, or no packed model.
    """
    other = read_other_format(path)
    if other is not None:
        return other
    with explained(path):
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    if not is_packed(state):
        raise CheckpointError(f"{path}: is no packed model; expected a file of 'cress-svcd pack'")
    check(state, path)
    return state


def check(state: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Raise CheckpointError unless ``state``, read from ``path``, is whole and of our version."""
    header = state[PACKED_HEADER]
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise CheckpointError(
            f"{path}: its header {PACKED_HEADER!r} gives the format {str(found)[:60]!r}, expected "
            f"{FORMAT!r}: it was packed by another program, or is damaged: copy it again"
        )
    version = header.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{path}: is a packed model of format version {version!r}, and this program reads "
            f"versions 1 to {VERSION}: update cress_svcd, or pack the checkpoint again with this "
            "one"
        )
    require_sound(state, path)  # first: the digest reads all tensors
    try:
        digest = digest_of(state)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        digest = f"none, {type(error).__name__}"
    if digest != header.get("digest"):
        raise CheckpointError(
            f"{path}: is damaged: its content has the digest {digest[:16]}, and was written with "
            f"{str(header.get('digest'))[:16]}; copy it again, or pack the checkpoint again"
        )
    require_packed(state, path)


def check_file(path: str | os.PathLike) -> None:
    """``check`` for a packed file; anything else passes, for another reader to judge."""
    if not os.path.isfile(path):
        return
    with explained(path):
        if not zipfile.is_zipfile(path):  # raises for some damaged ends of an archive
            return  # torch has written archives since 1.6
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if is_packed(state):
        check(state, path)


check_before_reading(check_file)


def digest_of(state: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) over everything in ``state`` but the digest itself.

    First the plain data as JSON with sorted keys, tensors standing as null; then each tensor in the
    order of its place there: the place, type and shape as JSON, and its bytes in row-major order.

    Raises:
        TypeError: it holds something else than tensors and plain data.
        ValueError: a tensor has no values, or fewer than it says.
    """
    plain = {key: value for key, value in state.items() if key != PACKED_HEADER}
    plain[PACKED_HEADER] = {
        key: value for key, value in state[PACKED_HEADER].items() if key != "digest"
    }
    digest = hashlib.sha256()
    digest.update(json.dumps(_without_tensors(plain), sort_keys=True).encode())
    for place, tensor in sorted(_tensors(plain)):
        about = [place, str(tensor.dtype), list(tensor.shape)]
        if not has_values(tensor):
            raise ValueError(f"{'.'.join(place)} has no values")
        digest.update(json.dumps(about).encode())
        digest.update(memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def _without_tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        return None
    if isinstance(value, dict):
        return {str(key): _without_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(item) for item in value]
    return value


def _tensors(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, (*place, str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _tensors(item, (*place, str(number)))
