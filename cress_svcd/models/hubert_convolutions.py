"""HuBERT's blocks of convolution, norm and activation, normalised over true lengths."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from fairseq.modules import Fp32GroupNorm
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.errors import CheckpointError
from cress_svcd.kernels.cuda_graph import is_capturing
from cress_svcd.quantization.low_bit_modules import QuantConv1d

Samples = TypeVar("Samples", int, Tensor)
_CONVOLUTIONS = (nn.Conv1d, QuantConv1d)


def frames_of_blocks(
    samples: Samples, convolutions: Iterable[tuple[int, int, int]]
) -> list[Samples]:
    """Frames after each of the ``convolutions`` (channels, kernel, stride) of so many samples."""
    counts = []
    for _, kernel, stride in convolutions:
        samples = (samples - kernel) // stride + 1
        counts.append(samples)
    return counts


def run_blocks(blocks: nn.ModuleList, source: Tensor, frames: list[Tensor]) -> Tensor:
    """All blocks, normalised over true lengths.

    Args:
        source: waveforms (batch, samples), zeros in the padding.
        frames: of each utterance after each block, (batch).
    Returns:
        (batch, channels, time); with contiguous channels if the convolutions are not packed ones.
    """
    x = source.unsqueeze(1)
    for block, count in zip(blocks, frames):
        if normalises_windows(block, x):
            x = normalised_windows(source, count, block[0], block[2])
            x = block[-1](x).transpose(1, 2)
            continue
        for module in block:
            if isinstance(module, Fp32GroupNorm):
                x = masked_channel_norm(x, count, module)
            elif type(module) in _CONVOLUTIONS:
                x = _convolve_frames(module, x)
            else:
                x = module(x)
    return x


def _convolve_frames(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """``conv`` (without padding) of (batch, channels, time), whose channels lie together
    before and after: what cuDNN and oneDNN compute as it is, and else copy to and fro.  On an
    AMD EPYC (Zen 5) HuBERT-Base's blocks take 0.5 to 0.7 times as long so."""
    x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight_of(conv).unsqueeze(2), conv.bias, (1, *conv.stride)).squeeze(2)


def weight_of(conv: nn.Conv1d) -> Tensor:
    """What it convolves with, (out, channels of a group, kernel_size)."""
    return conv.dense_weight() if isinstance(conv, QuantConv1d) else conv.weight


def normalises_windows(block: nn.Sequential, x: Tensor) -> bool:
    """Whether ``normalised_windows`` is this block of ``x`` (batch, channels, time), activation
    aside: that of HuBERT-Base which comes first."""
    conv, dropout, norm = block[0], block[1], block[2]
    return (
        type(conv) in _CONVOLUTIONS
        and x.size(1) == 1
        and conv.bias is None
        and conv.padding == (0,)
        and isinstance(norm, Fp32GroupNorm)
        and norm.num_groups == norm.num_channels
        and not (dropout.training and dropout.p > 0)
    )


def normalised_windows(
    source: Tensor, lengths: Tensor, conv: nn.Conv1d, norm: Fp32GroupNorm
) -> Tensor:
    """A convolution of waveforms and the normalisation of each of its channels over time.

    The convolution is the weights times windows of a few samples, so that its means and variances
    follow from those of the windows: gain and shift are known before anything is convolved, and all
    together is one product.  Else the largest tensor of the whole model would be passed over twenty
    times in fp32.

    Args:
        source: (batch, samples), zeros in the padding.
        lengths: frames to normalise over, B.
    Returns:
        (batch, time, channels); what comes from padding means nothing.
    """
    exact = torch.promote_types(source.dtype, torch.float32)
    with torch.no_grad():
        windows, _, covariance = window_moments(
            source.to(exact), lengths, conv.kernel_size[0], conv.stride[0]
        )
        # In half precision a quiet recording would vanish.
        level = covariance.diagonal(dim1=1, dim2=2).mean(1).sqrt().clamp(min=1e-30).view(-1, 1, 1)
        # The row of ones is for the shift; tensor cores like a multiple of eight.
        windows = F.pad((windows / level).to(source.dtype), (0, 1), value=1)
        windows = F.pad(windows, (0, -windows.size(2) % 8))
    # One for each utterance: torch multiplies a single one in another order if it is trained.
    weight = weight_of(conv).squeeze(1).to(exact).expand(len(source), -1, -1)
    variance = (weight.bmm(covariance) * weight).sum(2)
    gain = torch.rsqrt(variance + norm.eps) * norm.weight.to(exact)
    rows = weight * gain.unsqueeze(2) * level
    rows = torch.cat([rows, norm.bias.to(exact).view(1, -1, 1).expand(len(rows), -1, 1)], 2)
    rows = F.pad(rows, (0, windows.size(2) - rows.size(2)))
    return windows.bmm(rows.to(source.dtype).transpose(1, 2))


def window_moments(
    source: Tensor, lengths: Tensor, size: int, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of waveforms, and what they have in common.

    Args:
        source: (batch, samples).
        lengths: windows that count, B.
        size, stride: of a window, in samples.
    Returns:
        the windows less their mean, (batch, windows, size), zeros beyond ``lengths``; the mean,
        (batch, 1, size); the covariance, (batch, size, size).
    """
    windows = source.unfold(1, size, stride)
    inside = torch.arange(windows.size(1), device=source.device) < lengths.unsqueeze(1)
    inside = inside.unsqueeze(2)
    count = lengths.view(-1, 1, 1).to(source.dtype)
    centre = (windows * inside).sum(1, keepdim=True) / count
    windows = (windows - centre) * inside
    return windows, centre, windows.transpose(1, 2) @ windows / count


def masked_channel_norm(x: Tensor, lengths: Tensor, norm: Fp32GroupNorm) -> Tensor:
    """Group normalisation with one channel a group, over the valid frames only.

    Args:
        x: (batch, channels, frames).
        lengths: valid frames, B.
        norm: its parameters and epsilon; computed in fp32 as fairseq does, or in double precision.
    """
    if norm.num_groups != norm.num_channels:
        raise CheckpointError(
            f"the feature extractor normalises {norm.num_channels} channels in {norm.num_groups} "
            "groups; HuBERT has one channel a group"
        )
    frames, exact = x.size(2), torch.promote_types(x.dtype, torch.float32)
    whole = not is_capturing() and bool((lengths == frames).all())
    if whole and exact == torch.float32:
        return norm(x) if x.stride(1) != 1 else _channels_last_norm(x, norm)
    valid = (torch.arange(frames, device=x.device) < lengths.unsqueeze(1)).unsqueeze(1)
    count = lengths.view(-1, 1, 1).to(exact)
    masked = x.to(exact).masked_fill(~valid, 0.0)
    mean = masked.sum(dim=2, keepdim=True) / count
    centred = (masked - mean).masked_fill(~valid, 0.0)
    variance = centred.square().sum(dim=2, keepdim=True) / count
    scale = torch.rsqrt(variance + norm.eps) * norm.weight.to(exact).view(1, -1, 1)
    return (centred * scale + norm.bias.to(exact).view(1, -1, 1)).type_as(x)


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
