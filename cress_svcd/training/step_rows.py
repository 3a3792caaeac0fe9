"""What the steps of a training log, kept on the device until somebody reads it."""

from typing import Any

import torch
from torch import Tensor


class StepRows:
    """A row of numbers for each step, read by the host all at once.

    A value is a scalar tensor on the device or a plain number.  All rows have the same keys: a
    criterion logs every key at every batch, as fairseq asks for.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._plain: list[dict[str, float]] = []
        self._keys: tuple[str, ...] = ()

    @staticmethod
    def split(logged: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The tensors of ``logged``, and its plain numbers."""
        tensors = {key: value for key, value in logged.items() if isinstance(value, Tensor)}
        return tensors, {key: value for key, value in logged.items() if key not in tensors}

    @staticmethod
    def as_row(tensors: dict[str, Tensor]) -> Tensor:
        """(keys), in float64, in the order of the keys."""
        return torch.stack([tensors[key].detach().double() for key in sorted(tensors)])

    def add(self, keys: tuple[str, ...], row: Tensor, plain: dict[str, float]) -> None:
        """Keep ``row`` (keys), with ``keys`` in the order of their names."""
        assert not self._rows or keys == self._keys, (keys, self._keys)
        self._keys = keys
        self._rows.append(row)
        self._plain.append(plain)

    def take(self) -> list[dict[str, float]]:
        """What was kept, a dictionary a row, and forget it; waits for the device."""
        rows = torch.stack(self._rows).tolist() if self._rows else []
        taken = [dict(zip(self._keys, row)) | plain for row, plain in zip(rows, self._plain)]
        self._rows, self._plain = [], []
        return taken
