"""HuBERT's convolutional positions, by a kernel of ours where the GPU's library has no fast one."""

import torch
from fairseq.modules import SamePad
from torch import Tensor, nn

from cress_svcd.inference.int8_modules import CompactConv1d
from cress_svcd.kernels import dispatch
from cress_svcd.models.hubert_encoder import HubertEncoder


def install(hubert: HubertEncoder) -> None:
    """Give ``hubert`` the faster positions, for all that runs without gradients."""
    positions = hubert.encoder.pos_conv
    hubert.encoder.pos_conv = ConvolutionalPositions(*positions).train(positions.training)


class ConvolutionalPositions(nn.Sequential):
    """fairseq's convolution, trimming and activation, with the same names and results.

    Without gradients, in half precision on CUDA, ``kernels.triton.conv1d`` convolves.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time) → the same."""
        if not self._has_kernel(x):
            return super().forward(x)
        conv, _, *rest = self
        weight, bias = _weight(conv, x.dtype), conv.bias
        y = dispatch.conv1d_on_gpu(
            x.transpose(1, 2),
            weight,
            None if bias is None else bias.to(x.dtype),
            x.size(1) // weight.size(1),
            weight.size(2) // 2,
        ).transpose(1, 2)
        for module in rest:
            y = module(y)
        return y

    def _has_kernel(self, x: Tensor) -> bool:
        conv, trim = self[0], self[1]
        if not isinstance(conv, nn.Conv1d | CompactConv1d) or not isinstance(trim, SamePad):
            return False  # wav2vec 2.0's stacks and batch-normalised positions
        out, channels, kernel_size = _shape(conv)
        return (
            dispatch.is_conv1d_on_gpu(x)
            and out // (x.size(1) // channels) <= dispatch.CONV1D_WIDEST
            and trim.remove == (kernel_size + 1) % 2
        )


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
