"""QuEST's layer (Panferov et al. 2025, arXiv:2502.05003): Hadamard rotation and trust gradient."""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cress_svcd.errors import CheckpointError
from cress_svcd.quantization.base import Holder, QuantLinear
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.midrise_grid import HALF_RANGE, gaussian_scale, midrise_q
from cress_svcd.quantization.sign_planes import SignPlanes, midrise_plane_scales

LARGEST_BLOCK = 128  # of the rotation, as in the authors' code


@functools.cache
def hadamard(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal Hadamard matrix of a power of two (Sylvester's construction), symmetric."""
    with torch.inference_mode(False):  # the matrix outlives the call and may meet autograd later
        matrix = torch.ones(1, 1, dtype=torch.float64)
        pattern = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        while len(matrix) < size:
            matrix = torch.kron(pattern, matrix)
        return (matrix / math.sqrt(size)).to(device=device, dtype=dtype)


def rotate(x: Tensor) -> Tensor:
    """``x`` (…, in) times block-diagonal Hadamard matrices; its own inverse.

    Blocks are of the largest power of two up to 128 that divides in (an odd one is left as it is).
    """
    size = min(LARGEST_BLOCK, x.shape[-1] & -x.shape[-1])
    matrix = hadamard(size, x.dtype, x.device)
    return (x.reshape(*x.shape[:-1], -1, size) @ matrix).reshape(x.shape)


class _TrustQuantize(torch.autograd.Function):
    """Rows to the Gaussian grid; the gradient passes where the rounding error can be trusted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        values = x.to(accumulation_dtype(x.dtype))
        size = values.square().mean(dim=-1, keepdim=True).sqrt_()
        step = size * gaussian_scale(bits)
        rounded = midrise_q(values / step.clamp_min(1e-30), bits).mul_(step)
        trust = size * (HALF_RANGE[bits] / (2**bits - 1))
        ctx.save_for_backward((rounded - values).abs() <= trust)
        return rounded.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


class QuESTLinear(QuantLinear):
    """y = Q(H W)^T Q(H x) + b, with H a Hadamard rotation of the inputs' dimension.

    Q divides a row by its root mean square, rounds to the grid that is best for normal variables,
    and multiplies back (section 3.1); its gradient is masked where the error exceeds half a step,
    that is, beyond the grid (the "trust" estimator, section 3.2).  The rotation makes rows nearly
    normal and cancels in the product.
    """

    METHOD = "quest"
    WEIGHT_BITS = (1, 2, 4, 8)
    ACTIVATION_BITS = (1, 2, 4, 8, None)

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        """The matrix in the inputs' own coordinates, rotated back."""
        return rotate(self.estimated_weight())

    def prepare_input(self, x: Tensor, holder: Holder) -> Tensor:
        """The rotated input, quantised."""
        x = rotate(x)
        bits = self.activation_bits
        return x if bits is None else _TrustQuantize.apply(x, bits)

    @property
    def product_bits(self) -> None:
        return None

    def steps_around_product(self) -> dict[str, Any]:
        bits = self.activation_bits
        if bits is None:
            return {"input": "rotation"}
        half = 2 ** (bits - 1)
        return {"input": "rotated grid", "high": half, "low": -half, "step": gaussian_scale(bits)}

    def estimated_weight(self) -> Tensor:
        """The rotated weight, quantised, to be multiplied with rotated inputs."""
        return _TrustQuantize.apply(rotate(self.weight), self.bits)

    def to_sign_planes(self) -> SignPlanes:
        """Of the rotated weight."""
        values = rotate(self.weight).to(accumulation_dtype(self.weight.dtype)).detach()
        scale = values.square().mean(dim=-1, keepdim=True).sqrt() * gaussian_scale(self.bits)
        return SignPlanes(midrise_q(values / scale.clamp_min(1e-30), self.bits), scale.flatten())

    plane_scales = staticmethod(midrise_plane_scales)

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        """One bit: two values have the root mean square that they had; more bits do not tell it."""
        if self.bits != 1:
            raise CheckpointError(
                f"unpacking: quest with {self.bits} bits cannot be turned back into a weight; keep "
                "the checkpoint that was packed"
            )
        size = (planes.scale / gaussian_scale(1)).unsqueeze(1)
        self.weight.copy_(rotate(2 * planes.q * size))
