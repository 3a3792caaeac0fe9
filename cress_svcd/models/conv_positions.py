"""HuBERT's convolutional positions, by a kernel of ours where the GPU's library has no fast one."""

import torch
from fairseq.modules import SamePad
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.kernels import dispatch
from cress_svcd.quantization.low_bit_modules import QuantConv1d


def faster(positions: nn.Sequential) -> nn.Sequential:
    """The same modules as :class:`ConvolutionalPositions`, if they are one convolution.

    wav2vec 2.0's stacks and batch-normalised positions stay as they are.
    """
    conv = positions[0]
    if not isinstance(conv, nn.Conv1d) or not isinstance(positions[1], SamePad):
        return positions
    if positions[1].remove != (conv.kernel_size[0] + 1) % 2:
        return positions
    return ConvolutionalPositions(*positions).train(positions.training)


class ConvolutionalPositions(nn.Sequential):
    """fairseq's convolution, trimming and activation, with the same names and results.

    The convolution is torch's, whose weight may be normalised (``weight_v``, ``weight_g``), or a
    packed model's, which has a ``dense_weight``.  The normalised weight is made at each call and
    kept by nobody: torch's hook leaves it on the module with all that its gradient needs, so that
    parts of one step's graph live on in the next, which CUDA graphs cannot capture.
    """

    def __init__(self, *modules: nn.Module):
        super().__init__(*modules)
        conv = self[0]
        if hasattr(conv, "weight_v"):
            conv.weight = conv.weight.detach()

    @property
    def shape(self) -> tuple[int, int, int]:
        """out, channels of a group, kernel_size."""
        conv = self[0]
        if isinstance(conv, nn.Conv1d):
            return conv.out_channels, conv.in_channels // conv.groups, conv.kernel_size[0]
        return conv.shape

    @property
    def channels(self) -> int:
        """Of the input."""
        conv = self[0]
        return conv.in_channels if isinstance(conv, nn.Conv1d) else conv.channels

    def kernel_call(self, x: Tensor) -> tuple[str, tuple[Tensor, tuple[int, int, int]]]:
        """See ``kernels.explain``."""
        return "conv_positions", (x, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time) → the same."""
        conv, *rest = self
        convolve = dispatch.implementation("conv_positions", x, self.shape).run
        if convolve is not None:
            weight = _weight(conv, x.dtype)
            bias = None if conv.bias is None else conv.bias.to(x.dtype)
            groups, padding = x.size(1) // weight.size(1), weight.size(2) // 2
            x = convolve(x.transpose(1, 2), weight, bias, groups, padding).transpose(1, 2)
            rest = rest[1:]  # nothing is left to trim
        elif isinstance(conv, nn.Conv1d):
            weight = _weight(conv, x.dtype)
            x = F.conv1d(x, weight, conv.bias, padding=conv.padding, groups=conv.groups)
        else:
            x = conv(x)
        for module in rest:
            x = module(x)
        return x


def _weight(conv: nn.Module, dtype: torch.dtype) -> Tensor:
    """(out, channels of a group, kernel_size); a normalised one is made as torch makes it."""
    if isinstance(conv, QuantConv1d) or not isinstance(conv, nn.Conv1d):
        return conv.dense_weight(dtype)
    if hasattr(conv, "weight_v"):
        return torch._weight_norm(conv.weight_v, conv.weight_g, dim=2).to(dtype)
    return conv.weight.to(dtype)
