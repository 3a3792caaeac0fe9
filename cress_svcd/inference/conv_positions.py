"""HuBERT's convolutional positions, by a kernel of ours where the GPU's library has no fast one."""

import torch
from fairseq.modules import SamePad
from torch import Tensor, nn

from cress_svcd.inference.int8_modules import CompactConv1d
from cress_svcd.kernels import dispatch
from cress_svcd.models.hubert_encoder import HubertEncoder


def install(hubert: HubertEncoder) -> None:
    """Give ``hubert`` the faster positions, for all that runs without gradients.

    wav2vec 2.0's stacks and batch-normalised positions stay as they are.
    """
    positions = hubert.encoder.pos_conv
    if is_one_convolution(positions):
        hubert.encoder.pos_conv = ConvolutionalPositions(*positions).train(positions.training)


def is_one_convolution(positions: nn.Sequential) -> bool:
    """Whether these are a convolution, trimmed to its input's length, and an activation."""
    conv, trim = positions[0], positions[1]
    return (
        isinstance(conv, nn.Conv1d | CompactConv1d)
        and isinstance(trim, SamePad)
        and trim.remove == (_shape(conv)[2] + 1) % 2
    )


class ConvolutionalPositions(nn.Sequential):
    """fairseq's convolution, trimming and activation, with the same names and results.

    Without gradients, in half precision on CUDA, ``kernels.triton.conv1d`` convolves.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """out, channels of a group, kernel_size."""
        return _shape(self[0])

    @property
    def channels(self) -> int:
        """Of the input."""
        conv = self[0]
        return conv.channels if isinstance(conv, CompactConv1d) else conv.in_channels

    def kernel_call(self, x: Tensor) -> tuple[str, tuple[Tensor, tuple[int, int, int]]]:
        """See ``kernels.explain``."""
        return "conv_positions", (x, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time) → the same."""
        convolve = dispatch.implementation("conv_positions", x, self.shape).run
        if convolve is None:
            return super().forward(x)
        conv, _, *rest = self
        weight, bias = _weight(conv, x.dtype), conv.bias
        y = convolve(
            x.transpose(1, 2),
            weight,
            None if bias is None else bias.to(x.dtype),
            x.size(1) // weight.size(1),
            weight.size(2) // 2,
        ).transpose(1, 2)
        for module in rest:
            y = module(y)
        return y


def _shape(conv: nn.Module) -> tuple[int, int, int]:
    """out, channels of a group, kernel_size."""
    if isinstance(conv, CompactConv1d):
        return conv.shape
    return conv.out_channels, conv.in_channels // conv.groups, conv.kernel_size[0]


def _weight(conv: nn.Module, dtype: torch.dtype) -> Tensor:
    """As ``_shape``; a normalised weight is made, as torch makes it before each call."""
    if isinstance(conv, CompactConv1d):
        return conv.dense_weight(dtype)
    if hasattr(conv, "weight_v"):
        return torch._weight_norm(conv.weight_v, conv.weight_g, dim=2).to(dtype)
    return conv.weight.to(dtype)
