"""BiBERT's layer (Qin et al. 2022, arXiv:2203.06390)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cress_svcd.quantization.base import Holder, QuantLinear
from cress_svcd.quantization.binarize import binarize, signs_of
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.sign_planes import SignPlanes


class _InputSign(torch.autograd.Function):
    """sign(x) with ties +1; the gradient passes where |x| <= 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs_of(x.flatten(0, -2)).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * (ctx.saved_tensors[0].abs() <= 1)


class BiBERTLinear(QuantLinear):
    """y = a * sign(W - m) Q(x) + b, with m the mean of a row of W and a its mean magnitude.

    As in the authors' code, the gradient is that of W - m clipped to [-1, 1], and that of a is left
    out.  Taking the mean off makes both signs equally frequent, which holds the most information
    (the paper's section 3).  Its attention without a softmax is ``--quant-attention bi_attention``,
    its distillation of directions ``--distill-relation-form direction``.

    Options:
        activation_bits: 1 (the input's sign, as in the paper), 8, 16 or None.
    """

    METHOD = "bibert"
    WEIGHT_BITS = (1,)
    ACTIVATION_BITS = (1, 8, 16, None)

    def prepare_input(self, x: Tensor, holder: Holder) -> Tensor:
        return _InputSign.apply(x) if self.activation_bits == 1 else x

    @property
    def product_bits(self) -> int | None:
        return None if self.activation_bits == 1 else self.activation_bits

    @torch.no_grad()
    def to_sign_planes(self) -> SignPlanes:
        weight = self.weight.to(accumulation_dtype(self.weight.dtype))
        signs = binarize(weight, weight.mean(1, keepdim=True), weight.dtype)
        return SignPlanes(signs, weight.abs().mean(1))

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        return self.to_sign_planes().dense().to(self.weight.dtype)

    def estimated_weight(self) -> Tensor:
        clipped = (self.weight - self.weight.mean(1, keepdim=True)).clamp(-1, 1)
        return self.quantized_weight() + (clipped - clipped.detach())
