"""The operator ``cress_svcd::sign_matmul``: one product, whichever back end computes it.

It is registered with torch, so that meta tensors, autograd (for x) and torch.compile treat it like
any other; plain calls go past torch's dispatcher, which would cost more than a small product.
"""

from typing import Any

import torch
from torch import Tensor

from cress_svcd.kernels import dispatch, packed_layout, reference

BITS = (8, 16, None)
_NO_ROUNDING = 0  # stands for None in the operator's schema


def sign_matmul(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None = None,
    h: Tensor | None = None,
    bias: Tensor | None = None,
    bits: int | None = 8,
    *,
    checked: bool = False,
) -> Tensor:
    """y = (signs @ q(g * x)) * scale * h + bias for the rows of x; see ``reference``.

    Differentiable with respect to x, straight through the rounding; not to g, h and bias.

    Args:
        x: (…, in), any floating type, any strides.
        signs: (out, in) of -1 and +1, as ``prepare`` returns it for a back end, on x's device.
        out_features: out (tiles are padded, so that their shape does not tell).
        g, h, bias: (in), (out) and (out), of any floating type; None for ones, ones and zeros.
        bits: 8: rows are rounded to integers of +-127, as in training with 8-bit activations,
            exactly.
            16 or None: nothing coarser than a hi/lo split into int8, a relative error of 5e-5 at
            most on normal inputs (the reference back end: 16 bits exactly as in training; None
                exact).
        checked: the caller vouches for the shapes.  The C code reads out of bounds where it errs.

    Returns:
        (…, out), in x's type.  NaN or infinity in a row of g * x makes its outputs NaN (without
        rounding, infinity may stay infinity where the back end is exact).

    Raises:
        ValueError: shapes do not fit together, or ``bits`` is none of BITS.
    """
    if not checked:
        _check(x, signs, out_features, g, h, bias, bits)
    if _is_plain_call(x, g, h, bias):
        return dispatch.sign_gemm(x, signs, out_features, g, h, bias, bits)
    return torch.ops.cress_svcd.sign_matmul(
        x, signs, out_features, g, h, bias, _NO_ROUNDING if bits is None else bits
    )


def _check(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int | None,
) -> None:
    """The C code trusts these: a wrong size would read beyond a tensor's end."""
    if bits not in BITS:
        raise ValueError(f"bits: found {bits!r}, expected 8, 16 or None")
    if x.dim() == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise ValueError(f"x: found {x.dtype} of {tuple(x.shape)}, expected floats of ... x in")
    in_features = x.shape[-1]
    shape = tuple(signs.shape)
    if signs.dtype == torch.uint8:
        rows = (out_features, packed_layout.row_bytes(in_features))
        fits = shape == rows or shape == packed_layout.tile_shape(out_features, in_features)
    else:
        fits = shape == (out_features, in_features)
    if not fits:
        raise ValueError(
            f"signs: found {signs.dtype} of {shape}, which is no form of {out_features} outputs x "
            f"{in_features} inputs (the inputs of x)"
        )
    for name, scale, size in (
        ("g", g, in_features),
        ("h", h, out_features),
        ("bias", bias, out_features),
    ):
        if scale is not None and scale.shape != (size,):
            raise ValueError(f"{name}: found shape {tuple(scale.shape)}, expected ({size},)")


def _is_plain_call(x: Tensor, *scales: Tensor | None) -> bool:
    """Whether nobody watches: no gradient, no compiler, no mode and no transform of functions."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.is_meta:
        return False
    if torch.is_grad_enabled():
        for tensor in (x, *scales):
            if tensor is not None and tensor.requires_grad:
                return False
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


@torch.library.custom_op("cress_svcd::sign_matmul", mutates_args=())
def _operator(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int,
) -> Tensor:
    return dispatch.sign_gemm(
        x, signs, out_features, g, h, bias, None if bits == _NO_ROUNDING else bits
    )


@_operator.register_fake
def _(
    x: Tensor,
    signs: Tensor,
    out_features: int,
    g: Tensor | None,
    h: Tensor | None,
    bias: Tensor | None,
    bits: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, signs, out_features, g, h, bias, _ = inputs
    for name, needs in zip(("g", "h", "bias"), ctx.needs_input_grad[3:6]):
        if needs:
            raise RuntimeError(
                f"sign_matmul: {name} requires a gradient, but packed layers are not trained; "
                "unpack the model first, or detach it"
            )
    ctx.save_for_backward(signs, g, h)
    ctx.out_features, ctx.in_features = out_features, x.shape[-1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Straight through the rounding, as in training: grad_x = ((grad * h) @ signs) * g."""
    signs, g, h = ctx.saved_tensors
    exact = reference.exact_type(grad.dtype)
    matrix = packed_layout.dense(signs, ctx.out_features, ctx.in_features, exact)
    before = reference.scale_and_shift(grad.to(exact), h, None) @ matrix
    grad_x = reference.scale_and_shift(before, g, None).to(grad.dtype)
    return grad_x, None, None, None, None, None, None


_operator.register_autograd(_backward, setup_context=_setup)
