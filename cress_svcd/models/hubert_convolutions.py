"""HuBERT's blocks of convolution, norm and activation, normalised over true lengths."""

import torch
from fairseq.modules import Fp32GroupNorm
from torch import Tensor, nn

from cress_svcd.errors import CheckpointError
from cress_svcd.kernels.cuda_graph import is_capturing


def run_blocks(blocks: nn.ModuleList, source: Tensor, frames: list[Tensor]) -> Tensor:
    """HuBERT's blocks of convolution, norm and activation, normalised over true lengths.

    Args:
        source: waveforms (batch, samples), zeros in the padding.
        frames: of each utterance after each block, (batch).
    Returns:
        (batch, channels, time).
    """
    x = source.unsqueeze(1)
    for block, count in zip(blocks, frames):
        for module in block:
            if isinstance(module, Fp32GroupNorm):
                x = masked_channel_norm(x, count, module)
            else:
                x = module(x)
    return x


def masked_channel_norm(x: Tensor, lengths: Tensor, norm: Fp32GroupNorm) -> Tensor:
    """Group normalisation with one channel a group, over the valid frames only.

    Args:
        x: (batch, channels, frames).
        lengths: valid frames, B.
        norm: its parameters and epsilon; computed in fp32 as fairseq does.
    """
    if norm.num_groups != norm.num_channels:
        raise CheckpointError(
            f"the feature extractor normalises {norm.num_channels} channels in {norm.num_groups} "
            "groups; HuBERT has one channel a group"
        )
    frames = x.size(2)
    if not is_capturing() and bool((lengths == frames).all()):
        return norm(x) if x.stride(1) != 1 else _channels_last_norm(x, norm)
    valid = (torch.arange(frames, device=x.device) < lengths.unsqueeze(1)).unsqueeze(1)
    count = lengths.view(-1, 1, 1).float()
    masked = x.float().masked_fill(~valid, 0.0)
    mean = masked.sum(dim=2, keepdim=True) / count
    centred = (masked - mean).masked_fill(~valid, 0.0)
    variance = centred.square().sum(dim=2, keepdim=True) / count
    scale = torch.rsqrt(variance + norm.eps) * norm.weight.float().view(1, -1, 1)
    return (centred * scale + norm.bias.float().view(1, -1, 1)).type_as(x)


def _channels_last_norm(x: Tensor, norm: Fp32GroupNorm) -> Tensor:
    """The same for unpadded (batch, channels, frames) whose channels are contiguous: torch's would
    copy it twice."""
    frames = x.transpose(1, 2)
    centred = frames - frames.mean(dim=1, keepdim=True, dtype=torch.float32)
    # Piece by piece: fresh memory for all squares costs more than they do.
    squares = sum(part.square().sum(dim=1, keepdim=True) for part in centred.split(256, dim=1))
    variance = squares / frames.size(1)
    scale = torch.rsqrt(variance + norm.eps) * norm.weight.float()
    return torch.addcmul(norm.bias.float(), centred, scale).transpose(1, 2).type_as(x)
