"""Which convolutions and tables may have 1 to 4 bits a weight, and the grid of such a weight.

A weight of b bits is q * scale, one scale a row (an entry of the vocabulary, an output channel), q
one of the 2^b odd numbers from -(2^b - 1) to 2^b - 1.  A step of ``midrise_grid`` is two scales.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.midrise_grid import SMALLEST_STEP, midrise_q

CHOICES = (1, 2, 3, 4)
TABLES = ("embed_tokens", "output_projection", "ctc_head")
FRONT_END_PROJECTION = "post_extract_proj"  # from HuBERT's convolutions to its transformer
SUBSAMPLER = "encoder.subsampler."

# Shares of a row's largest magnitude that the grid's end is tried at, and how often q and scale are
# then fitted to each other.
_SHARES = [step / 8 for step in range(2, 9)]
_FITS = 4


@dataclasses.dataclass(frozen=True)
class LowBits:
    """Bits a weight of what no pattern of a policy names; None: as it is.

    Attributes:
        embedding: of embeddings, output projection and CTC head.
        hubert: of the speech encoder's convolutions and the projection after them.
        subsampler: of the subsampler's convolutions.
    """

    embedding: int | None = None
    hubert: int | None = None
    subsampler: int | None = None

    def of_convolution(self, name: str) -> int | None:
        """Of the convolution ``name``."""
        return self.subsampler if name.startswith(SUBSAMPLER) else self.hubert

    def of_table(self, name: str) -> int | None:
        """Of the embedding or linear layer ``name``."""
        last = name.rpartition(".")[2]
        if last == FRONT_END_PROJECTION:
            return self.hubert
        return self.embedding if last in TABLES else None


KINDS = tuple(field.name for field in dataclasses.fields(LowBits))


def require_bits(where: str, bits: Any) -> int | None:
    """``bits`` as a number, or None; ConfigError, which begins with ``where``, unless it is of
    CHOICES.  ``True`` is no 1."""
    if bits is None:
        return None
    if isinstance(bits, bool) or bits not in CHOICES:
        raise ConfigError(f"{where} {bits!r}: expected 1, 2, 3 or 4, or leave it out")
    return int(bits)


def quantize_low(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """int8 q in the shape of ``weight`` (rows x ...), and the float32 scale of each row.

    Of the scales tried the one with the least squared error in its row; the alternation of
    q and scale is Lloyd's (1982) for an equally spaced grid.  With 1 bit the scale is the mean
    magnitude.  A row of zeros has the scale 0.
    """
    exact = weight.detach().float().flatten(1)
    qmax = 2**bits - 1
    largest = exact.abs().amax(dim=1, keepdim=True)
    best = best_scale = None
    for share in _SHARES:
        scale = largest * (share / qmax)
        for _ in range(_FITS):
            scale = _fitted(exact, _nearest(exact, scale, qmax))
        error = (exact - _nearest(exact, scale, qmax) * scale).square().sum(1, keepdim=True)
        if best is None or best_scale is None:
            best, best_scale = error, scale
        else:
            best_scale = torch.where(error < best, scale, best_scale)
            best = torch.minimum(error, best)
    assert best_scale is not None
    q = _nearest(exact, best_scale, qmax).to(torch.int8)
    return q.view(weight.shape), best_scale.squeeze(1)


def quantize_trained(weight: Tensor, bits: int, log2_step: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the trained step of each row (its binary logarithm, (rows)): q * scale is what
    ``low_bit_modules`` compute with."""
    step = log2_step.detach().float().exp2().clamp_min(SMALLEST_STEP)
    ratio = weight.detach().float().flatten(1) / step.unsqueeze(1)
    q = midrise_q(ratio, bits).mul_(2).to(torch.int8)
    return q.view(weight.shape), step / 2


def _nearest(exact: Tensor, scale: Tensor, qmax: int) -> Tensor:
    """The nearest odd numbers to exact / scale, ties upwards, as float32."""
    ratio = exact / scale.clamp_min(torch.finfo(torch.float32).tiny)
    return ratio.div_(2).floor_().mul_(2).add_(1).clamp_(-qmax, qmax)


def _fitted(exact: Tensor, q: Tensor) -> Tensor:
    """The scale of each row with the least squared error for its q."""
    return (exact * q).sum(1, keepdim=True) / q.square().sum(1, keepdim=True)
