"""HuBERT's convolutional front-end of a packed model, time before channels, chunk by chunk.

The outputs of the first convolutions outweigh everything else that a translation holds in memory,
and writing them there and back takes longer than computing them.  Here a few frames of the last
convolution at a time are led through all of them, in buffers that stay in the caches.
"""

import torch
from fairseq.modules import Fp32GroupNorm, Fp32LayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.inference.int8_modules import CompactConv1d
from cress_svcd.kernels import dispatch
from cress_svcd.models.hubert_convolutions import run_blocks, window_moments
from cress_svcd.models.hubert_encoder import HubertEncoder

CHUNK_FRAMES = 64  # of the last convolution; HuBERT's first then has 4,096


def install(hubert: HubertEncoder) -> None:
    """Have ``hubert`` stream its convolutions wherever ``can_stream``."""
    hubert.run_convolutions = _run_convolutions


def _run_convolutions(blocks: nn.ModuleList, source: Tensor, frames: list[Tensor]) -> Tensor:
    if can_stream(blocks, source):
        return stream(blocks, source, frames[0]).transpose(1, 2)
    return run_blocks(blocks, source, frames)


def can_stream(blocks: nn.ModuleList, source: Tensor) -> bool:
    """Whether ``stream`` computes these blocks of convolution, norm and GELU for ``source``."""
    return dispatch.is_plain_cpu_call(source) and all(
        isinstance(block[0], CompactConv1d)
        and block[0].has_kernel == blocks[0][0].has_kernel
        and (block[0].padding, block[0].options) == (0, {"dilation": (1,), "groups": 1})
        and (block[0].has_kernel or (source.dtype == torch.float32 and not block[0].lowers(source)))
        and isinstance(block[-1], nn.GELU)
        and block[-1].approximate == "none"
        and (number == 0 or not isinstance(block[2], Fp32GroupNorm))
        for number, block in enumerate(blocks)
    )


def stream(blocks: nn.ModuleList, source: Tensor, lengths: Tensor) -> Tensor:
    """The blocks of fairseq's ``ConvFeatureExtractionModel``, in evaluation.

    By ``kernels.cpu.conv1d`` where the convolutions have it, else by torch.

    Args:
        blocks: of which only the first may normalise over time.
        source: waveforms, (batch, samples), zeros in the padding.
        lengths: (batch,), frames of each utterance after the first convolution: what it
            normalises over.
    Returns:
        (batch, time, channels) in float32; what comes from padding is finite and means nothing.
    """
    source = source.float()
    convs = [block[0] for block in blocks]
    first = None
    if isinstance(blocks[0][2], Fp32GroupNorm):
        first = normalisation(source, lengths, convs[0], blocks[0][2])
    frames = source.shape[1]
    for conv in convs:
        frames = (frames - conv.shape[2]) // conv.stride + 1
    result = torch.empty(len(source), frames, convs[-1].shape[0])
    # Made once: for every chunk, fresh memory or whole weights would cost more than the products.
    buffers = weights = None
    for start in range(0, frames, CHUNK_FRAMES):
        end = min(start + CHUNK_FRAMES, frames)
        ranges = _ranges(convs, start, end)
        chunk, out = source[:, slice(*ranges[0])], result[:, start:end]
        if convs[0].has_kernel:
            buffers = buffers or _buffers(convs, len(source), ranges)
            _by_kernel(blocks, chunk, ranges, first, buffers, out)
        else:
            weights = weights or [conv.dense_weight() for conv in convs]
            out.copy_(_by_torch(blocks, chunk, weights, first).transpose(1, 2))
    return result


def _ranges(convs: list[CompactConv1d], start: int, end: int) -> list[tuple[int, int]]:
    """First frame and end of the input and of each output, for the last one's start .. end."""
    found = [(start, end)]
    for conv in reversed(convs):
        start, end = start * conv.stride, (end - 1) * conv.stride + conv.shape[2]
        found.append((start, end))
    return found[::-1]


def _buffers(convs: list[CompactConv1d], batch: int, ranges: list[tuple[int, int]]) -> list[Tensor]:
    """Memory for the outputs of all convolutions but the last, in these or shorter ranges."""
    return [
        torch.empty(batch, end - start, conv.shape[0])
        for conv, (start, end) in zip(convs[:-1], ranges[1:])
    ]


def _by_kernel(
    blocks: nn.ModuleList,
    chunk: Tensor,
    ranges: list[tuple[int, int]],
    first: tuple[Tensor, Tensor] | None,
    buffers: list[Tensor],
    out: Tensor,
) -> None:
    """All blocks for a chunk (batch, samples) of waveforms, to ``out`` (batch, time, channels)."""
    x = chunk.unsqueeze(2)
    for number, (block, (start, end)) in enumerate(zip(blocks, ranges[1:])):
        y = out if number == len(buffers) else buffers[number][:, : end - start]
        gain, bias = first if first and number == 0 else (None, None)
        norms = _layer_norms(block)
        block[0].convolve_frames(x, gain, bias, gelu=not norms, out=y)
        for norm in norms:
            weight, shift = norm.weight.float(), norm.bias.float()
            y.copy_(F.gelu(F.layer_norm(y, norm.normalized_shape, weight, shift, norm.eps)))
        x = y


def _by_torch(
    blocks: nn.ModuleList,
    chunk: Tensor,
    weights: list[Tensor],
    first: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """The same by torch's convolutions: (batch, channels, time)."""
    x = chunk.unsqueeze(1)
    for number, (block, weight) in enumerate(zip(blocks, weights)):
        conv = block[0]
        if first and number == 0:
            gain, bias = (each.unsqueeze(2) for each in first)
            x = F.conv1d(x, weight, None, conv.stride).mul_(gain).add_(bias)
        else:
            bias = None if conv.bias is None else conv.bias.float()
            x = F.conv1d(x, weight, bias, conv.stride)
        for norm in _layer_norms(block):
            x = norm(x.transpose(1, 2)).transpose(1, 2)
        x = F.gelu(x)
    return x


def _layer_norms(block: nn.Sequential) -> list[Fp32LayerNorm]:
    """The norm over channels, if the block has one."""
    return [module for module in block[2:-1].modules() if isinstance(module, Fp32LayerNorm)]


def normalisation(
    source: Tensor, lengths: Tensor, conv: CompactConv1d, norm: Fp32GroupNorm
) -> tuple[Tensor, Tensor]:
    """What group normalisation over time does to the output of the first convolution.

    That output is the weights times windows of a few samples, so its means and variances follow
    from the mean and the covariance of the windows; it is not computed for them.

    Args:
        source: (batch, samples).
        lengths: frames to normalise over, (batch,).
        norm: with a channel a group.
    Returns:
        gain and bias, (batch, channels): normalised = (output without the convolution's bias) *
        gain + bias.
    """
    kernel_size = conv.shape[2]
    weight = conv.dense_weight().flatten(1).double()
    gains, biases = [], []
    # One after the other: the windows of all would take several times the memory of the audio.
    for wave, count in zip(source.double(), lengths):
        _, centre, covariance = window_moments(
            wave.unsqueeze(0), count.view(1), kernel_size, conv.stride
        )
        centre, covariance = centre[0, 0], covariance[0]
        variance = ((weight @ covariance) * weight).sum(1)
        gain = torch.rsqrt(variance + norm.eps) * norm.weight.double()
        gains.append(gain)
        biases.append(norm.bias.double() - weight @ centre * gain)
    return torch.stack(gains).float(), torch.stack(biases).float()
