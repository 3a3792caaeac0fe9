"""What all quantised linear layers share: how they are made, described and mixed in."""

import inspect
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.quantization.fake_quant import fake_quantize_tokens, straight_through
from cress_svcd.quantization.validation import require_choice

NORMALIZATIONS = ("none", "layernorm", "rmsnorm")


def _normalization(kind: str, features: int, **factory: Any) -> nn.Module:
    """The module that ``kind`` names, over the last dimension of ``features`` entries."""
    if kind == "layernorm":
        return nn.LayerNorm(features, eps=1e-5, **factory)
    if kind == "rmsnorm":
        return nn.RMSNorm(features, eps=1e-5, **factory)
    return nn.Identity()


class QuantLinear(nn.Linear):
    """A linear layer that trains a full-precision ("latent") weight and computes with few bits.

    A method is a subclass that names itself and the widths it has, and gives ``quantized_weight``:
    then y = Q(norm(x)) @ quantized_weight^T + bias, the weight's gradient straight through.  It may
    replace any other step of the forward pass.  Keyword-only arguments of ``__init__`` are the
    options of a policy; each is kept as an attribute of the same name.

    Options that all methods have:
        bits: width of a weight, one of WEIGHT_BITS; None is DEFAULT_BITS.
        activation_bits: width of the layer's input, one of ACTIVATION_BITS, where None is off;
            "default" is the method's own.
        normalization: none, layernorm or rmsnorm of the input (SubLN, as BitNet Distillation adds
            it before output projections); None is the method's own.  A trained layer keeps its
            function only with none.

    Attributes:
        mix: share of the quantised output in the layer's output, for warm-ups; 1 is the quantised
            layer alone, 0 the full-precision one.  Not stored in checkpoints.
    """

    METHOD: ClassVar[str]
    WEIGHT_BITS: ClassVar[tuple[float, ...]]
    DEFAULT_BITS: ClassVar[float] = 1
    ACTIVATION_BITS: ClassVar[tuple[int | None, ...]] = (8, 16, None)
    DEFAULT_ACTIVATION_BITS: ClassVar[int | None] = 8
    DEFAULT_NORMALIZATION: ClassVar[str] = "none"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        bits: float | None = None,
        activation_bits: int | None | Literal["default"] = "default",
        normalization: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Raises ConfigError where this method lacks a width or does not know an option's value."""
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        bits = self.DEFAULT_BITS if bits is None else bits
        self.bits = require_choice(f"bits of method {self.METHOD}", bits, self.WEIGHT_BITS)
        if activation_bits == "default":
            activation_bits = self.DEFAULT_ACTIVATION_BITS
        self.activation_bits = require_choice(
            f"activation_bits of method {self.METHOD}", activation_bits, self.ACTIVATION_BITS
        )
        self.normalization = require_choice(
            "normalization", normalization or self.DEFAULT_NORMALIZATION, NORMALIZATIONS
        )
        self.norm = _normalization(self.normalization, in_features, device=device, dtype=dtype)
        self.mix = 1.0

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, keep_weight: bool = True, **options: Any) -> Self:
        """The quantised form of ``linear``: its own weight and bias parameters, new vectors.

        The parameters are shared with ``linear``, not copied, so that entries of an optimizer stay
        valid.

        Args:
            keep_weight: False draws weight and bias anew, as the published code does, which
                throws the training away; for reproducing it only.
            options: the keyword arguments of the class.
        """
        weight, bias = linear.weight, linear.bias
        layer = cls(
            linear.in_features,
            linear.out_features,
            bias is not None,
            device="meta",  # so that nothing is drawn for parameters that are replaced at once
            dtype=weight.dtype,
            **options,
        )
        if not weight.is_meta:  # from meta to meta it would import torch's compiler, 80 MB
            layer.to_empty(device=weight.device)
        if keep_weight:
            layer.weight, layer.bias = weight, bias
        else:
            nn.Linear.reset_parameters(layer)
        layer.reset_vectors()
        for vector in layer.vectors().values():
            vector.requires_grad_(weight.requires_grad)  # a frozen layer stays frozen
        return layer.train(linear.training)

    def reset_vectors(self) -> None:
        """Set every parameter but weight and bias to its starting value for the present weight."""
        if hasattr(self.norm, "reset_parameters"):
            self.norm.reset_parameters()

    @property
    def weight_bits(self) -> float:
        """Bits of one weight as stored: 1, 1.58 (log2 3), 2, 4, 8."""
        return self.bits

    def settings(self) -> dict[str, Any]:
        """The keyword options with which an equal layer is made: plain data, for checkpoints."""
        return {name: getattr(self, name) for name in option_names(type(self))}

    def vectors(self) -> dict[str, nn.Parameter]:
        """The layer's parameters by name, other than weight and bias: g, h, steps, norms."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name not in ("weight", "bias")
        }

    def quantized_weight(self) -> Tensor:
        """The dense matrix (out x in) that stands for the weight, all scales included."""
        raise NotImplementedError

    def estimated_weight(self) -> Tensor:
        """The matrix of the product, with a gradient for the latent weight."""
        return straight_through(self.weight, self.quantized_weight())

    def quantize_input(self, x: Tensor) -> Tensor:
        """``x`` (... x in) with as few levels as the method allows, scaled back."""
        return fake_quantize_tokens(x, self.activation_bits)

    def quantized_forward(self, x: Tensor) -> Tensor:
        """The output (... x out) of the quantised layer, ``mix`` aside."""
        return F.linear(self.quantize_input(self.norm(x)), self.estimated_weight(), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.mix >= 1:
            return self.quantized_forward(x)
        full = F.linear(x, self.weight, self.bias)
        return full if self.mix <= 0 else torch.lerp(full, self.quantized_forward(x), self.mix)

    def extra_repr(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.settings().items())
        return f"{super().extra_repr()}, {options}"


def option_names(method: type[QuantLinear]) -> list[str]:
    """The options that ``method`` takes beyond the layer's shape: its own, then the common ones."""
    names: list[str] = []
    for owner in method.__mro__[: method.__mro__.index(nn.Linear)]:
        # A class without an __init__ of its own has its parent's, found once more there.
        parameters = inspect.signature(owner.__init__).parameters.values()
        names += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.name == "num_groups"]
    return [name for name in dict.fromkeys(names) if name not in ("device", "dtype")]
