"""The 1-bit (or ternary) codes of a latent weight, and a cache that makes them once a step."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from cress_svcd.kernels.triton import training
from cress_svcd.quantization.fake_quant import accumulation_dtype

# Share of a row's mean |w| below which a ternary code is 0 (Li and Liu 2016, eq. 6).
TERNARY_DEAD_ZONE = 0.7


def row_chunks(matrix: Tensor, num_groups: int) -> tuple[Tensor, ...]:
    """Views of ``matrix`` along dim 0, ``num_groups`` of nearly equal size, none of them empty.

    Sizes differ by one at most where ``num_groups`` does not divide; there are no more groups than
    rows.  Where it divides, these are the groups of the published code.
    """
    return torch.tensor_split(matrix, max(1, min(num_groups, matrix.shape[0])), dim=0)


def centre(weight: Tensor, num_groups: int = 1) -> Tensor:
    """Mean of each group of rows of ``weight`` (out x in): 1 x 1, or out x 1 for several groups.

    In the accumulation type: a float16 mean of small weights would be rounded coarsely.
    """
    exact = accumulation_dtype(weight.dtype)
    if num_groups == 1:
        return weight.mean(dtype=exact).view(1, 1)
    chunks = row_chunks(weight, num_groups)
    return torch.cat([chunk.mean(dtype=exact).expand(len(chunk), 1) for chunk in chunks])


def sign_codes(weight: Tensor, middle: Tensor, dtype: torch.dtype) -> Tensor:
    """sign(weight - middle) in ``dtype``, ties +1, so that every weight has a 1-bit code.

    Where the mean is NaN or infinite all codes are NaN: a broken weight must not look sound.
    """
    if middle.numel() == 1 and training.is_for(weight, weight) and dtype in training.TYPES:
        return training.sign_codes(weight, middle, dtype)
    codes = torch.empty_like(weight, dtype=dtype)
    # Comparing into a float tensor is the fastest sign on a CPU, 15 times faster than torch.where.
    torch.ge(weight, middle, out=codes)
    return torch.add((-1 - middle * 0).to(dtype), codes, alpha=2, out=codes)


def ternary_codes(weight: Tensor, middle: Tensor, dead_zone: float, dtype: torch.dtype) -> Tensor:
    """-1, 0 or +1: 0 where |w - middle| is below ``dead_zone`` times its mean over the row.

    With a dead zone of 0 these are the sign codes, ties +1: shrinking it turns ternary weights
    into binary ones without a jump.
    """
    centred = weight - middle
    threshold = dead_zone * centred.abs().mean(dim=1, keepdim=True)
    return (centred >= threshold).to(dtype).sub_((centred < -threshold).to(dtype))


class CodeCache:
    """Keeps the last codes of one weight, so that all passes of a training step share them.

    The key must hold whatever the codes depend on; ``weight_key`` gives a weight's part.  That part
    cannot see a write through ``weight.data``, which is how fairseq's optimizers update (such a
    write leaves ``weight._version`` as it was), so the layer also lets the codes expire when a
    gradient has reached the weight: an update is near.  A write through ``.data`` at any other
    moment needs ``clear()``.

    Copies of the cache (deepcopy, pickle) are empty.
    """

    def __init__(self) -> None:
        self._entry: tuple[Hashable, Tensor] | None = None

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor stored under ``key``, or what ``make`` returns, which is then stored."""
        entry = self._entry  # read once: replicas of one module may share a cache between threads
        if entry is None or entry[0] != key:
            entry = self._entry = None  # its memory first: the new codes are of the same size
            entry = self._entry = key, _outside_inference_mode(make)
        return entry[1]

    def expire(self) -> None:
        """Have the codes made anew next time; until then their memory stays taken.

        Handing it back after every step makes a CPU fault its pages in again.
        """
        entry = self._entry
        if entry is not None:
            self._entry = None, entry[1]

    @property
    def codes(self) -> Tensor | None:
        """Those of the last ``get``, for whoever must keep their memory."""
        entry = self._entry
        return None if entry is None else entry[1]

    def clear(self) -> None:
        """Forget the codes and their memory."""
        self._entry = None

    def __reduce__(self):
        return CodeCache, ()


def _outside_inference_mode(make: Callable[[], Tensor]) -> Tensor:
    """What ``make`` returns; a tensor born in inference mode could not be saved for a gradient."""
    if not torch.is_inference_mode_enabled():
        return make()
    with torch.inference_mode(False):
        return make()


def weight_key(weight: Tensor) -> Hashable:
    """What tells one state of ``weight`` from another: its memory, version, type and device.

    Raises:
        RuntimeError: it was made in inference mode, where tensors have no version.
    """
    return weight.data_ptr(), weight._version, weight.dtype, weight.device
