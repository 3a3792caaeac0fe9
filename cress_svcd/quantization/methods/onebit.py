"""OneBit's layer (Xu et al. 2024, arXiv:2402.11295)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.binarize import sign_codes
from cress_svcd.quantization.estimators import slope
from cress_svcd.quantization.scale_init import initial_vectors
from cress_svcd.quantization.validation import require_choice


class _OneBitSign(torch.autograd.Function):
    """sign with ties +1; its derivative is taken to be 1.001 - tanh(w)^2."""

    @staticmethod
    def forward(ctx, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return sign_codes(weight, weight.new_zeros(1, 1), weight.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * slope("tanh", ctx.saved_tensors[0])


class OneBitLinear(QuantLinear):
    """y = LN((x * g) sign(W)^T * h) + b, with g and h from the SVID of |W|.

    Equations 2 and 3 of the paper; as in its code, the normalisation after the product has no
    parameters and the bias comes last.  Activations are not quantised unless asked for.

    Options:
        output_norm: False leaves the normalisation out, which keeps a trained layer's scale.
    """

    METHOD = "onebit"
    WEIGHT_BITS = (1,)
    DEFAULT_ACTIVATION_BITS = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        output_norm: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype, **common)
        self.output_norm = require_choice("output_norm", output_norm, (True, False))
        self.g = nn.Parameter(torch.empty(in_features, device=device, dtype=dtype))
        self.h = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_vectors()

    @torch.no_grad()
    def reset_vectors(self) -> None:
        super().reset_vectors()
        if self.g.is_meta:
            return
        g, h = initial_vectors("svid", self.weight)
        self.g.copy_(g)
        self.h.copy_(h)

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        """The matrix before the output's normalisation."""
        codes = sign_codes(self.weight, self.weight.new_zeros(1, 1), self.weight.dtype)
        return self.h.unsqueeze(1) * codes * self.g

    def quantized_forward(self, x: Tensor) -> Tensor:
        x = self.quantize_input(self.norm(x) * self.g)
        y = F.linear(x, _OneBitSign.apply(self.weight)) * self.h
        if self.output_norm:
            y = F.layer_norm(y, (self.out_features,))
        return y if self.bias is None else y + self.bias
