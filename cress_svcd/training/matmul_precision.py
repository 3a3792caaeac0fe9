"""In which precision a CPU multiplies float32 matrices in training."""

import functools
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

FLOAT32, BFLOAT16 = "float32", "bfloat16"
IEEE, BF16 = "ieee", "bf16"  # as torch calls them

# oneDNN prepares a product or a convolution for its shape, which takes milliseconds, and keeps so
# many of them.  Its own 1,024 are fewer than two dozen shapes of batches need: those of the first
# would be gone whenever they come again.
PREPARED = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")


@dataclass
class MatmulOptions:
    matmul_precision: ChoiceEnum((FLOAT32, BFLOAT16)) = field(
        default=FLOAT32,
        metadata={
            "help": "in which precision a CPU multiplies float32 matrices in training; bfloat16 is "
            "twice as fast where the processor has instructions for it; elsewhere oneDNN "
            "multiplies in float32, on some processors faster than MKL"
        },
    )


def set_matmul_precision(precision: str) -> None:
    """Multiply and convolve float32 tensors on the CPU in this precision from now on.

    With bfloat16 the factors are rounded to it and their products summed in float32, twice as fast
    or more where the processor has instructions that oneDNN takes for that, such as AMX.  Elsewhere
    oneDNN multiplies in float32, a product on an AMD EPYC (Zen 5) twice as fast as MKL, which torch
    takes for float32.  All else, weights and optimizer among it, stays float32, and so does CUDA.

    In every precision, oneDNN is told how much of what it prepares it is to keep: it asks once, at
    its first product or convolution.
    """
    os.environ.setdefault(*PREPARED)
    backends = torch.backends.mkldnn
    if precision == BFLOAT16 and hasattr(backends, "matmul") and not torch.cuda.is_available():
        backends.matmul.fp32_precision = backends.conv.fp32_precision = BF16
        _attend_in_float32()


def _attend_in_float32() -> None:
    """Leave attention to torch's own kernel: oneDNN would prepare each of its many small products,
    and take twenty times as long."""
    functional = torch.nn.functional
    attend = functional.scaled_dot_product_attention
    if hasattr(attend, "__wrapped__"):
        return

    @functools.wraps(attend)
    def in_float32(*args: Any, **options: Any) -> Tensor:
        _multiply_in(IEEE)
        try:
            attended = attend(*args, **options)
        finally:
            _multiply_in(BF16)
        if attended.grad_fn is not None:
            attended.grad_fn.register_prehook(lambda *_: _multiply_in(IEEE))
            attended.grad_fn.register_hook(lambda *_: _multiply_in(BF16))
        return attended

    functional.scaled_dot_product_attention = in_float32


def _multiply_in(precision: str) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = precision
