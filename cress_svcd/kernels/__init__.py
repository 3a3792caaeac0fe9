"""Products of true 1-bit weights, y = (signs @ q(g * x)) * scale * h + bias.

Pure torch and C: this folder knows neither fairseq nor how weights came to be signs.

    rows = pack_signs(weight)                    # uint8, (out, ceil(in / 8)): what a file holds
    signs = prepare(rows, in_features, choose(x.device))   # once, at load
    y = sign_matmul(x, signs, out_features, g, h, bias, bits=8)

``backends()`` says what there is: ``reference`` and ``torch`` everywhere, ``cpu`` (C for AMX,
AVX-512-VNNI, AVX2 and anything else) where it is built, ``gpu`` (Triton) on CUDA.  The environment
variables CRESS_SVCD_BACKEND and CRESS_SVCD_ISA choose (``backend_choice``); within a back end the
number of rows, M, does (``dispatch``, which ``explain`` prints).

``cpu.conv1d`` has convolutions over time of int8 and half-precision weights, for AMX and
AVX-512-VNNI.
"""

from cress_svcd.kernels.backend_choice import (
    BACKENDS,
    Backend,
    backends,
    blank,
    choose,
    prepare,
)
from cress_svcd.kernels.explain import explain
from cress_svcd.kernels.operator import sign_matmul
from cress_svcd.kernels.packed_layout import pack_signs, restore, unpack_signs

__all__ = [
    "BACKENDS",
    "Backend",
    "backends",
    "blank",
    "choose",
    "explain",
    "pack_signs",
    "prepare",
    "restore",
    "sign_matmul",
    "unpack_signs",
]
