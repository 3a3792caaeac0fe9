"""Where tests of Triton's kernels run: on a GPU, or without one in Triton's interpreter if

    TRITON_INTERPRET=1

is set and the package triton is installed.
"""

import os

import pytest

from cress_svcd.kernels.triton import quantize

CUDA = quantize.why_unavailable() is None
DEVICE = "cuda" if CUDA else "cpu"
needs_triton = pytest.mark.skipif(
    not CUDA and (quantize.triton is None or os.environ.get("TRITON_INTERPRET") != "1"),
    reason="neither a GPU nor Triton's interpreter",
)
