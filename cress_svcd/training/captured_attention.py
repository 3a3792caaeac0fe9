"""HuBERT's attention by cuDNN in captured steps.

On Hopper it takes 0.4 to 0.65 times as long as the kernel that torch chooses for attention with a
padding mask (``scripts/bench/training_kernels.py``).  It makes a plan for each shape, in 0.13 s or
so, which pays where a shape comes again: in a graph, and for the longest attention of a step, which
all layers of HuBERT share.
"""

from collections.abc import Iterable
from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from cress_svcd.data.dataset import round_up
from cress_svcd.kernels.cuda_graph import is_capturing

# What cuDNN does not compute, such as float32, goes to the next.
ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
HOPPER = (9, 0)  # compute capability, the only one on which it has been measured
# The oldest version that has been measured.  Up to 9.15 it reads what is not its own where a length
# is no multiple of 128, which breaks captures (https://github.com/pytorch/pytorch/issues/169849).
CUDNN = 91_900


def install(models: Iterable[nn.Module]) -> None:
    """Have cuDNN compute the attention of every HuBERT in ``models`` while a step is captured,
    where it does so well."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < HOPPER:
        return
    if (torch.backends.cudnn.version() or 0) < CUDNN:
        return
    encoders = [encoder for encoder in _encoders(models) if "forward" not in vars(encoder)]
    if encoders:
        _make_handles()
    for encoder in encoders:
        _by_cudnn(encoder)


def leave_out(models: Iterable[nn.Module]) -> bool:
    """Undo ``install``; whether there was anything to undo."""
    installed = [encoder for encoder in _encoders(models) if "forward" in vars(encoder)]
    for encoder in installed:
        del encoder.forward
    return bool(installed)


def _make_handles() -> None:
    """Compute one small attention, forward and backward, for which cuDNN makes a handle in the
    threads of both.

    It cannot make one during a capture.  HuBERT's convolutions have it made earlier, but not where
    their features are cached.
    """
    shape = 1, 1, 128, 64
    inputs = [
        torch.zeros(shape, device="cuda", dtype=torch.float16, requires_grad=True) for _ in range(3)
    ]
    with sdpa_kernel(ORDER, set_priority=True):
        scaled_dot_product_attention(*inputs).sum().backward()


def _encoders(models: Iterable[nn.Module]) -> list[TransformerEncoder]:
    modules = (module for model in models for module in model.modules())
    return [module for module in modules if isinstance(module, TransformerEncoder)]


def _by_cudnn(encoder: TransformerEncoder) -> None:
    forward = encoder.forward

    def captured(x: Tensor, *args: Any, **options: Any) -> Any:
        frames = round_up(x.size(1), encoder.required_seq_len_multiple)
        if not is_capturing() or not _is_safe(frames):
            return forward(x, *args, **options)
        with sdpa_kernel(ORDER, set_priority=True):
            return forward(x, *args, **options)

    encoder.forward = captured


def _is_safe(frames: int) -> bool:
    """Whether all gradients are numbers: of such a length, with a mask, those of a row whose scores
    are all below -88 are none in cuDNN 9.20 (https://github.com/pytorch/pytorch/issues/196678)."""
    return frames % 128 != 64
