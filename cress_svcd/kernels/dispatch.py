"""Who computes what: one table.

An operation has implementations, tried from the top: the first one whose conditions hold for a call
computes it.  ``kernels.explain`` prints the same table for a call.

What packed signs look like tells their back end (``backend_choice``).
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cress_svcd.kernels import packed_layout, reference, torch_int8
from cress_svcd.kernels.cpu import conv1d as cpu_conv1d
from cress_svcd.kernels.cpu import sign_gemm as cpu_sign_gemm
from cress_svcd.kernels.triton import conv1d as triton_conv1d
from cress_svcd.kernels.triton import ctc as triton_ctc
from cress_svcd.kernels.triton import (
    quantize,
    sign_gemm_bitplane,
    sign_gemm_float,
    sign_gemm_fused,
    training,
)

# What fused products take: ``sign_gemm_fused`` has the numbers.
NONE, RELU, GELU = sign_gemm_fused.NONE, sign_gemm_fused.RELU, sign_gemm_fused.GELU
Norm = sign_gemm_fused.Norm
FUSED_OUTPUTS = sign_gemm_fused.OUTPUTS[-1]


class Condition(NamedTuple):
    """One part of what an implementation needs.

    Attributes:
        words: as ``kernels.explain`` prints it.
        holds: of the arguments that decide (see ``TABLE``).
    """

    words: str
    holds: Callable[..., bool]


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an operation.

    Attributes:
        name: its module under ``kernels``.
        conditions: what it needs of a call; none: it computes every call.
        run: computes the operation; None where the caller does by its own means.
        how: for one without conditions, how it computes.
    """

    name: str
    conditions: tuple[Condition, ...] = ()
    run: Callable[..., Any] | None = None
    how: str = ""

    @property
    def when(self) -> str:
        """The conditions in words."""
        return ", ".join(part.words for part in self.conditions) or f"always: {self.how}"

    def missing(self, *deciding: Any) -> str | None:
        """The first condition that a call fails, in words; None if it fits."""
        return next((part.words for part in self.conditions if not part.holds(*deciding)), None)


class FusedLayer(NamedTuple):
    """What decides whether a transformer layer's products run fused with what stands around them.

    Attributes:
        are_products: each projection is one product of packed signs with 8-bit inputs.
        lie_together: projections of one input are alike, so that they can be one product.
        activation: what ``sign_gemm_fused`` calls it; None where it has none.
        has_layer_norms: the norms are torch's ``LayerNorm``, with biases.
        width: inputs of the widest projection.
    """

    are_products: bool
    lie_together: bool
    activation: int | None
    has_layer_norms: bool
    width: int


# Conditions


def is_on_gpu(x: Tensor) -> bool:
    """Whether Triton's kernels run where ``x`` is, for its type."""
    return x.is_cuda and x.dtype != torch.float64 and quantize.why_unavailable() is None


def is_plain_cpu_call(x: Tensor) -> bool:
    """Whether ``x`` may go to a C kernel that torch knows nothing of: no gradient, no compiler."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not _wants_gradient(x)
    )


def _wants_gradient(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _m(x: Tensor) -> int:
    """Rows of a product."""
    return x.numel() // x.shape[-1]


def _has_fused_tile(x: Tensor, signs: Tensor, *_: Any) -> bool:
    tile = sign_gemm_fused.tile_on(x.device, _m(x), x.shape[-1], signs.shape[0])
    return tile is not None


ON_CUDA = Condition("x on CUDA with Triton, not in double precision", lambda x, *_: is_on_gpu(x))
IN_ROWS = Condition("signs in rows", lambda x, signs, *_: signs.dim() == 2)
EIGHT_BITS = Condition("8 bits", lambda x, signs, bits: bits == 8)
NARROW = Condition(f"inputs at most {quantize.WIDEST}", lambda x, *_: quantize.fits(x))
FEW_ROWS = Condition("small M: all CTAs run at once, rows held whole", _has_fused_tile)
PLAIN_CPU_CALL = Condition(
    "x on the CPU, no gradient, not compiled, not in double precision",
    lambda x, *_: is_plain_cpu_call(x),
)


# Implementations of sign_gemm


def _by_cpu(x: Tensor, signs: Tensor, out_features: int, *rest: Any) -> Tensor:
    return cpu_sign_gemm.sign_matmul(x, signs.contiguous(), out_features, *rest)


def _by_torch_int8(x: Tensor, signs: Tensor, out_features: int, *rest: Any) -> Tensor:
    return torch_int8.sign_matmul(x, signs, *rest)


def _fused(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    return sign_gemm_fused.sign_matmul(x.contiguous(), signs.contiguous(), g, h, bias)


def _by_bitplanes(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    return sign_gemm_bitplane.sign_matmul(x.contiguous(), signs.contiguous(), g, h, bias)


def _row_by_row(x: Tensor, signs: Tensor, out_features: int, *rest: Any) -> Tensor:
    return sign_gemm_float.by_rows(x.contiguous(), signs.contiguous(), *rest)


def _by_float_tiles(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    q, scale = quantize.quantize(x.contiguous(), g, None)
    return sign_gemm_float.by_tiles(q, scale, signs.contiguous(), h, bias, x.dtype)


def _by_reference(x: Tensor, signs: Tensor, out_features: int, *rest: Any) -> Tensor:
    exact = reference.exact_type(x.dtype)
    matrix = packed_layout.dense(signs, out_features, x.shape[-1], exact)
    return reference.sign_matmul(x, matrix, *rest)


SIGN_GEMM = (
    Implementation(
        "cpu/sign_gemm",
        (
            Condition(
                "signs in tiles (back end cpu)",
                lambda x, signs, bits: signs.dim() == 3 and signs.dtype is torch.uint8,
            ),
            Condition(
                "x on the CPU, not in double precision",
                lambda x, signs, bits: x.is_cpu and x.dtype is not torch.float64,
            ),
        ),
        _by_cpu,
    ),
    Implementation(
        "torch_int8",
        (
            Condition(
                "signs expanded (back end torch)",
                lambda x, signs, bits: signs.dtype is not torch.uint8,
            ),
        ),
        _by_torch_int8,
    ),
    Implementation(
        "triton/sign_gemm_fused", (ON_CUDA, IN_ROWS, EIGHT_BITS, NARROW, FEW_ROWS), _fused
    ),
    Implementation(
        "triton/sign_gemm_bitplane", (ON_CUDA, IN_ROWS, EIGHT_BITS, NARROW), _by_bitplanes
    ),
    Implementation(
        "triton/sign_gemm_float by_rows",
        (
            ON_CUDA,
            IN_ROWS,
            Condition(
                f"M at most {sign_gemm_float.SMALL_M}",
                lambda x, signs, bits: 0 < _m(x) <= sign_gemm_float.SMALL_M,
            ),
        ),
        _row_by_row,
    ),
    Implementation(
        "triton/sign_gemm_float by_tiles",
        (
            ON_CUDA,
            IN_ROWS,
            Condition("x not rounded", lambda x, signs, bits: bits is None),
            Condition("half precision", lambda x, signs, bits: x.dtype != torch.float32),
            NARROW,
        ),
        _by_float_tiles,
    ),
    Implementation("reference", run=_by_reference, how="signs are unpacked"),
)

TRAINING_ON_GPU = Implementation(
    "triton/training",
    (
        Condition(
            f"x and weight on CUDA with Triton, at most {quantize.WIDEST} wide, not compiled",
            lambda x, weight: training.is_for(x, weight),
        ),
    ),
)

# Operation → implementations in the order of trial, and what decides between them.
TABLE: dict[str, tuple[Implementation, ...]] = {
    # (x, signs, bits)
    "sign_gemm": SIGN_GEMM,
    # (x, signs): a product of a ``fused_layer``
    "fused_sign_gemm": (
        Implementation("triton/sign_gemm_fused", (FEW_ROWS,), sign_gemm_fused.sign_matmul),
        Implementation(
            "triton/sign_gemm_bitplane",
            run=sign_gemm_bitplane.sign_matmul,
            how="norm and activation by kernels of their own",
        ),
    ),
    # (a tensor of the layer, FusedLayer): a transformer layer
    "fused_layer": (
        Implementation(
            "triton/sign_gemm_fused",
            (
                Condition(
                    "packed projections of 8-bit inputs", lambda x, facts: facts.are_products
                ),
                Condition("on CUDA with Triton", lambda x, facts: is_on_gpu(x)),
                Condition("norms in float32 or half", lambda x, facts: x.dtype in quantize.TYPES),
                Condition("layer norms with biases", lambda x, facts: facts.has_layer_norms),
                Condition("ReLU or GELU", lambda x, facts: facts.activation is not None),
                Condition(
                    f"inputs at most {quantize.WIDEST}",
                    lambda x, facts: facts.width <= quantize.WIDEST,
                ),
                Condition("query, key and value alike", lambda x, facts: facts.lie_together),
            ),
            lambda *operands, **around: fused_sign_gemm(*operands, **around),
        ),
        Implementation("modules", how="each module by its own kernel"),
    ),
    # (x, weight)
    "int8_gemm": (
        Implementation(
            "cpu/conv1d project",
            (
                Condition(
                    f"AVX-512-VNNI without AMX, inputs a multiple of 4, {cpu_conv1d.FEWEST_INPUTS} "
                    "or more",
                    cpu_conv1d.can_project,
                ),
                PLAIN_CPU_CALL,
            ),
            cpu_conv1d.project,
        ),
        Implementation(
            "torch_int8",
            (
                Condition(
                    "x on the CPU, no gradient",
                    lambda x, weight: x.device.type == "cpu" and not _wants_gradient(x),
                ),
                Condition(
                    "torch multiplies int8 exactly here",
                    lambda x, weight: torch_int8.multiplies_exactly(),
                ),
            ),
            lambda x, weight, scale, bias: torch_int8.sign_matmul(
                x, weight, None, scale, bias, bits=None
            ),
        ),
        Implementation("torch", how="the weight is dequantised"),
    ),
    # (x, weight)
    "conv1d": (
        Implementation(
            "cpu/conv1d",
            (
                Condition("weight in the kernel's layout", lambda x, weight: weight.dim() > 3),
                PLAIN_CPU_CALL,
            ),
            cpu_conv1d.convolve,
        ),
        Implementation("torch", how="F.conv1d"),
    ),
    # (x, (out, channels of a group, kernel_size)): HuBERT's convolutional positions
    "conv_positions": (
        Implementation(
            "triton/conv1d",
            (
                Condition(
                    "x in half precision on CUDA with Triton",
                    lambda x, shape: triton_conv1d.is_for(x),
                ),
                Condition("not compiled", lambda x, shape: not torch.compiler.is_compiling()),
                Condition(
                    f"a group takes and gives at most {triton_conv1d.WIDEST} channels",
                    lambda x, shape: (
                        max(shape[1], shape[0] // (x.shape[1] // shape[1])) <= triton_conv1d.WIDEST
                    ),
                ),
            ),
            lambda *operands: triton_conv1d.convolve(*operands),
        ),
        Implementation("modules", how="each module by its own kernel"),
    ),
    # (x, weight)
    "training": (
        TRAINING_ON_GPU,
        Implementation("torch", how="its own operators"),
    ),
    # (log_probs, targets)
    "ctc_loss": (
        Implementation(
            "triton/ctc",
            (
                Condition(
                    f"on CUDA with Triton, at most {triton_ctc.MOST_TOKENS} tokens",
                    lambda log_probs, targets: triton_ctc.is_for(log_probs, targets),
                ),
            ),
            run=triton_ctc.ctc_loss,
        ),
        Implementation("torch", run=reference.ctc_loss, how="the lengths are read by the host"),
    ),
}


def implementation(operation: str, *deciding: Any) -> Implementation:
    """What computes a call of ``operation``, a key of TABLE, with these deciding arguments."""
    for candidate in TABLE[operation]:
        if candidate.missing(*deciding) is None:
            return candidate
    raise AssertionError(f"{operation}: the last implementation fits always")


def sign_gemm(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> Tensor:
    """See ``operator.sign_matmul``."""
    chosen = implementation("sign_gemm", x, signs, bits)
    return chosen.run(x, signs, out_features, g, h, bias, bits)  # type: ignore[misc]


def fused_sign_gemm(
    x: Tensor,
    signs: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    **fused: Any,
) -> Tensor:
    """``sign_gemm_fused.sign_matmul``, all arguments included, or for large or wide x
    ``sign_gemm_bitplane``'s: 8-bit products on CUDA with what stands around them."""
    chosen = implementation("fused_sign_gemm", x, signs)
    return chosen.run(x, signs, g, h, bias, **fused)  # type: ignore[misc]


def ctc_loss(
    log_probs: Tensor, targets: Tensor, frames: Tensor, tokens: Tensor, blank: int
) -> Tensor:
    """The CTC loss of each utterance (batch) in float32; 0 where no path is long enough.

    Args:
        log_probs: (time, batch, vocabulary), float32.
        targets: (batch, tokens), padded with anything.
        frames, tokens: of each utterance, (batch).
        blank: its index.
    """
    chosen = implementation("ctc_loss", log_probs, targets)
    return chosen.run(log_probs, targets, frames, tokens, blank)  # type: ignore[misc]


def training_kernels(x: Tensor, weight: Tensor) -> ModuleType | None:
    """``triton.training`` where it takes ``x`` (…, in) and a layer's ``weight`` (out, in)."""
    return training if implementation("training", x, weight) is TRAINING_ON_GPU else None
