"""The CTC loss on CUDA against torch's.  It also runs in Triton's interpreter, without a GPU:

TRITON_INTERPRET=1 python -m pytest tests/kernels/triton/test_ctc.py   (needs triton)
"""

import pytest
import torch
from torch.nn import functional as F

from cress_svcd.kernels.triton import ctc
from tests.helpers.triton_marks import DEVICE, needs_triton

TIME, BATCH, VOCABULARY, BLANK = 12, 5, 9, 0


@pytest.fixture
def utterances():
    """Logits, and transcripts: with repetitions, of one token, empty, too long for their frames."""
    torch.manual_seed(2)
    logits = torch.randn(TIME, BATCH, VOCABULARY, device=DEVICE)
    targets = torch.tensor(
        [[3, 3, 4, 3, 7], [5, 1, 1, 1, 1], [2, 8, 2, 8, 1], [1, 1, 1, 1, 1], [6, 6, 6, 6, 6]],
        device=DEVICE,
    )
    tokens = torch.tensor([5, 1, 4, 0, 5], device=DEVICE)
    frames = torch.tensor([12, 7, 9, 4, 6], device=DEVICE)
    return logits, targets, frames, tokens


def require_those_of_torch(logits, targets, frames, tokens, dtype=torch.float32):
    """The losses, which are returned, and the gradient."""
    weights = torch.linspace(0.5, 3, len(targets), device=DEVICE)

    def run(loss_of):
        leaf = logits.clone().to(dtype).requires_grad_()
        loss = loss_of(F.log_softmax(leaf.float(), dim=-1))
        (loss * weights).sum().backward()
        return loss.detach(), leaf.grad

    loss, gradient = run(lambda probs: ctc.ctc_loss(probs, targets, frames, tokens, BLANK))
    wanted, wanted_gradient = run(
        lambda probs: F.ctc_loss(
            probs.cpu(),
            targets.cpu(),
            frames.cpu(),
            tokens.cpu(),
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        ).to(DEVICE)
    )
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=2e-3, atol=2e-4)
    return wanted


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_loss_and_gradient_are_those_of_torch(utterances, dtype):
    wanted = require_those_of_torch(*utterances, dtype)
    assert wanted[4] == 0 and (wanted[:4] > 0).all()  # six frames cannot hold five equal tokens


@needs_triton
def test_transcripts_and_frames_of_several_tiles():
    """Few letters in long transcripts: each has many places."""
    generator = torch.Generator().manual_seed(3)
    time, tokens = 3 * ctc.FRAME_TILE + 5, ctc.PLACE_TILE // 2 + 8
    logits = torch.randn(2 * time, 3, 4, generator=generator)
    targets = torch.randint(1, 4, (3, tokens), generator=generator)
    require_those_of_torch(
        logits.to(DEVICE),
        targets.to(DEVICE),
        torch.tensor([2 * time, 2 * time - 3, time], device=DEVICE),
        torch.tensor([tokens, tokens - 1, 4], device=DEVICE),
    )


@needs_triton
def test_what_lies_in_the_padding_does_not_matter(utterances):
    logits, targets, frames, tokens = utterances
    probs = F.log_softmax(logits, dim=-1)
    loss = ctc.ctc_loss(probs, targets, frames, tokens, BLANK)
    for row in range(BATCH):
        probs[frames[row] :, row] = float("nan")
        targets[row, tokens[row] :] = 8
    again = ctc.ctc_loss(probs, targets, frames, tokens, BLANK)
    assert torch.equal(loss, again)
