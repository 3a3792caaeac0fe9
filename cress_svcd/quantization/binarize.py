"""Sign weights: binary and ternary weights, their surrogate gradients, and a cache for a step."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from cress_svcd.kernels import dispatch
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.validation import require_choice

# Share of a row's mean |w| below which a ternary weight is 0 (Li and Liu 2016, eq. 6).
TERNARY_THRESHOLD = 0.7


def row_groups(matrix: Tensor, num_groups: int) -> tuple[Tensor, ...]:
    """Views of ``matrix`` along dim 0, ``num_groups`` of nearly equal size, none of them empty.

    Sizes differ by one at most where ``num_groups`` does not divide; there are no more groups than
    rows.  Where it divides, these are the groups of the published code.
    """
    return torch.tensor_split(matrix, max(1, min(num_groups, matrix.shape[0])), dim=0)


def group_means(weight: Tensor, num_groups: int = 1) -> Tensor:
    """Mean of each group of rows of ``weight`` (out, in): (1, 1), or (out, 1) for several groups.

    In the accumulation type: a float16 mean of small weights would be rounded coarsely.
    """
    exact = accumulation_dtype(weight.dtype)
    if num_groups == 1:
        return weight.mean(dtype=exact).view(1, 1)
    groups = row_groups(weight, num_groups)
    return torch.cat([group.mean(dtype=exact).expand(len(group), 1) for group in groups])


def binarize(weight: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """sign(weight - mean) in ``dtype``, ties +1, so that every weight has a 1-bit code.

    Where the mean is NaN or infinite all signs are NaN: a broken weight must not look sound.
    """
    fused = dispatch.training_kernels(weight, weight)
    if fused is not None and mean.numel() == 1 and dtype in fused.TYPES:
        return fused.binarize(weight, mean, dtype)
    signs = torch.empty_like(weight, dtype=dtype)
    # Comparing into a float tensor is the fastest sign on a CPU, 15 times faster than torch.where.
    torch.ge(weight, mean, out=signs)
    return torch.add((-1 - mean * 0).to(dtype), signs, alpha=2, out=signs)


def signs_of(weight: Tensor) -> Tensor:
    """sign(weight) in its own type, ties +1, as ``binarize``'s."""
    return binarize(weight, weight.new_zeros(1, 1), weight.dtype)


def ternarize(weight: Tensor, mean: Tensor, threshold: float, dtype: torch.dtype) -> Tensor:
    """-1, 0 or +1: 0 where |w - mean| is below ``threshold`` times its mean over the row.

    With a threshold of 0 these are binary weights, ties +1: shrinking it turns ternary weights into
    binary ones without a jump.
    """
    centred = weight - mean
    limit = threshold * centred.abs().mean(dim=1, keepdim=True)
    return (centred >= limit).to(dtype).sub_((centred < -limit).to(dtype))


# Surrogate gradients: what stands for the derivative of sign(w), which is zero almost everywhere.
# Each takes u, the centred weight over the surrogate's width, and returns d sign / dw in u's shape.


def _clip(u: Tensor) -> Tensor:
    """1 for |u| <= 1, else 0: the derivative of hard tanh (Hubara et al. 2016, eq. 4)."""
    return (u.abs() <= 1).to(u.dtype)


def _tanh(u: Tensor) -> Tensor:
    """1.001 - tanh(u)^2, never quite zero (OneBit: Xu et al. 2024, its training code)."""
    return 1.001 - torch.tanh(u).square()


def _polynomial(u: Tensor) -> Tensor:
    """max(0, 2 - 2|u|): the derivative of Bi-Real Net's piecewise quadratic (Liu et al. 2018)."""
    return (2 - 2 * u.abs()).clamp_min(0)


SURROGATE_GRADIENTS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "identity": None,  # straight-through (Bengio, Leonard and Courville 2013), as in BitNet
    "clip": _clip,
    "tanh": _tanh,
    "polynomial": _polynomial,
}


def surrogate_gradient(name: str, centred: Tensor, width: float | None = None) -> Tensor | None:
    """The surrogate derivative of sign at ``centred`` (any shape); None where it is one everywhere.

    The chain rule's 1/width is left out on purpose, as in OneBit: it would only rescale the
    gradient of the whole matrix, by a factor that depends on the weights' scale.

    Args:
        width: in units of the root mean square of ``centred``, which fits the surrogate to a
            trained matrix whose entries are of the order of 0.03; None takes ``centred`` as it is,
            the unit of the sources.
    Raises:
        ConfigError: ``name`` is not a key of SURROGATE_GRADIENTS.
    """
    function = SURROGATE_GRADIENTS[require_choice("estimator", name, SURROGATE_GRADIENTS)]
    if function is None:
        return None
    if width is None:
        return function(centred)
    unit = width * centred.square().mean().sqrt()
    return function(centred / unit.clamp_min(torch.finfo(centred.dtype).tiny))


class SignWeightCache:
    """Keeps the last sign weights of one weight, so that all passes of a training step share them.

    The key must hold whatever they depend on; ``weight_key`` gives a weight's part.  That part
    cannot see a write through ``weight.data``, which is how fairseq's optimizers update (such a
    write leaves ``weight._version`` as it was), so the layer also lets them expire when a gradient
    has reached the weight: an update is near.  A write through ``.data`` at any other moment needs
    ``clear()``.

    Copies of the cache (deepcopy, pickle) are empty.
    """

    def __init__(self) -> None:
        self._entry: tuple[Hashable, Tensor] | None = None

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor stored under ``key``, or what ``make`` returns, which is then stored."""
        entry = self._entry  # read once: replicas of one module may share a cache between threads
        if entry is None or entry[0] != key:
            entry = self._entry = None  # its memory first: the new tensor is of the same size
            entry = self._entry = key, _outside_inference_mode(make)
        return entry[1]

    def expire(self) -> None:
        """Have the sign weights made again next time; until then their memory stays taken.

        Handing it back after every step makes a CPU fault its pages in again.
        """
        entry = self._entry
        if entry is not None:
            self._entry = None, entry[1]

    @property
    def held(self) -> Tensor | None:
        """The tensor of the last ``get``, for whoever must keep its memory."""
        entry = self._entry
        return None if entry is None else entry[1]

    def clear(self) -> None:
        """Forget the sign weights and their memory."""
        self._entry = None

    def __reduce__(self) -> tuple[type["SignWeightCache"], tuple[()]]:
        return SignWeightCache, ()


def _outside_inference_mode(make: Callable[[], Tensor]) -> Tensor:
    """What ``make`` returns; a tensor born in inference mode could not be saved for a gradient."""
    if not torch.is_inference_mode_enabled():
        return make()
    with torch.inference_mode(False):
        return make()


def weight_key(weight: Tensor) -> tuple[Any, ...]:
    """What tells one state of ``weight`` from another: its memory, version, type and device.

    Raises:
        RuntimeError: it was made in inference mode, where tensors have no version.
    """
    return weight.data_ptr(), weight._version, weight.dtype, weight.device
