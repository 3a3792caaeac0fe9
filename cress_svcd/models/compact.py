"""Embeddings, output projection and convolutions that take less memory than they compute in.

A packed model's transformer layers take a bit a weight; what is left would outweigh them.  These
modules hold it in half precision or int8 and compute in the type of their input.  Their weights
are constants: they are made by loading a state, not trained.

int8 is symmetric with one scale a row (an entry of the vocabulary, an output channel):
weight = codes * scale, codes in -127..127.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.kernels import expanded

TOP = 127


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes in the shape of ``weight`` (rows x ...), and the float32 scale of each row."""
    exact = weight.detach().float()
    scale = exact.flatten(1).abs().amax(dim=1) / TOP
    step = _over_rows(scale, exact).clamp_min(torch.finfo(torch.float32).tiny)
    return (exact / step).round_().clamp_(-TOP, TOP).to(torch.int8), scale


def dequantize_rows(codes: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight (rows x ...) of ``quantize_rows``."""
    return codes.float() * _over_rows(scale.float(), codes)


def _over_rows(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


class Int8Embedding(nn.Module):
    """nn.Embedding with an int8 table; only the rows that are looked up are made.

    State: ``weight`` (entries x width, int8) and ``scale`` (entries).
    """

    def __init__(self, embedding: nn.Embedding, weight: Tensor, scale: Tensor):
        """For a table that may be shared: ``weight`` and ``scale`` are kept, not copied."""
        super().__init__()
        self.num_embeddings, self.embedding_dim = embedding.weight.shape
        self.padding_idx = embedding.padding_idx
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows (... x width) of ``tokens`` (...), in the type of the scale."""
        scale = self.scale[tokens].unsqueeze(-1)
        return self.weight[tokens].to(scale.dtype).mul_(scale)


class Int8Projection(nn.Module):
    """nn.Linear with an int8 weight, multiplied as integers where the processor is fast at it.

    The input passes as two planes of int8, a relative error of some 5e-5 against the same weight in
    floating point.  State: ``weight`` (out x in, int8), ``scale`` (out), ``bias`` (out) if any.
    """

    def __init__(self, linear: nn.Linear, weight: Tensor, scale: Tensor):
        """See ``Int8Embedding``."""
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        bias = None if linear.bias is None else torch.empty(self.out_features)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """... x in -> ... x out, in x's type."""
        return expanded.sign_matmul(x, self.weight, None, self.scale, self.bias, bits=None)


class CompactConv1d(nn.Module):
    """nn.Conv1d with its weight in half precision or int8, made whole for each call.

    Worth it where a module is called once for an utterance, as the speech encoder's convolutions
    are.  State: ``weight``, ``scale`` (out; int8 only), ``bias`` (out) if any.
    """

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype):
        """With the sizes of ``conv`` and an empty weight of ``dtype``."""
        super().__init__()
        shape = conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size
        self.register_buffer("weight", torch.empty(shape, dtype=dtype))
        scale = torch.empty(shape[0]) if dtype == torch.int8 else None
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if conv.bias is None else torch.empty(shape[0]))
        self.options: dict[str, Any] = {
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
        }

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv1d, for B x C x T in floating point."""
        weight = self.weight.to(x.dtype)
        if self.scale is not None:
            weight = weight.mul_(_over_rows(self.scale.to(x.dtype), weight))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv1d(x, weight, bias, **self.options)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, {self.weight.dtype}, {self.options}"
