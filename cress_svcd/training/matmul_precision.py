"""In which precision a CPU multiplies float32 matrices in training."""

import os
from dataclasses import dataclass, field

import torch
from fairseq.dataclass import ChoiceEnum

FLOAT32, BFLOAT16 = "float32", "bfloat16"

# oneDNN prepares a product or a convolution for its shape, which takes milliseconds, and keeps so
# many of them.  Its own 1,024 are fewer than two dozen shapes of batches need: those of the first
# would be gone whenever they come again.
PREPARED = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")


@dataclass
class MatmulOptions:
    matmul_precision: ChoiceEnum((FLOAT32, BFLOAT16)) = field(
        default=FLOAT32,
        metadata={
            "help": "in which precision a CPU multiplies float32 matrices in training; bfloat16 is "
            "twice as fast where the processor has instructions for it; elsewhere oneDNN "
            "multiplies in float32, on some processors faster than MKL. Attention is slower with it"
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
        backends.matmul.fp32_precision = backends.conv.fp32_precision = "bf16"
        # Its many small products are slower in this precision, twenty times as slow.
        torch.backends.cuda.enable_flash_sdp(False)
