"""The CTC loss on CUDA without waiting for the GPU, by Triton.

torch's and cuDNN's want the lengths on the host, so that a training step waits for the GPU, and
cannot be captured in a CUDA graph.  The same forward and backward recursion (Graves et al. 2006) is
here one program for each utterance.  What a path's places share of a token is added up afterwards,
for all frames side by side, and always in the same order: the gradient is deterministic.
"""

import torch
from torch import Tensor

from cress_svcd.kernels.triton.common import Launcher, cover
from cress_svcd.kernels.triton.quantize import why_unavailable

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

MOST_TOKENS = 255  # of a transcript: twice as many places and one are held by one program
FRAME_TILE, PLACE_TILE = 16, 64  # whose gradient one program adds up


def is_for(log_probs: Tensor, targets: Tensor) -> bool:
    """Whether ``ctc_loss`` computes this."""
    return log_probs.is_cuda and targets.size(1) <= MOST_TOKENS and why_unavailable() is None


if triton is not None:

    @triton.jit
    def _log_add(a, b, c):
        top = tl.maximum(a, tl.maximum(b, c))
        base = tl.where(top == float("-inf"), 0.0, top)
        return tl.log(tl.exp(a - base) + tl.exp(b - base) + tl.exp(c - base)) + base

    @triton.jit(do_not_specialize=["frames", "batch", "vocabulary", "tokens", "blank"])
    def _forward_kernel(
        log_probs,
        targets,
        frame_counts,
        token_counts,
        alpha,
        likelihood,
        frames,
        batch,
        vocabulary,
        tokens,
        blank,
        block: tl.constexpr,
    ):
        """Log-probabilities of all beginnings of the paths of an utterance, and of the whole."""
        utterance = tl.program_id(0).to(tl.int64)
        count = tl.load(frame_counts + utterance).to(tl.int32)
        labels = tl.load(token_counts + utterance).to(tl.int32)
        place = tl.arange(0, block)
        inside = place < 2 * labels + 1
        is_label = (place % 2 == 1) & inside
        targets += utterance * tokens
        label = tl.load(targets + place // 2, is_label, blank).to(tl.int64)
        earlier = tl.load(targets + place // 2 - 1, is_label & (place > 1), blank).to(tl.int64)
        skips = is_label & (place > 1) & (label != earlier)
        alpha += utterance * frames * block
        log_probs += utterance * vocabulary
        emitted = tl.load(log_probs + label, inside, float("-inf")).to(tl.float32)
        value = tl.where(place < 2, emitted, float("-inf"))
        tl.store(alpha + place, value)
        row = alpha + place
        for frame in range(1, frames):
            tl.debug_barrier()  # the row before is read by other threads than wrote it
            active = frame < count
            one = tl.load(row - 1, place > 0, float("-inf"))
            two = tl.load(row - 2, skips, float("-inf"))
            row += block
            log_probs += batch * vocabulary
            emitted = tl.load(log_probs + label, inside & active, float("-inf")).to(tl.float32)
            value = tl.where(active, _log_add(value, one, two) + emitted, value)
            tl.store(row, value)
        ends = (place == 2 * labels) | (place == 2 * labels - 1)
        value = tl.where(ends, value, float("-inf"))
        top = tl.max(value, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        total = tl.log(tl.sum(tl.exp(value - base), 0)) + base
        tl.store(likelihood + utterance, total)

    @triton.jit(do_not_specialize=["frames", "batch", "vocabulary", "tokens", "blank"])
    def _backward_kernel(
        log_probs,
        targets,
        frame_counts,
        token_counts,
        alpha,
        likelihood,
        beta,
        shares,
        frames,
        batch,
        vocabulary,
        tokens,
        blank,
        block: tl.constexpr,
    ):
        """What share of the paths of an utterance goes through each place in each of its frames."""
        utterance = tl.program_id(0).to(tl.int64)
        count = tl.load(frame_counts + utterance).to(tl.int32)
        labels = tl.load(token_counts + utterance).to(tl.int32)
        total = tl.load(likelihood + utterance)
        total = tl.where(total == float("-inf"), 0.0, total)
        place = tl.arange(0, block)
        inside = place < 2 * labels + 1
        is_label = (place % 2 == 1) & inside
        targets += utterance * tokens
        label = tl.load(targets + place // 2, is_label, blank).to(tl.int64)
        follows = is_label & (place < 2 * labels - 1)
        later = tl.load(targets + place // 2 + 1, follows, blank).to(tl.int64)
        skips = follows & (label != later)
        alpha += utterance * frames * block
        shares += utterance * frames * block
        beta += utterance * 2 * block
        log_probs += utterance * vocabulary
        value = tl.full((block,), float("-inf"), tl.float32)
        ends = (place == 2 * labels) | (place == 2 * labels - 1)
        # Rows are written in turn, so that one is read while the other is written.
        tl.store(beta + block + place, value)
        for step in range(frames):
            frame = frames - 1 - step
            used = inside & (frame < count)
            here = frame * (utterance * 0 + batch * vocabulary)  # in 64 bits
            emitted = tl.load(log_probs + here + label, used, float("-inf")).to(tl.float32)
            tl.debug_barrier()
            row = beta + ((step + 1) % 2) * block + place
            one = tl.load(row + 1, place < block - 1, float("-inf"))
            two = tl.load(row + 2, skips, float("-inf"))
            value = _log_add(value, one, two) + emitted
            value = tl.where(ends & (frame == count - 1), emitted, value)
            tl.store(beta + (step % 2) * block + place, value)
            through = tl.load(alpha + frame * block + place, used, 0.0) + value - emitted - total
            # What is impossible on either side: infinity less infinity.
            share = tl.where(through == through, tl.exp(through), 0.0)
            tl.store(shares + frame * block + place, share, used)

    @triton.jit(do_not_specialize=["frames", "batch", "vocabulary", "tokens", "blank", "places"])
    def _gradient_kernel(
        targets,
        frame_counts,
        token_counts,
        likelihood,
        grad_loss,
        shares,
        grad,
        frames,
        batch,
        vocabulary,
        tokens,
        blank,
        places,
        frame_tile: tl.constexpr,
        place_tile: tl.constexpr,
    ):
        """The gradient by the log-probabilities: minus the share of the paths through each.

        A token's is the sum over all places that it has in the transcript: a matrix product of
        shares (frame_tile, places) and of which places have the same token (places, place_tile).
        Places of one token write the same number to the same address.
        """
        utterance = tl.program_id(0).to(tl.int64)
        frame = tl.program_id(1) * frame_tile + tl.arange(0, frame_tile)
        place = tl.program_id(2) * place_tile + tl.arange(0, place_tile)
        count = tl.minimum(tl.load(frame_counts + utterance).to(tl.int32), frames)
        labels = tl.load(token_counts + utterance).to(tl.int32)
        inside = place < 2 * labels + 1
        targets += utterance * tokens
        label = tl.load(targets + place // 2, (place % 2 == 1) & inside, blank).to(tl.int64)
        shares += (utterance * frames + frame[:, None]) * places
        sums = tl.zeros((frame_tile, place_tile), tl.float32)
        for first in range(0, 2 * labels + 1, place_tile):
            other = first + tl.arange(0, place_tile)
            present = other < 2 * labels + 1
            named = (other % 2 == 1) & present
            other_label = tl.load(targets + other // 2, named, blank).to(tl.int64)
            of_other = tl.load(
                shares + other[None, :], (frame < count)[:, None] & present[None, :], 0.0
            )
            same = (other_label[:, None] == label[None, :]).to(tl.float32)
            sums = tl.dot(of_other, same, sums, input_precision="ieee")
        possible = tl.load(likelihood + utterance) != float("-inf")
        factor = tl.where(possible, -tl.load(grad_loss + utterance).to(tl.float32), 0.0)
        grad += (frame[:, None] * batch + utterance) * vocabulary + label[None, :]
        tl.store(grad, sums * factor, (frame < count)[:, None] & inside[None, :])

    _forward = Launcher(_forward_kernel)
    _backward = Launcher(_backward_kernel)
    _gradient = Launcher(_gradient_kernel)


class _CTC(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_probs, targets, frames, tokens, blank):
        log_probs, targets = log_probs.contiguous(), targets.contiguous()
        time, batch, vocabulary = log_probs.shape
        block = triton.next_power_of_2(2 * targets.size(1) + 1)
        alpha = log_probs.new_empty(batch, time, block, dtype=torch.float32)
        likelihood = log_probs.new_empty(batch, dtype=torch.float32)
        ctx.sizes = (time, batch, vocabulary, targets.size(1), blank)
        ctx.block = block
        _forward(
            (batch, 1, 1),
            (log_probs, targets, frames, tokens, alpha, likelihood),
            ctx.sizes,
            (block,),
        )
        ctx.save_for_backward(log_probs, targets, frames, tokens, alpha, likelihood)
        return likelihood.neg().masked_fill(likelihood.isinf(), 0)

    @staticmethod
    def backward(ctx, grad_loss):
        log_probs, targets, frames, tokens, alpha, likelihood = ctx.saved_tensors
        grad = torch.zeros_like(log_probs)
        beta = alpha.new_empty(log_probs.size(1), 2, ctx.block)
        shares = torch.empty_like(alpha)
        _backward(
            (log_probs.size(1), 1, 1),
            (log_probs, targets, frames, tokens, alpha, likelihood, beta, shares),
            ctx.sizes,
            (ctx.block,),
        )
        tiles = cover(log_probs.size(0), FRAME_TILE), cover(ctx.block, PLACE_TILE)
        _gradient(
            (log_probs.size(1), *tiles),
            (targets, frames, tokens, likelihood, grad_loss.contiguous(), shares, grad),
            (*ctx.sizes, ctx.block),
            (FRAME_TILE, PLACE_TILE),
        )
        return grad, None, None, None, None


def ctc_loss(
    log_probs: Tensor, targets: Tensor, frames: Tensor, tokens: Tensor, blank: int
) -> Tensor:
    """The loss of each utterance, (batch) in float32; 0 where no path is long enough.

    Args:
        log_probs: (time, batch, vocabulary).
        targets: (batch, tokens), padded with anything.
        frames, tokens: of each utterance, (batch).
        blank: its index.
    """
    return _CTC.apply(log_probs, targets, frames, tokens, blank)
