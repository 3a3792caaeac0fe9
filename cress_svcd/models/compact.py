"""Embeddings, output projection and convolutions that take less memory than they compute in.

A packed model's transformer layers take a bit a weight; what is left would outweigh them.  These
modules hold it in half precision or int8 and compute in the type of their input.  Their weights
are constants: they are made by loading a state, not trained.

int8 is symmetric with one scale a row (an entry of the vocabulary, an output channel):
weight = codes * scale, codes in -127..127.
"""

import functools

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

    Attributes:
        compute: bfloat16 to compute in it where this processor is fast at it; None: the input's
            type.
    """

    def __init__(
        self,
        conv: nn.Conv1d,
        dtype: torch.dtype,
        compute: torch.dtype | None = None,
        keep: bool = False,
    ):
        """With the sizes of ``conv`` and an empty weight of ``dtype``.

        Args:
            compute: see the attribute.
            keep: leave the output in ``compute`` where it was computed so.
        """
        super().__init__()
        out, channels, size = conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size
        # torch's bf16 convolution of sequences is hardly faster than that of fp32; a product of
        # windows with taps of channels is, four times.
        self.in_windows = compute is not None and conv.groups == 1 and conv.dilation == (1,)
        if self.in_windows:
            weight = torch.empty(out, size, channels, dtype=dtype).transpose(1, 2)
        else:
            weight = torch.empty(out, channels, size, dtype=dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", torch.empty(out) if dtype == torch.int8 else None)
        self.register_buffer("bias", None if conv.bias is None else torch.empty(out))
        self.stride, self.padding = conv.stride[0], conv.padding[0]
        self.options = {"dilation": conv.dilation, "groups": conv.groups}
        self.compute, self.keep = compute, keep

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv1d, for B x C x T in floating point, in the input's type (but see ``keep``)."""
        on_cpu = x.device.type == "cpu"
        lower = self.compute is not None and on_cpu and is_fast(self.compute)
        dtype = self.compute if lower else x.dtype
        weight = self.weight.to(dtype)
        if self.scale is not None:
            weight = weight.mul_(_over_rows(self.scale.to(dtype), weight))
        bias = None if self.bias is None else self.bias.to(dtype)
        if self.in_windows and lower:
            y = self._by_windows(x.to(dtype), weight, bias)
        else:
            y = F.conv1d(x.to(dtype), weight, bias, self.stride, self.padding, **self.options)
        return y if self.keep else y.to(x.dtype)

    def _by_windows(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution, in memory B x T x C: as the next one wants its input."""
        out, channels, size = weight.shape
        frames = F.pad(x.transpose(1, 2), (0, 0, self.padding, self.padding)).contiguous()
        count = (frames.shape[1] - size) // self.stride + 1
        windows = frames.as_strided(
            (len(x), count, size * channels),
            (frames.stride(0), self.stride * channels, 1),
        )
        rows = weight.transpose(1, 2).reshape(out, size * channels)
        # As one matrix: torch multiplies overlapping windows one utterance after the other.
        y = F.linear(windows.reshape(-1, size * channels), rows, bias)
        return y.view(len(x), count, out).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, {self.weight.dtype}, stride={self.stride}"


@functools.cache
def is_fast(dtype: torch.dtype) -> bool:
    """Whether this processor has instructions for products in ``dtype``."""
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
