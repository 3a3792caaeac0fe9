"""Signs as bits: one storage format, and the run-time layout of the C kernels.

Storage ("rows"): a sign matrix of out x in is out x ceil(in / 8) bytes, row-major; bit b of byte k
is input 8 k + b, 1 for +1 and 0 for -1; the last byte of a row is padded with zeros.  This is what
files hold, and no back end may change it.

Run time ("tiles"): the same bits in the order in which vector instructions want them, padded with
zeros to multiples of 16 outputs and 64 inputs: ceil(out / 16) x ceil(in / 64) x 128 bytes.  A tile
has two halves of 32 inputs; a half has a little-endian word of 32 bits for each of its 16 outputs;
bit 8 c + b of a word is input 4 b + c of the half (csrc/sign_gemm.h says why).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

TILE_OUT = 16
TILE_IN = 64
TILE_BYTES = TILE_OUT * TILE_IN // 8


def pack_signs(signs: Tensor) -> Tensor:
    """Bytes (out x ceil(in / 8), uint8) of a matrix (out x in): bit 1 where an entry is >= 0.

    Raises:
        ValueError: ``signs`` is no matrix, or holds anything but -1 and +1 (or is no boolean).
    """
    if signs.dim() != 2:
        raise ValueError(f"signs: found {signs.dim()} dimensions, expected out x in")
    if signs.dtype != torch.bool:
        if not signs.is_meta and not bool((signs.abs() == 1).all()):
            raise ValueError("signs: found an entry that is neither -1 nor +1, nor a boolean")
        signs = signs > 0
    return _bits_to_bytes(F.pad(signs, (0, -signs.shape[1] % 8)))


def unpack_signs(rows: Tensor, in_features: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix (out x in_features) of -1 and +1 whose bytes are ``rows``.

    Raises:
        ValueError: ``rows`` has not ceil(in_features / 8) bytes a row.
    """
    if rows.dim() != 2 or rows.shape[1] != row_bytes(in_features):
        raise ValueError(
            f"packed signs: found shape {tuple(rows.shape)}, expected out x "
            f"{row_bytes(in_features)} bytes for {in_features} inputs"
        )
    return _signs(_bytes_to_bits(rows)[:, :in_features], dtype)


def to_tiles(rows: Tensor, in_features: int) -> Tensor:
    """Packed signs in storage order -> tiles (see above), on the same device."""
    bits = _bytes_to_bits(rows)[:, :in_features]
    bits = F.pad(bits, (0, -in_features % TILE_IN, 0, -len(bits) % TILE_OUT))
    # Axes: output tile, output, input tile, half, b, c of the module's docstring.
    bits = bits.view(-1, TILE_OUT, bits.shape[1] // TILE_IN, 2, 8, 4)
    return _bits_to_bytes(bits.permute(0, 2, 3, 1, 5, 4)).reshape(
        bits.shape[0], bits.shape[2], TILE_BYTES
    )


def from_tiles(tiles: Tensor, out_features: int, in_features: int) -> Tensor:
    """The inverse of ``to_tiles``."""
    bits = _bytes_to_bits(tiles.view(*tiles.shape[:2], 2, TILE_OUT, 4))
    bits = bits.view(*tiles.shape[:2], 2, TILE_OUT, 4, 8).permute(0, 3, 1, 2, 5, 4)
    bits = bits.reshape(tiles.shape[0] * TILE_OUT, -1)[:out_features, :in_features]
    return _bits_to_bytes(F.pad(bits, (0, -in_features % 8)))


def row_bytes(in_features: int) -> int:
    """Bytes of a row in storage."""
    return -(-in_features // 8)


def tile_shape(out_features: int, in_features: int) -> tuple[int, int, int]:
    """Shape of the tiles of a matrix."""
    return -(-out_features // TILE_OUT), -(-in_features // TILE_IN), TILE_BYTES


def _bits_to_bytes(bits: Tensor) -> Tensor:
    """uint8 of shape ... x C/8 from booleans of shape ... x C, the first bit lowest."""
    if _numpy_can(bits):
        return torch.from_numpy(np.packbits(bits.numpy(), axis=-1, bitorder="little"))
    bits = bits.reshape(*bits.shape[:-1], bits.shape[-1] // 8, 8).to(torch.uint8)
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits * powers).sum(-1, dtype=torch.uint8)


def _bytes_to_bits(packed: Tensor) -> Tensor:
    """Booleans of shape ... x 8 C from uint8 of shape ... x C."""
    if _numpy_can(packed):
        bits = np.unpackbits(packed.numpy(), axis=-1, bitorder="little")
        return torch.from_numpy(bits).view(torch.bool)
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed.unsqueeze(-1) & powers).ne(0).flatten(-2)


def _numpy_can(tensor: Tensor) -> bool:
    """Whether numpy may do it, several times faster: real memory, not what a compiler traces."""
    return type(tensor) is Tensor and tensor.device.type == "cpu"


def _signs(bits: Tensor, dtype: torch.dtype) -> Tensor:
    return bits.to(dtype).mul_(2).sub_(1)


def restore(signs: Tensor, out_features: int, in_features: int) -> Tensor:
    """Signs in storage order, from the form of any back end (see ``dispatch``)."""
    if signs.dtype != torch.uint8:
        return pack_signs(signs)
    return from_tiles(signs, out_features, in_features) if signs.dim() == 3 else signs


def dense(signs: Tensor, out_features: int, in_features: int, dtype: torch.dtype) -> Tensor:
    """The matrix (out, in) of -1 and +1 in ``dtype``, from any form."""
    if signs.dtype != torch.uint8:
        return signs.to(dtype)
    return unpack_signs(restore(signs, out_features, in_features), in_features, dtype)
