"""Tensors of a checkpoint that are one: a model's tied tables."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tie_equal(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by name; those of equal bytes are one object, which a file holds once.

    A table that a model uses in several places stands in its state under as many names.  Whether
    these share memory depends on how the checkpoint was made: a mean of checkpoints, say, need not.
    Vectors and single numbers stay as they are: they are small, and equal by chance (biases of 0).
    """
    first: dict[tuple, Tensor] = {}
    return {
        name: first.setdefault(_identity(tensor), tensor) if tensor.dim() > 1 else tensor
        for name, tensor in tensors.items()
    }


def _identity(tensor: Tensor) -> tuple:
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return tensor.dtype, tensor.shape, hashlib.sha256(memoryview(plain)).digest()
