"""HuBERT's attention by cuDNN in captured steps.

On Hopper it takes 0.4 to 0.65 times as long as the kernel that torch chooses for attention with a
padding mask (``scripts/bench/training_kernels.py``).  It makes a plan for each shape, in 0.13 s or
so, which pays where a shape comes again: in a graph, and for the longest attention of a step, which
all layers of HuBERT share.
"""

from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cress_svcd.kernels.cuda_graph import is_capturing

# What cuDNN does not compute, such as float32, goes to the next.
ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
HOPPER = (9, 0)  # compute capability, the only one on which it has been measured


def install(model: nn.Module) -> None:
    """Have cuDNN compute the attention of every HuBERT in ``model`` while a step is captured, on
    Hopper and later."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < HOPPER:
        return
    for module in model.modules():
        if isinstance(module, TransformerEncoder) and "forward" not in vars(module):
            _by_cudnn(module)


def _by_cudnn(encoder: TransformerEncoder) -> None:
    forward = encoder.forward

    def captured(*args: Any, **options: Any) -> Any:
        if not is_capturing():
            return forward(*args, **options)
        with sdpa_kernel(ORDER, set_priority=True):
            return forward(*args, **options)

    encoder.forward = captured
