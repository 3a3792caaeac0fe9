"""Back ends and instruction sets as parameters; what this machine lacks is skipped by name."""

import pytest
import torch

from cress_svcd import kernels
from cress_svcd.kernels.cpu import sign_gemm


@pytest.fixture(params=("torch", *(f"cpu-{isa}" for isa in sign_gemm.ISAS)))
def product(request):
    """sign_matmul on the CPU by one back end: (x, signs as +-1, g, h, bias, bits) -> y."""
    backend, _, isa = request.param.partition("-")
    available = kernels.backends()[backend]
    if not available.available:
        pytest.skip(f"{backend}: {available.detail}")
    if isa and isa not in sign_gemm.supported_isas():
        pytest.skip(f"this processor has no {isa}, only {', '.join(sign_gemm.supported_isas())}")

    def multiply(x, signs, g=None, h=None, bias=None, bits=8, **options):
        form = kernels.prepare(kernels.pack_signs(signs), signs.shape[1], backend)
        if isa:
            return sign_gemm.sign_matmul(x, form, len(signs), g, h, bias, bits, isa=isa, **options)
        return kernels.sign_matmul(x, form, len(signs), g, h, bias, bits)

    return multiply


@pytest.fixture
def operands():
    """Makes (x, signs, g, h, bias) of given sizes."""

    def make(rows: int, in_features: int, out_features: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        signs = torch.where(normal(out_features, in_features) >= 0, 1.0, -1.0)
        scales = normal(in_features), normal(out_features), normal(out_features)
        return normal(rows, in_features), signs, *scales

    return make
