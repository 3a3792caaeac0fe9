"""BiPFT's layer (Xing et al. 2023, arXiv:2312.08937): a low-rank estimate of what signs lose."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.base import Holder, QuantLinear
from cress_svcd.quantization.binarize import signs_of
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.scale_init import channel_magnitudes
from cress_svcd.quantization.sign_planes import SignPlanes


class BiPFTLinear(QuantLinear):
    """y = a * (sign(W) Q(x)) + up (down x) + b, with a the mean magnitude of a row.

    The paper writes a product of full precision as the binary one and residual terms, which it
    estimates by trained products of rank 1 of the layer's input (q_m, q_p, ... in its code), for
    queries, keys and values.  Here the estimate of a layer's own residual (W - a sign(W)) x is part
    of the layer, so that any layer can have one, and attention, which multiplies estimated queries
    with estimated keys, contains the paper's terms.  It begins as the best one of its rank (Eckart
    and Young 1936); the paper draws it.  Binary weights are those of BiT (Liu et al. 2022), the
    gradient passes straight through; activations have 8 bits per token (the paper: 1).

    Options:
        rank: of the estimate; rank (in + out) numbers a layer in full precision.

    Parameters: ``down`` (rank, in) and ``up`` (out, rank).
    """

    METHOD = "bipft"
    WEIGHT_BITS = (1,)
    PACKED_PARAMETERS = ("down", "up")
    ADDS_BESIDE_PRODUCT = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rank: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype, **common)
        if type(rank) is not int or rank < 1:
            raise ConfigError(f"rank: found {rank!r}, expected a whole number above 0")
        self.rank = rank
        self.down = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=dtype))
        self.up = nn.Parameter(torch.empty(out_features, rank, device=device, dtype=dtype))
        self.reset_scales()

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if self.down.is_meta:
            return
        self._estimate(torch.ones_like(self.weight[0]))

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Begin with the estimate that is best where inputs (…, in) like these are large (ASVD)."""
        self._estimate(channel_magnitudes(self.norm(x)))

    def _estimate(self, size: Tensor) -> None:
        """Set ``down`` and ``up`` to the estimate of least error, columns weighed by ``size``."""
        exact = accumulation_dtype(self.weight.dtype)
        rest = self.weight.to(exact) - self._binary_weight().to(exact)
        left, sizes, right = torch.linalg.svd(rest * size, full_matrices=False)
        rank = min(self.rank, len(sizes))
        halves = sizes[:rank].sqrt()
        self.down.zero_()[:rank] = halves.unsqueeze(1) * right[:rank] / size
        self.up.zero_()[:, :rank] = left[:, :rank] * halves

    @torch.no_grad()
    def _binary_weight(self) -> Tensor:
        return self.to_sign_planes().dense().to(self.weight.dtype)

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        """Of the layer: that of the product, and the estimate of its residual."""
        return self._binary_weight() + self.up @ self.down

    def estimated_weight(self) -> Tensor:
        binary = self._binary_weight()
        return binary + (self.weight - self.weight.detach())

    def beside_product(self, x: Tensor, holder: Holder) -> Tensor:
        down, up = (parameter.to(x.dtype) for parameter in (holder.down, holder.up))
        return F.linear(F.linear(x, down), up)

    @torch.no_grad()
    def to_sign_planes(self) -> SignPlanes:
        weight = self.weight.to(accumulation_dtype(self.weight.dtype))
        signs = signs_of(weight)
        return SignPlanes(signs, weight.abs().mean(dim=1))
