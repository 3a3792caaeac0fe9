"""PB-LLM's layer (Shang et al. 2023, arXiv:2310.00034): binary but for salient weights."""

from typing import Any

import torch
from torch import Tensor

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.binarize import signs_of
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.validation import require_share

SALIENT_BITS = 8
QMAX = 2 ** (SALIENT_BITS - 1) - 1
SMALLEST_SCALE = 1e-30


class PBLLMLinear(QuantLinear):
    """y = W~ Q(x) + b with W~ in 8 bits where W was largest at the start, and a sign(W) elsewhere.

    A share of the matrix, its largest magnitudes when it is converted (the paper's criterion
    without a Hessian), is salient: it is rounded to 8 bits by its row's largest and never trained.
    Of the other weights a row's scale a is their mean magnitude, the optimal one of the paper,
    computed at every step; their gradient passes straight through.  Activations are rounded to 8
    bits per token (the paper: none are).

    Options:
        share: of salient weights.

    Buffer: ``salient`` (out, in), True where a weight is.
    """

    METHOD = "pb_llm"
    WEIGHT_BITS = (1,)
    NOT_PACKED = "keeps some weights in 8 bits, which lie anywhere in the matrix"

    salient: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        share: float = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype, **common)
        self.share = require_share("share", share)
        empty = torch.zeros(out_features, in_features, dtype=torch.bool, device=device)
        self.register_buffer("salient", empty)
        self.reset_scales()

    @property
    def weight_bits(self) -> float:
        """Binary and salient weights, and a bit that tells them apart."""
        return 2 + self.share * (SALIENT_BITS - 1)

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if self.salient.is_meta:
            return
        count = round(self.share * self.weight.numel())
        largest = self.weight.abs().flatten().topk(count, sorted=False).indices
        self.salient.zero_().view(-1)[largest] = True

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        weight = self.weight.to(accumulation_dtype(self.weight.dtype))
        magnitude, binary = weight.abs(), ~self.salient
        scale = (magnitude * binary).sum(1, keepdim=True) / binary.sum(1, keepdim=True).clamp_min(1)
        signs = signs_of(weight)
        step = (magnitude * self.salient).amax(1, keepdim=True).clamp_min(SMALLEST_SCALE) / QMAX
        kept = (weight / step).round() * step
        return torch.where(binary, signs * scale, kept).to(self.weight.dtype)

    def estimated_weight(self) -> Tensor:
        trained = (self.weight - self.weight.detach()) * ~self.salient
        return self.quantized_weight() + trained
