"""PTQ1.61's layer (Zhao et al. 2025, arXiv:2502.13179): binary but for salient input channels."""

from typing import Any

import torch
from torch import Tensor, nn

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.binarize import binarize
from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.scale_init import channel_magnitudes
from cress_svcd.quantization.validation import require_share

SALIENT_BITS = 4
LARGEST = 2**SALIENT_BITS - 1
SMALLEST_STEP = 1e-30


class PTQ161Linear(QuantLinear):
    """y = W~ Q(x) + b, where W~ has 4 bits for the input channels that count most, and for others

        W~_ij = r_i c_j (a_i sign(W_ij - m_i) + m_i)

    with trained a, r and c, and m the mean of a row over these channels, a constant to the
    gradient.  a begins at the row's mean magnitude, r and c at 1.  Salient ones lie on 16 values
    from the row's smallest to its largest there.  The gradient of W passes straight through: the
    paper trains the scales alone, block by block, after a preprocessing of the weights, neither of
    which is done here.  Activations are rounded to 8 bits per token (the paper: none are).

    Options:
        share: of salient channels; 0.2 makes 1.6 bits a weight.

    Parameters: ``a`` and ``r`` (out), ``c`` (in).  Buffer: ``salient`` (in), True for channels with
    the largest weights; after ``calibrate``, with the largest inputs, which is the paper's choice.
    """

    METHOD = "ptq161"
    WEIGHT_BITS = (1,)
    NOT_PACKED = "keeps some input channels in 4 bits"

    salient: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        share: float = 0.2,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype, **common)
        self.share = require_share("share", share)
        self.a = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.r = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.c = nn.Parameter(torch.empty(in_features, device=device, dtype=dtype))
        empty = torch.zeros(in_features, dtype=torch.bool, device=device)
        self.register_buffer("salient", empty)
        self.reset_scales()

    @property
    def weight_bits(self) -> float:
        return 1 + self.share * (SALIENT_BITS - 1)

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if not self.a.is_meta:
            self._choose(self.weight.abs().mean(0, dtype=torch.float32))

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Take the channels in which inputs (…, in) like these are largest for the salient ones."""
        self._choose(channel_magnitudes(self.norm(x)))

    def _choose(self, size: Tensor) -> None:
        """Salient channels by a size (in), and scales for the others."""
        count = round(self.share * self.in_features)
        self.salient.zero_()[size.topk(count, sorted=False).indices] = True
        self.a.copy_(self._row_mean(self.weight.abs()).flatten())
        self.r.fill_(1)
        self.c.fill_(1)

    def _row_mean(self, weight: Tensor) -> Tensor:
        """Of the channels that are not salient, (out, 1), in the accumulation type."""
        others = ~self.salient
        exact = weight.to(accumulation_dtype(weight.dtype))
        return (exact * others).sum(1, keepdim=True) / others.sum().clamp_min(1)

    @torch.no_grad()
    def _kept(self) -> Tensor:
        """The weight in 4 bits, (out, in); what stands outside of the salient channels is of no
        use."""
        weight = self.weight.to(accumulation_dtype(self.weight.dtype))
        # Of a layer so narrow that no channel is, the whole row, which nobody uses.
        others = ~self.salient & self.salient.any()
        low = weight.masked_fill(others, torch.inf).amin(1, keepdim=True)
        high = weight.masked_fill(others, -torch.inf).amax(1, keepdim=True)
        step = ((high - low) / LARGEST).clamp_min(SMALLEST_STEP)
        return ((weight - low) / step).round().clamp(0, LARGEST) * step + low

    def estimated_weight(self) -> Tensor:
        weight = self.weight.detach()
        mean = self._row_mean(weight)
        signs = binarize(weight, mean, weight.dtype)
        mean = mean.to(weight.dtype)
        binary = (self.a.unsqueeze(1) * signs + mean) * (self.r.unsqueeze(1) * self.c)
        passed = self.weight - weight
        return torch.where(self.salient, self._kept().to(weight.dtype), binary) + passed

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        return self.estimated_weight()
