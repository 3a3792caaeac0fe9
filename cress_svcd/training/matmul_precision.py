"""In which precision a CPU multiplies float32 matrices in training."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

FLOAT32, BFLOAT16 = "float32", "bfloat16"
IEEE = "ieee"  # float32, as torch calls it

# oneDNN prepares a product or a convolution for its shape, which takes a millisecond or two, and
# keeps so many of them.  By itself it keeps 1,024, fewer than the shapes of an epoch need: whatever
# comes again would be prepared again.
KEPT = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")


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

    Attention by torch's own kernel stays in float32: its many small products, each prepared by
    oneDNN, would take far longer.  Attention with dropout is not by that kernel.
    """
    keep_prepared()
    backends = torch.backends.mkldnn
    if precision == BFLOAT16 and hasattr(backends, "matmul") and not torch.cuda.is_available():
        backends.matmul.fp32_precision = backends.conv.fp32_precision = "bf16"
        functional = torch.nn.functional
        if not isinstance(functional.scaled_dot_product_attention, Float32Attention):
            functional.scaled_dot_product_attention = Float32Attention()


def keep_prepared() -> None:
    """Have oneDNN keep ``KEPT``, unless the environment says otherwise; it asks once, at its first
    product or convolution."""
    os.environ.setdefault(*KEPT)


class Float32Attention:
    """torch's ``scaled_dot_product_attention``, whose kernel multiplies in float32."""

    def __init__(self) -> None:
        self.attend = torch.nn.functional.scaled_dot_product_attention

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        around = _multiply_in(IEEE)
        try:
            attended = self.attend(*args, **options)
        finally:
            _multiply_in(around)
        if attended.grad_fn is not None:
            attended.grad_fn.register_prehook(_multiplying_in(IEEE))
            attended.grad_fn.register_hook(_multiplying_in(around))
        return attended


def _multiply_in(precision: str) -> str:
    """Have float32 matrices multiplied so; returns how they were."""
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    return before


def _multiplying_in(precision: str) -> Callable[..., None]:
    """The same as a hook, which must return nothing: it would take the place of gradients."""

    def hook(*_: Any) -> None:
        _multiply_in(precision)

    return hook
