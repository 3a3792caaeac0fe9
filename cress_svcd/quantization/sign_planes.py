"""A quantised weight as sign planes: matrices of -1 and +1 whose weighted sum it is.

    weight = scale * q,    q = plane_scale_1 * plane_1 + plane_scale_2 * plane_2 + ...

    weights                    q                        planes, plane scales
    binary                     -1, 1                    s                      1
    ternary                    -1, 0, 1                 s1, s2                 1/2, 1/2
    k bits (``midrise_grid``)  ..., -1/2, 1/2, ...      s1, ..., sk            1/2, 1, ..., 2^(k-2)

One kernel multiplies with all of them: planes are stacked as further rows.
"""

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class SignPlanes:
    """What a packed file holds of a weight.

    Attributes:
        q: (out, in), the quantised weight without its scale; exact in floating point.
        scale: (out), the scale of each row.
    """

    q: Tensor
    scale: Tensor

    def split(self) -> list[Tensor]:
        """The planes (booleans, (out, in); True is +1), as few as q needs."""
        q = self.q
        if bool((q.abs() == 1).all()):
            return [q > 0]
        if bool((q == q.round()).all()):
            return [q >= 0, q > 0]
        # A midrise q is n - (2^bits - 1) / 2 for n from 0; the binary digits of n are the signs.
        bits = max(1, int(q.abs().max() * 2)).bit_length()
        numbers = (q + (2**bits - 1) / 2).long()
        return [(numbers >> bit & 1).bool() for bit in range(bits)]

    def dense(self) -> Tensor:
        """The weight (out, in)."""
        return self.q * self.scale.unsqueeze(1)

    def is_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in (self.q, self.scale))


def ternary_plane_scales(planes: int) -> tuple[float, ...]:
    """Of one plane (binary) or two (ternary)."""
    return (1 / planes,) * planes


def midrise_plane_scales(planes: int) -> tuple[float, ...]:
    """Of a midrise grid: the binary digits of its values."""
    return tuple(2.0 ** (bit - 1) for bit in range(planes))


def join(signs: Tensor, plane_scales: tuple[float, ...]) -> Tensor:
    """q (out, in) of stacked planes (planes x out, in) of -1 and +1."""
    planes = signs.chunk(len(plane_scales))
    total = planes[0] * plane_scales[0]
    for plane, scale in zip(planes[1:], plane_scales[1:]):
        total = total + plane * scale
    return total
