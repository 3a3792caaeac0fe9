"""HuBERT's convolutional front-end of a packed model, in frames x channels and piece by piece.

The outputs of the first convolutions outweigh everything else that a translation holds in memory,
and writing them there and back takes longer than computing them.  Here a few frames of the last
convolution at a time are led through all of them, in buffers that stay in the caches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq.modules import Fp32GroupNorm, Fp32LayerNorm

from cress_svcd.models.compact import CompactConv1d, can_use_kernel

PIECE_FRAMES = 64  # of the last convolution; HuBERT's first then has 4,096


def can_stream(blocks: nn.ModuleList, source: Tensor) -> bool:
    """Whether ``stream`` computes these blocks of convolution, norm and GELU for ``source``."""
    return can_use_kernel(source) and all(
        isinstance(block[0], CompactConv1d)
        and block[0].has_kernel
        and isinstance(block[-1], nn.GELU)
        and block[-1].approximate == "none"
        and (number == 0 or not isinstance(block[2], Fp32GroupNorm))
        for number, block in enumerate(blocks)
    )


def stream(blocks: nn.ModuleList, source: Tensor, lengths: Tensor) -> Tensor:
    """The blocks of fairseq's ``ConvFeatureExtractionModel``, in evaluation.

    Args:
        blocks: of which only the first may normalise over time.
        source: waveforms, B x N, zeros in the padding.
        lengths: frames of each utterance after the first convolution, B: what it normalises over.
    Returns:
        B x T x C in float32; what is computed from padding is finite and means nothing.
    """
    source = source.float()
    convs = [block[0] for block in blocks]
    gain = bias = None
    if isinstance(blocks[0][2], Fp32GroupNorm):
        gain, bias = normalisation(source, lengths, convs[0], blocks[0][2])
    frames = [source.shape[1]]
    for conv in convs:
        frames.append((frames[-1] - conv.shape[2]) // conv.stride + 1)
    result = torch.empty(len(source), frames[-1], convs[-1].shape[0])
    buffers: list[Tensor] = []
    for start in range(0, frames[-1], PIECE_FRAMES):
        end = min(start + PIECE_FRAMES, frames[-1])
        ranges = _ranges(convs, start, end)
        if not buffers:  # no later piece is longer
            buffers = [
                torch.empty(len(source), last - first, conv.shape[0])
                for conv, (first, last) in zip(convs[:-1], ranges[1:])
            ]
        x = source[:, slice(*ranges[0])].unsqueeze(2)
        for number, (block, (first, last)) in enumerate(zip(blocks, ranges[1:])):
            last_one = number == len(convs) - 1
            out = result[:, start:end] if last_one else buffers[number][:, : last - first]
            first_one = (gain, bias) if number == 0 else (None, None)
            x = _block(block, x, *first_one, out)
    return result


def _ranges(convs: list[CompactConv1d], start: int, end: int) -> list[tuple[int, int]]:
    """First frame and end of the input and of every output that the last one's start .. end needs."""
    found = [(start, end)]
    for conv in reversed(convs):
        start, end = start * conv.stride, (end - 1) * conv.stride + conv.shape[2]
        found.append((start, end))
    return found[::-1]


def _block(
    block: nn.Sequential, x: Tensor, gain: Tensor | None, bias: Tensor | None, out: Tensor
) -> Tensor:
    """One convolution, what normalises channels, and GELU: B x T x C to ``out``."""
    norms = [module for module in block[2:-1].modules() if isinstance(module, Fp32LayerNorm)]
    block[0].convolve_frames(x, gain, bias, gelu=not norms, out=out)
    for norm in norms:
        out.copy_(F.gelu(F.layer_norm(
            out, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
        )))  # fmt: skip
    return out


def normalisation(
    source: Tensor, lengths: Tensor, conv: CompactConv1d, norm: Fp32GroupNorm
) -> tuple[Tensor, Tensor]:
    """What group normalisation over time does to the output of the first convolution.

    That output is the weights times windows of a few samples, so its means and variances follow
    from the mean and the covariance of the windows; it is not computed for them.

    Args:
        source: B x N.
        lengths: frames to normalise over, B.
        norm: with a channel a group.
    Returns:
        gain and bias, B x C: normalised = (the output without the convolution's bias) * gain + bias.
    """
    taps = conv.shape[2]
    weight = conv.dense_weight().flatten(1).double()
    gains, biases = [], []
    for wave, count in zip(source, lengths.tolist()):
        windows = wave.unfold(0, taps, conv.stride)[:count].double()
        centre = windows.mean(0)
        windows = windows - centre
        covariance = windows.t() @ windows / count
        variance = ((weight @ covariance) * weight).sum(1)
        gain = torch.rsqrt(variance + norm.eps) * norm.weight.double()
        gains.append(gain)
        biases.append(norm.bias.double() - weight @ centre * gain)
    return torch.stack(gains).float(), torch.stack(biases).float()
