"""BitLinear: the layer of Sign Value Constraint Decomposition (SVCD).

    y = h * (sign(W - mean W) (g * norm(x))) + b

    x  (…, in)     input; g * norm(x) is rounded to 8 bits a token
    W  (out, in)   latent weight: trained in full precision, only its signs are multiplied
    g  (in)        input scale, trained
    h  (out)       output scale, trained
    b  (out)       bias
    y  (…, out)

Training sees the same numbers as a packed 1-bit product: with q the integers and s the scale of a
token (``fake_quant``),

    y = (sign(W - mean W) @ q) * s * h + b

Backward passes go straight through both roundings.  They are those of a linear layer with the
matrix W' = h * signs * g: one product gives dW', the gradient of W', and

    dW = dW' * h * g        dh = (dW' * signs) g        dg = h (dW' * signs)        dx = dy W'

are passes over matrices of the weight's size.  So nothing but the input is kept between the passes,
and a step costs the products of a linear layer and little more.

The published layer, which this one changes where it costs translations, is ``svcd_paper``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cress_svcd.errors import ConfigError
from cress_svcd.kernels import dispatch
from cress_svcd.kernels.cuda_graph import is_capturing
from cress_svcd.quantization.base import Holder, QuantLinear
from cress_svcd.quantization.binarize import (
    SURROGATE_GRADIENTS,
    TERNARY_THRESHOLD,
    SignWeightCache,
    binarize,
    group_means,
    row_groups,
    surrogate_gradient,
    ternarize,
    weight_key,
)
from cress_svcd.quantization.fake_quant import accumulation_dtype, autocast_dtype, quantize_tokens
from cress_svcd.quantization.scale_init import INITS, initial_scales
from cress_svcd.quantization.sign_planes import SignPlanes
from cress_svcd.quantization.validation import require_choice

VARIANTS: dict[str, type["BitLinear"]] = {}

# Small-batch path of the backward pass: used when SMALL_BATCH * M < min(out, in) for M tokens.
# Then passes over the weight would cost more than a further product.
SMALL_BATCH = 4


class BitLinear(QuantLinear):
    """y = h * (sign(W - mean W) q(g * norm(x))) + b, with 1-bit weights and 8-bit activations.

    What differs from the published layer:

    - ``g * norm(x)`` is rounded per token and scaled back, on the input side; the matrix product is
      then one of small integers and signs, and a token's output does not depend on its batch.
    - The bias is added after the scaling by h.  That is the same family of functions with b/h
      written as b; converting a trained layer then needs no division by an h that may be 0.
    - Ties are +1.  ``bits=1.58`` adds a zero: the same layer with ternary weights.
    - The mean is a constant to the gradient (its own gradient is 1/size of the weight's).

    Parameters: ``weight`` (out, in), ``bias`` (out), ``g`` (in), ``h`` (out), those of ``norm``.

    Options:
        num_groups: rows are split into so many groups, each with its own mean.  Any number from 1.
        variant: default, or that of a subclass (paper).
        activation_bits: 8, 16 or None (off).
        init: initial g and h (``scale_init``): svid, row, constraint, unconstrained, svd.
        normalization: none, layernorm or rmsnorm before g.  A trained layer's function survives the
            conversion only without it.
        estimator, estimator_width: the surrogate gradient of the sign (``binarize``).

    Attributes:
        ternary_threshold: share of a row's mean magnitude under which a weight is 0.  It belongs to
            the bits (0 for 1 bit, 0.7 for ternary); a schedule may lead it from one to the other.
    """

    METHOD = "svcd"
    VARIANT: ClassVar[str] = "default"
    WEIGHT_BITS = (1, 1.58)
    DEFAULT_INIT: ClassVar[str] = "svid"
    PACKED_PARAMETERS = ("g",)
    FITS_SCALES = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "VARIANT" in vars(cls):
            VARIANTS[cls.VARIANT] = cls

    def __new__(cls, *args: Any, variant: str | None = None, **kwargs: Any) -> Self:
        """A ``variant`` makes an instance of the subclass of that name."""
        chosen = cls if variant is None else VARIANTS[require_choice("variant", variant, VARIANTS)]
        if not issubclass(chosen, cls):
            raise ConfigError(f"variant: found {variant!r}, but {cls.__name__} is {cls.VARIANT!r}")
        return super().__new__(chosen)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        num_groups: int = 1,
        *,
        variant: str | None = None,
        init: str | None = None,
        normalization: str | None = None,
        estimator: str = "identity",
        estimator_width: float | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        """None for ``init`` and ``normalization`` means the variant's own.

        Raises:
            ConfigError: an option's value is unknown or not one of the chosen variant.
        """
        super().__init__(
            in_features,
            out_features,
            bias,
            normalization=normalization,
            device=device,
            dtype=dtype,
            **common,
        )
        if not isinstance(num_groups, int) or not _is_positive(num_groups):
            raise ConfigError(f"num_groups: found {num_groups!r}, expected a whole number from 1")
        if estimator_width is not None and not _is_positive(estimator_width):
            raise ConfigError(f"estimator_width: found {estimator_width!r}, expected null or > 0")
        self.num_groups = num_groups
        self.variant = self.VARIANT
        self.init = require_choice("init", init or self.DEFAULT_INIT, INITS)
        self.estimator = require_choice("estimator", estimator, SURROGATE_GRADIENTS)
        self.estimator_width = estimator_width
        self.ternary_threshold = 0.0 if self.bits == 1 else TERNARY_THRESHOLD
        self.g = nn.Parameter(torch.empty(in_features, device=device, dtype=dtype))
        self.h = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self._cache = SignWeightCache()
        self.reset_scales()

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        if self.g.is_meta:
            return
        support = None
        if self.ternary_threshold:
            support = self._make_sign_weights(self.weight.dtype).abs()
        g, h = initial_scales(self.init, self.weight, support)
        self.g.copy_(g)
        self.h.copy_(h)

    # Forward

    def quantized_forward(self, x: Tensor) -> Tensor:
        x = self.prepare_input(self.norm(x), self)
        compiling = torch.compiler.is_compiling()
        return svcd_product(
            x,
            self.weight,
            self.g,
            self.h,
            self.bias,
            self.sign_weights(x.dtype),
            self.activation_bits,
            self._surrogate_gradient,
            None if compiling else self._cache.expire,
        )

    def prepare_input(self, x: Tensor, holder: Holder) -> Tensor:
        """Under autocast, x in its lower type: rounding comes after that."""
        lower = autocast_dtype(x)
        return x if lower is None else x.to(lower)

    def sign_weights(self, dtype: torch.dtype | None = None) -> Tensor:
        """sign(W - mean W) (out, in): -1 and +1, ternary also 0.

        It is made once for a state of the weight and shared by all passes until the next gradient
        (``SignWeightCache``); treat the result as read-only.  That of a weight that was made in
        inference mode is made each time.

        Args:
            dtype: type of the result; the weight's own by default.
        """
        dtype = dtype or self.weight.dtype
        # A compiler fuses this, and cannot trace a cache; a CUDA graph has to compute it anew.
        if torch.compiler.is_compiling() or is_capturing():
            self.forget_sign_weights()  # the step that is recorded may end in an update
            return self._make_sign_weights(dtype)
        if self.weight.is_inference():  # it has no version that would tell of a change
            return self._make_sign_weights(dtype)
        key = weight_key(self.weight), dtype, self.ternary_threshold
        return self._cache.get(key, partial(self._make_sign_weights, dtype))

    @torch.no_grad()
    def _make_sign_weights(self, dtype: torch.dtype) -> Tensor:
        mean = group_means(self.weight, self.num_groups)
        if self.ternary_threshold:
            return ternarize(self.weight, mean, self.ternary_threshold, dtype)
        return binarize(self.weight, mean, dtype)

    def forget_sign_weights(self) -> None:
        """Needed only after a write through ``weight.data`` outside of training."""
        self._cache.clear()

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        return self.h.unsqueeze(1) * self.sign_weights() * self.g

    def _surrogate_gradient(self, weight: Tensor) -> Tensor | None:
        if SURROGATE_GRADIENTS[self.estimator] is None:
            return None
        centred = weight.to(accumulation_dtype(weight.dtype)) - group_means(weight, self.num_groups)
        return surrogate_gradient(self.estimator, centred, self.estimator_width)

    # Packing and schedules

    def to_sign_planes(self) -> SignPlanes:
        return SignPlanes(self.sign_weights(), self.h.detach())

    @torch.no_grad()
    def from_sign_planes(self, planes: SignPlanes) -> None:
        """The sign weights; ternary ones with a mean of zero, so that 0 stays the mean."""
        q = planes.q
        if bool((q == 0).any()):
            q = torch.cat([_without_mean(group) for group in row_groups(q, self.num_groups)])
        self.weight.copy_(q)
        self.forget_sign_weights()

    def set_progress(self, mix: float, ternary: float) -> None:
        super().set_progress(mix, ternary)
        if self.bits == 1:
            self.ternary_threshold = ternary * TERNARY_THRESHOLD

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        # .to(), .half() and the like replace parameters' memory, which may be handed out again at
        # the same address.
        self.forget_sign_weights()
        return super()._apply(*args, **kwargs)


VARIANTS[BitLinear.VARIANT] = BitLinear


def svcd_product(
    x: Tensor,
    weight: Tensor,
    g: Tensor,
    h: Tensor,
    bias: Tensor | None,
    signs: Tensor,
    bits: int | None,
    surrogate: Callable[[Tensor], Tensor | None],
    after_backward: Callable[[], None] | None = None,
) -> Tensor:
    """y (…, out) of the module's docstring, in x's type, for x (…, in) after its norm.

    The product is taken of q and signs alone and scaled afterwards.  In float32 and with 8 bits it
    is therefore exact, an integer below 2^24: it depends neither on the order of summation nor on
    the batch, and equals what an integer kernel computes on packed weights.  In float16 it cannot
    overflow, as q is at most 1 there.

    Args:
        weight: (out, in), the latent weight: only its gradient is used.
        g, h, bias: (in), (out) and (out); bias may be None.
        signs: (out, in), in x's type; a constant to autograd.
        bits: width of q, None for no rounding.
        surrogate: maps the weight to the surrogate derivative of its signs (None: one everywhere).
        after_backward: called, if given, once a gradient for the weight has been computed.
    """
    return _SvcdProduct.apply(x, weight, g, h, bias, signs, bits, surrogate, after_backward)


class _SvcdProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        g: Tensor,
        h: Tensor,
        bias: Tensor | None,
        signs: Tensor,
        bits: int | None,
        surrogate: Callable[[Tensor], Tensor | None],
        after_backward: Callable[[], None] | None,
    ) -> Tensor:
        ctx.fused = fused = dispatch.training_kernels(x, weight)
        if fused is None:
            x = x.contiguous()  # what attention permutes, torch would multiply batch by batch
        ctx.save_for_backward(x, weight, g, h, signs)
        ctx.surrogate, ctx.after_backward = surrogate, after_backward
        ctx.bias_dtype = None if bias is None else bias.dtype
        # Keep x unflattened: fairseq's attention scales the output in place, which autograd forbids
        # on a view that a function made.
        if fused is not None:
            q, scale = fused.quantize(x.reshape(-1, x.shape[-1]), g, bits)
            shape = (*x.shape[:-1], signs.shape[0])
            return fused.scale(torch.mm(q, signs.t()), scale, h, bias, shape)
        exact = accumulation_dtype(x.dtype)
        q, scale = quantize_tokens(x, bits, gain=g)
        y = (q @ signs.t()).to(exact).mul_(scale).mul_(h.to(exact))
        if bias is not None:
            y += bias.to(exact)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, g, h, signs = ctx.saved_tensors
        needs = ctx.needs_input_grad[:4]
        exact = accumulation_dtype(dy.dtype)
        if ctx.fused is not None:
            dx, dweight, dg, dh = _fused_gradients(ctx.fused, dy, x, weight, g, h, signs, needs)
        else:
            dy = dy.contiguous()
            is_small = SMALL_BATCH * (x.numel() // x.shape[-1]) < min(signs.shape)
            gradients = _small_batch_gradients if is_small else _gradients
            dx, dweight, dg, dh = gradients(dy, x, weight, g.to(exact), h.to(exact), signs, needs)
        if dweight is not None:
            factor = ctx.surrogate(weight)
            if factor is not None:
                dweight.mul_(factor)
            if ctx.after_backward is not None:
                ctx.after_backward()
        dbias = None
        if ctx.needs_input_grad[4]:
            # CUDA sums halves in float32; in the bias's own type autograd need not cast the sum.
            dbias = _sum_tokens(dy, exact if ctx.fused is None else ctx.bias_dtype)
        return dx, dweight, dg, dh, dbias, None, None, None, None


# The gradients of x, weight, g and h, each if it is needed, in three ways that differ in speed.
Needs = tuple[bool, bool, bool, bool]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, g: Tensor, h: Tensor, signs: Tensor, needs: Needs
) -> Gradients:
    """Two products of dy, and passes over matrices of the weight's size."""
    need_x, need_weight, need_g, need_h = needs
    dx = dweight = dg = dh = None
    scales = torch.outer(h, g)
    if need_x:
        dx = dy @ (signs * scales).to(signs.dtype)
    if need_weight or need_g or need_h:
        deffective = _outer(dy, x).to(scales.dtype)
        if need_g or need_h:
            signed = deffective * signs
            dg, dh = h @ signed, signed @ g
        if need_weight:
            dweight = deffective.mul_(scales).to(weight.dtype)
    return dx, dweight, dg, dh


def _small_batch_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, g: Tensor, h: Tensor, signs: Tensor, needs: Needs
) -> Gradients:
    """One product more, and passes over matrices of the tokens' size alone."""
    need_x, need_weight, need_g, need_h = needs
    dx = dweight = dg = dh = None
    before_h, scaled = (dy * h).to(dy.dtype), (x * g).to(x.dtype)
    if need_weight:
        dweight = _outer(before_h, scaled).to(weight.dtype)
    if need_h:
        dh = _sum_tokens(dy * (scaled @ signs.t()), h.dtype)
    if need_x or need_g:
        by_input = before_h @ signs
        if need_g:
            dg = _sum_tokens(by_input * x, g.dtype)
        if need_x:
            dx = by_input.mul_(g)
    return dx, dweight, dg, dh


def _fused_gradients(
    fused: Any,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    g: Tensor,
    h: Tensor,
    signs: Tensor,
    needs: Needs,
) -> Gradients:
    """As ``_gradients``, the passes fused on CUDA by the kernels ``fused``."""
    need_x, *of_weight = needs
    dx = dweight = dg = dh = None
    rows, flat = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    if need_x:
        dx = torch.mm(rows, fused.effective_weight(signs, g, h)).view(x.shape)
    if any(of_weight):
        deffective = torch.mm(rows.t(), flat)
        dweight, dg, dh = fused.split_gradient(deffective, signs, g, h, weight.dtype)
        if not needs[1]:
            dweight = None
    return dx, dweight, dg, dh


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """The sum over tokens of ``left`` (…, m) and ``right`` (…, n) of their outer products."""
    return left.reshape(-1, left.shape[-1]).t() @ right.reshape(-1, right.shape[-1])


def _sum_tokens(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of the tokens of ``x`` (…, n), taken in ``dtype``."""
    return x.reshape(-1, x.shape[-1]).sum(0, dtype=dtype)


def _without_mean(q: Tensor) -> Tensor:
    """Ternary ``q`` with its positive entries scaled so that their sum is that of the negative."""
    positive, negative = (q > 0).sum(), (q < 0).sum()
    if positive == 0 or negative == 0:
        return q
    return torch.where(q > 0, q * (negative / positive), q)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
