"""OneBit's layer (Xu et al. 2024, arXiv:2402.11295)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.quantization.base import Holder, QuantLinear
from cress_svcd.quantization.binarize import signs_of, surrogate_gradient
from cress_svcd.quantization.fake_quant import fake_quantize_tokens
from cress_svcd.quantization.scale_init import initial_scales
from cress_svcd.quantization.sign_planes import SignPlanes
from cress_svcd.quantization.validation import require_choice


class _OneBitSign(torch.autograd.Function):
    """sign with ties +1; its derivative is taken to be 1.001 - tanh(w)^2."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return signs_of(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        derivative = surrogate_gradient("tanh", ctx.saved_tensors[0])
        assert derivative is not None
        return grad * derivative


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
    PACKED_PARAMETERS = ("g",)
    AUTOCAST_LOWERS_OUTPUT = False

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
        self.reset_scales()

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if self.g.is_meta:
            return
        g, h = initial_scales("svid", self.weight)
        self.g.copy_(g)
        self.h.copy_(h)

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        """The matrix before the output's normalisation."""
        return self.h.unsqueeze(1) * signs_of(self.weight) * self.g

    def to_sign_planes(self) -> SignPlanes:
        return SignPlanes(torch.where(self.weight >= 0, 1.0, -1.0), self.h.detach())

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        self.weight.copy_(planes.q)

    def quantized_forward(self, x: Tensor) -> Tensor:
        x = fake_quantize_tokens(self.norm(x) * self.g, self.activation_bits)
        return self.finish_output(F.linear(x, _OneBitSign.apply(self.weight)) * self.h, self)

    @property
    def finishes_output(self) -> bool:
        return self.output_norm

    @property
    def bias_in_product(self) -> bool:
        return not self.output_norm

    def steps_around_product(self) -> dict[str, Any]:
        return {"output": "norm"} if self.output_norm else {}

    def finish_output(self, y: Tensor, holder: Holder) -> Tensor:
        if self.output_norm:
            y = F.layer_norm(y, (self.out_features,))
        return y if holder.bias is None else y + holder.bias
