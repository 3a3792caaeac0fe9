"""conv1d with a large kernel and few channels in a group, on CUDA by Triton.

HuBERT's positions are one: a kernel of 128, 16 groups of 48 channels.  cuDNN has no form of it for
the tensor cores in half precision and takes a fifth of a whole translation for it.  This is
implicit GEMM, as in ``kernels.cpu.conv1d``: the input frames of an output are a row of numbers, and
the convolution is a product of such rows with the weights.  The gradient of the input is such a
convolution too; that of the weight is a product over all frames.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cress_svcd.kernels.triton.common import Launcher, cover
from cress_svcd.kernels.triton.quantize import why_unavailable

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

TYPES = (torch.float16, torch.bfloat16)
WIDEST = 128  # channels that a group gives: they are held in one CTA
TILE = 64, 64, 4  # frames, inputs, warps
GRADIENT_TILE = 128, 64, 4  # inputs, frames, warps, for the gradient of the weight
LEAST_OUT = 16  # channels that the tensor cores give at once


def is_for(x: Tensor) -> bool:
    """Whether ``convolve`` computes ``x``."""
    return x.is_cuda and x.dtype in TYPES and x.numel() > 0 and why_unavailable() is None


if triton is not None:

    @triton.jit(do_not_specialize=["frames"])
    def _conv1d_kernel(
        x,
        weight,
        bias,
        y,
        frames,
        groups: tl.constexpr,
        channels: tl.constexpr,
        out: tl.constexpr,
        kernel_size: tl.constexpr,
        padding: tl.constexpr,
        block_frames: tl.constexpr,
        block_in: tl.constexpr,
        block_out: tl.constexpr,
    ):
        """Some output frames of a group of an utterance, each of (kernel_size, channels) inputs."""
        frame = tl.program_id(0) * block_frames + tl.arange(0, block_frames)
        group, utterance = tl.program_id(1), tl.program_id(2).to(tl.int64)
        output = tl.arange(0, block_out)
        position = tl.arange(0, block_in)
        x += utterance * frames * groups * channels + group * channels
        weight += group * kernel_size * channels * block_out
        total = tl.zeros((block_frames, block_out), tl.float32)
        for start in range(0, kernel_size * channels, block_in):
            index = start + position
            offset = index // channels
            source = frame[:, None] + (offset - padding)[None, :]
            inside = (source >= 0) & (source < frames) & (offset < kernel_size)[None, :]
            where = x + source * (groups * channels) + (index - offset * channels)[None, :]
            value = tl.load(where, inside, 0)
            where = weight + index[:, None] * block_out + output[None, :]
            total = tl.dot(value, tl.load(where, (offset < kernel_size)[:, None], 0), total)
        if bias is not None:
            total += tl.load(bias + group * out + output, output < out, 0).to(tl.float32)[None, :]
        y += utterance * frames * groups * out + group * out
        where = y + frame[:, None] * (groups * out) + output[None, :]
        written = (frame < frames)[:, None] & (output < out)[None, :]
        tl.store(where, total.to(y.dtype.element_ty), written)

    @triton.jit(do_not_specialize=["batch", "frames"])
    def _weight_gradient_kernel(
        x,
        grad,
        grad_weight,
        batch,
        frames,
        groups: tl.constexpr,
        channels: tl.constexpr,
        out: tl.constexpr,
        kernel_size: tl.constexpr,
        padding: tl.constexpr,
        block_in: tl.constexpr,
        block_frames: tl.constexpr,
        block_out: tl.constexpr,
    ):
        """Some of the (kernel_size, channels) weights of a group, for all its outputs."""
        index = tl.program_id(0) * block_in + tl.arange(0, block_in)
        group = tl.program_id(1)
        output = tl.arange(0, block_out)
        offset = index // channels
        channel = group * channels + index % channels
        total = tl.zeros((block_in, block_out), tl.float32)
        tiles = (frames + block_frames - 1) // block_frames
        for step in range(batch * tiles):
            utterance = (step // tiles).to(tl.int64)
            frame = step % tiles * block_frames + tl.arange(0, block_frames)
            source = frame[:, None] + (offset - padding)[None, :]
            inside = (source >= 0) & (source < frames) & (offset < kernel_size)[None, :]
            inside &= (frame < frames)[:, None]
            where = x + (utterance * frames + source) * (groups * channels) + channel[None, :]
            value = tl.load(where, inside, 0)
            inside = (frame < frames)[:, None] & (output < out)[None, :]
            where = (utterance * frames + frame)[:, None] * (groups * out) + group * out
            by_output = tl.load(grad + where + output[None, :], inside, 0)
            total = tl.dot(tl.trans(value), by_output, total)
        where = (group * kernel_size * channels + index)[:, None] * out + output[None, :]
        inside = (offset < kernel_size)[:, None] & (output < out)[None, :]
        tl.store(grad_weight + where, total.to(grad_weight.dtype.element_ty), inside)

    _conv1d = Launcher(_conv1d_kernel)
    _weight_gradient = Launcher(_weight_gradient_kernel)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, padding: int) -> Tensor:
    """:func:`forward`, with gradients of all three."""
    return _Convolution.apply(x, weight, bias, groups, padding)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, groups, padding):
        ctx.save_for_backward(x, weight)
        ctx.groups, ctx.padding = groups, padding
        return forward(x, weight, bias, groups, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        groups, padding = ctx.groups, ctx.padding
        everything, channels, kernel_size = weight.shape
        wanted = ctx.needs_input_grad
        found: list[Tensor | None] = [None, None, None]
        if wanted[0]:
            turned = weight.view(groups, -1, channels, kernel_size).transpose(1, 2).flip(3)
            turned = turned.reshape(groups * channels, everything // groups, kernel_size)
            found[0] = forward(grad, turned, None, groups, kernel_size - 1 - padding)
        if wanted[1]:
            found[1] = weight_gradient(x, grad, groups, kernel_size, padding)
        if wanted[2]:
            found[2] = grad.sum((0, 1))
        return *found, None, None


def weight_gradient(
    x: Tensor,
    grad: Tensor,
    groups: int,
    kernel_size: int,
    padding: int,
    tile: tuple[int, int, int] | None = None,
) -> Tensor:
    """The gradient of ``forward``'s weight.

    Args:
        x: what was convolved, (batch, time, channels).
        grad: of the result, (batch, time, out).
        tile: inputs, frames and warps of a CTA, for measurements.
    Returns:
        (out, channels of a group, kernel_size).
    """
    x, grad = x.contiguous(), grad.contiguous()
    batch, frames, _ = x.shape
    channels, out = x.shape[2] // groups, grad.shape[2] // groups
    found = x.new_empty(groups, kernel_size, channels, out)
    block_in, block_frames, warps = tile or GRADIENT_TILE
    block_out = max(LEAST_OUT, 1 << (out - 1).bit_length())
    constants = groups, channels, out, kernel_size, padding, block_in, block_frames, block_out
    grid = cover(kernel_size * channels, block_in), groups, 1
    _weight_gradient(grid, (x, grad, found), (batch, frames), constants, warps)
    return found.permute(0, 3, 2, 1).reshape(groups * out, channels, kernel_size)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    padding: int,
    tile: tuple[int, int, int] | None = None,
) -> Tensor:
    """The first T frames of ``F.conv1d`` with stride 1, T being those of ``x``.

    Args:
        x: (batch, time, channels), of TYPES.
        weight: (out, channels of a group, kernel_size), out at most WIDEST a group.
        bias: (out).
        padding: frames of silence before and after, at least half the kernel, so that there are T.
        tile: frames, inputs and warps of a CTA, for measurements.
    Returns:
        (batch, time, out).
    """
    x = x.contiguous()
    batch, frames, _ = x.shape
    everything, channels, kernel_size = weight.shape
    out = everything // groups
    block_out = max(LEAST_OUT, 1 << (out - 1).bit_length())
    rows = weight.reshape(groups, out, channels, kernel_size).permute(0, 3, 2, 1)
    rows = F.pad(rows, (0, block_out - out)).contiguous()
    y = x.new_empty(batch, frames, everything)
    block_frames, block_in, warps = tile or TILE
    constants = groups, channels, out, kernel_size, padding, block_frames, block_in, block_out
    grid = cover(frames, block_frames), groups, batch
    _conv1d(grid, (x, rows, bias, y), (frames,), constants, warps)
    return y
