"""BitLinear: the layer of Sign Value Constraint Decomposition (SVCD)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.errors import ConfigError
from cress_svcd.quantization import svcd_paper
from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.binarize import (
    TERNARY_DEAD_ZONE,
    CodeCache,
    centre,
    sign_codes,
    ternary_codes,
    weight_key,
)
from cress_svcd.quantization.estimators import SLOPES, slope
from cress_svcd.quantization.fake_quant import accumulation_dtype, autocast_dtype
from cress_svcd.quantization.scale_init import INITS, initial_vectors
from cress_svcd.quantization.sign_linear import sign_linear
from cress_svcd.quantization.validation import require_choice

VARIANTS = ("default", "paper")


def _positive_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


class BitLinear(QuantLinear):
    """y = h * (sign(W - mean W) (g * norm(x))) + b, with 1-bit weights and 8-bit activations.

    ``variant="paper"`` is the published layer to the letter (see ``published``): bias inside the
    scaling by h (and taken over as it is in a conversion), LayerNorm, the *output* scaled to 8 bits
    by one maximum, sign(0) = 0.

    The default variant keeps the decomposition and changes what costs translations:

    - ``g * norm(x)`` is rounded to ``activation_bits`` per token and scaled back, on the input side
      (``activations``); the matrix product is then one of small integers and signs.
    - The bias is added after the scaling by h.  That is the same family of functions with b/h
      written as b; converting a trained layer then needs no division by an h that may be 0.
    - Ties are +1.  ``bits=1.58`` adds a zero: the same layer with ternary codes.
    - The mean is a constant to the gradient (its own gradient is 1/size of the weight's).

    Parameters: ``weight`` (out x in, latent), ``bias`` (out), ``g`` (in), ``h`` (out), and those of
    ``norm``.

    Options:
        num_groups: rows are split into so many groups, each with its own mean (paper: the output's
            maximum by groups along dim 0, too).  Any number from 1.
        activation_bits: 8, 16 or None (off).
        init: how g and h start (``vectors``): svid, row, constraint, unconstrained, svd.
        normalization: none, layernorm or rmsnorm before g.  None is the default since a trained
            layer's function survives the swap only without it.
        estimator, estimator_width: the derivative that stands for the sign's (``estimators``).

    Attributes:
        dead_zone: share of a row's mean magnitude under which a code is 0.  It belongs to the
            bits (0 for 1 bit, 0.7 for ternary); a schedule may lead it from one to the other.
    """

    METHOD = "svcd"
    WEIGHT_BITS = (1, 1.58)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        num_groups: int = 1,
        *,
        variant: str = "default",
        init: str | None = None,
        normalization: str | None = None,
        estimator: str = "identity",
        estimator_width: float | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **common: Any,
    ) -> None:
        """``init`` and ``normalization`` None mean svid and none; in the paper's variant,
        constraint and layernorm.

        Raises:
            ConfigError: an option's value is unknown or not one of the chosen variant.
        """
        paper = require_choice("variant", variant, VARIANTS) == "paper"
        super().__init__(
            in_features,
            out_features,
            bias,
            normalization=normalization or ("layernorm" if paper else "none"),
            device=device,
            dtype=dtype,
            **common,
        )
        if not isinstance(num_groups, int) or not _positive_number(num_groups):
            raise ConfigError(f"num_groups: found {num_groups!r}, expected a whole number from 1")
        if estimator_width is not None and not _positive_number(estimator_width):
            raise ConfigError(f"estimator_width: found {estimator_width!r}, expected null or > 0")
        self.num_groups = num_groups
        self.variant = variant
        self.init = require_choice("init", init or ("constraint" if paper else "svid"), INITS)
        self.estimator = require_choice("estimator", estimator, SLOPES)
        self.estimator_width = estimator_width
        self.dead_zone = 0.0 if self.bits == 1 else TERNARY_DEAD_ZONE
        if paper:
            self._require_published_options()
        self.g = nn.Parameter(torch.empty(in_features, device=device, dtype=dtype))
        self.h = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self._cache = CodeCache()
        self.reset_vectors()

    def _require_published_options(self) -> None:
        fixed = {
            "bits": 1,
            "activation_bits": svcd_paper.ACTIVATION_BITS,
            "normalization": "layernorm",
            "estimator": "identity",
            "estimator_width": None,
        }
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"{name}: found {getattr(self, name)!r}, but variant paper is the published "
                    f"formula and has {value!r} only; leave {name} out or use variant default"
                )

    @torch.no_grad()
    def reset_vectors(self) -> None:
        super().reset_vectors()
        if self.g.is_meta:
            return
        support = self._make_codes(self.weight.dtype).abs() if self.dead_zone else None
        for parameter, value in zip(
            (self.g, self.h), initial_vectors(self.init, self.weight, support)
        ):
            parameter.copy_(value)

    def codes(self, dtype: torch.dtype | None = None) -> Tensor:
        """The codes (out x in, -1 and +1, ternary also 0) that this layer multiplies with.

        They are made once for a state of the weight and shared by all passes until the next
        gradient (``CodeCache``); treat the result as read-only.  Those of a weight that was made in
        inference mode are made each time.

        Args:
            dtype: type of the result; the weight's own by default.
        """
        dtype = dtype or self.weight.dtype
        if torch.compiler.is_compiling():  # a compiler fuses the codes, and cannot trace a cache
            self.clear_codes()  # the step being compiled may end in an update
            return self._make_codes(dtype)
        if self.weight.is_inference():  # it has no version that would tell of a change
            return self._make_codes(dtype)
        key = weight_key(self.weight), dtype, self.dead_zone
        return self._cache.get(key, partial(self._make_codes, dtype))

    @torch.no_grad()
    def _make_codes(self, dtype: torch.dtype) -> Tensor:
        middle = centre(self.weight, self.num_groups)
        if self.dead_zone:
            return ternary_codes(self.weight, middle, self.dead_zone, dtype)
        return sign_codes(self.weight, middle, dtype)

    def clear_codes(self) -> None:
        """Forget the codes; needed only after a write through ``weight.data`` outside training."""
        self._cache.clear()

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        if self.variant == "paper":
            codes = svcd_paper.binarize_groupwise(self.weight, self.num_groups)
        else:
            codes = self.codes()
        return self.h.unsqueeze(1) * codes * self.g

    def quantized_forward(self, x: Tensor) -> Tensor:
        if self.variant == "paper":
            return self._published_forward(x)
        x = self.norm(x)
        lower = autocast_dtype(x)
        if lower is not None:
            x = x.to(lower)
        return sign_linear(
            x,
            self.weight,
            self.g,
            self.h,
            self.bias,
            self.codes(x.dtype),
            self.activation_bits,
            self._slope,
            None if torch.compiler.is_compiling() else self._cache.expire,
        )

    def _published_forward(self, x: Tensor) -> Tensor:
        codes = svcd_paper.binarize_groupwise(self.weight, self.num_groups)
        output = F.linear(self.norm(x) * self.g, codes, self.bias)
        return svcd_paper.quantize_groupwise(output, self.num_groups) * self.h

    def _slope(self, weight: Tensor) -> Tensor | None:
        if SLOPES[self.estimator] is None:
            return None
        centred = weight.to(accumulation_dtype(weight.dtype)) - centre(weight, self.num_groups)
        return slope(self.estimator, centred, self.estimator_width)

    def _apply(self, *args: Any, **kwargs: Any) -> "BitLinear":
        # .to(), .half() and the like replace parameters' memory, which may be handed out again at
        # the same address.
        self.clear_codes()
        return super()._apply(*args, **kwargs)
