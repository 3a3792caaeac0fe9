"""A quantised layer's weight as signs: the levels of every method are sums of sign matrices.

    method                                levels of a weight       as signs            planes
    svcd, bitnet, onebit, tbt, quest (1)  -1, 1                    s                   1
    svcd, bitnet158, tbt (ternary)        -1, 0, 1                 (s1 + s2) / 2       2
    uniform, quest (k bits)               ..., -1/2, 1/2, ...      s1 / 2 + s2 + ...   k

times a scale for each row (and, in svcd and onebit, g for each input).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.quantization import svcd_paper
from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.binarize import row_chunks
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.methods import METHODS
from cress_svcd.quantization.methods.onebit import OneBitLinear
from cress_svcd.quantization.methods.quest import QuESTLinear, rotate
from cress_svcd.quantization.methods.uniform import SMALLEST_STEP, UniformLinear
from cress_svcd.quantization.midrise_grid import gaussian_step, midrise_levels
from cress_svcd.quantization.svcd import BitLinear


@torch.no_grad()
def levels_and_scale(layer: QuantLinear) -> tuple[Tensor, Tensor]:
    """The levels of ``layer``'s weight (out x in) and their scale (out), both exact.

    Raises:
        ConfigError: the method is not one of METHODS.
        CheckpointError: the weight or a scale is not finite.
    """
    if type(layer) is not METHODS.get(layer.METHOD):
        raise ConfigError(
            f"packing: {type(layer).__name__} (method {layer.METHOD!r}) is none of the methods "
            f"{', '.join(METHODS)}; how its weights become signs is not known"
        )
    if isinstance(layer, BitLinear) and layer.variant == "paper":
        levels = svcd_paper.binarize_groupwise(layer.weight, layer.num_groups)
        scale = layer.h
    elif isinstance(layer, BitLinear):
        levels, scale = layer.codes(), layer.h
    elif isinstance(layer, OneBitLinear):
        levels, scale = torch.where(layer.weight >= 0, 1.0, -1.0), layer.h
    elif isinstance(layer, UniformLinear):
        exact = accumulation_dtype(layer.weight.dtype)
        scale = layer._step().to(exact).clamp_min(SMALLEST_STEP)
        levels = midrise_levels(layer.weight.to(exact) / scale, layer.bits)
    elif isinstance(layer, QuESTLinear):
        values = rotate(layer.weight).to(accumulation_dtype(layer.weight.dtype))
        scale = values.square().mean(dim=-1, keepdim=True).sqrt() * gaussian_step(layer.bits)
        levels = midrise_levels(values / scale.clamp_min(1e-30), layer.bits)
    else:  # bitnet, bitnet158, tbt: -scale, 0 or scale
        weight = layer.quantized_weight()
        scale = weight.abs().amax(dim=1)
        levels = weight.sign()
    scale = scale.detach().flatten()
    if not all(bool(tensor.isfinite().all()) for tensor in (layer.weight, levels, scale)):
        raise CheckpointError(
            "packing: the weight or a scale holds NaN or infinity; train from an earlier checkpoint"
        )
    return levels, scale


def level_planes(levels: Tensor) -> list[Tensor]:
    """The sign matrices (booleans, out x in) that sum up to ``levels``; see ``plane_weights``."""
    if bool((levels.abs() == 1).all()):
        return [levels > 0]
    if bool((levels == levels.round()).all()):
        return [levels >= 0, levels > 0]
    # Midrise levels: n - (2^bits - 1) / 2 for n from 0, whose binary digits are the signs.
    bits = max(1, int(levels.abs().max() * 2)).bit_length()
    numbers = (levels + (2**bits - 1) / 2).to(torch.int64)
    return [(numbers >> bit & 1).bool() for bit in range(bits)]


def plane_weights(planes: int, method: str) -> list[float]:
    """The factor of each sign matrix in the levels of a method."""
    if method in (UniformLinear.METHOD, QuESTLinear.METHOD):
        return [2.0 ** (bit - 1) for bit in range(planes)]
    return [1 / planes] * planes


@torch.no_grad()
def latent_weight(layer: QuantLinear, levels: Tensor, scale: Tensor) -> Tensor:
    """A weight (out x in) from which ``layer`` makes these levels and this scale again.

    Not the trained one, which is gone: the inverse of ``levels_and_scale`` as far as a forward
    pass can tell.
    """
    rule: Callable[..., Tensor] | None = _LATENT.get(layer.METHOD)
    if rule is None:
        return levels * scale.unsqueeze(1)
    return rule(layer, levels, scale)


def _latent_svcd(layer: BitLinear, levels: Tensor, scale: Tensor) -> Tensor:
    """The levels; ternary ones with a mean of zero, so that 0 stays the middle."""
    if not bool((levels == 0).any()):
        return levels
    return torch.cat([_without_mean(chunk) for chunk in row_chunks(levels, layer.num_groups)])


def _without_mean(levels: Tensor) -> Tensor:
    positive, negative = (levels > 0).sum(), (levels < 0).sum()
    if positive == 0 or negative == 0:
        return levels
    return torch.where(levels > 0, levels * (negative / positive), levels)


def _latent_by_mean(rows: bool, factor: float) -> Callable[..., Tensor]:
    """For scales that are ``factor`` times the mean magnitude of the matrix, or of each row."""

    def latent(layer: QuantLinear, levels: Tensor, scale: Tensor) -> Tensor:
        share = levels.abs().mean(dim=1, keepdim=True) if rows else levels.abs().mean()
        # A row of zeros does not know the scale, which belongs to the whole matrix then.
        scale = scale.unsqueeze(1) if rows else scale.max()
        return levels * (scale / (factor * share).clamp_min(1e-30))

    return latent


def _latent_onebit(layer: QuantLinear, levels: Tensor, scale: Tensor) -> Tensor:
    return levels


def _latent_tbt(layer: QuantLinear, levels: Tensor, scale: Tensor) -> Tensor:
    return _latent_by_mean(rows=True, factor=1 if layer.bits == 1 else 4 / 3)(layer, levels, scale)


def _latent_quest(layer: QuESTLinear, levels: Tensor, scale: Tensor) -> Tensor:
    """One bit: two values have the root mean square that they had; more bits do not tell it."""
    if layer.bits != 1:
        raise CheckpointError(
            f"unpacking: quest with {layer.bits} bits cannot be turned back into a weight; keep "
            "the checkpoint that was packed"
        )
    return rotate(2 * levels * (scale / gaussian_step(1)).unsqueeze(1))


_LATENT: dict[str, Callable[..., Tensor]] = {
    "svcd": _latent_svcd,
    "onebit": _latent_onebit,
    "bitnet158": _latent_by_mean(rows=False, factor=1),
    "tbt": _latent_tbt,
    "quest": _latent_quest,
}
