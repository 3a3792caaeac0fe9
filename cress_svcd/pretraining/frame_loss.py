"""Cross-entropy of frames, of which some count and some do not, in fixed shapes."""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def frame_loss(logits: Tensor, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss summed over the frames that count; how many of them are most probable; how many count.

    To pick them out instead, the host would wait for the GPU to say how many.

    Args:
        logits: (batch, time, labels).
        targets: (batch, time).
        counted: True for the frames that count, (batch, time).
    """
    correct = (logits.argmax(dim=-1).eq(targets) & counted).sum()
    targets = targets.masked_fill(~counted, IGNORED)
    loss = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORED
    )
    return loss, correct, counted.sum()
