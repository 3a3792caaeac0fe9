"""What all quantised linear layers share: options, forward pass, and the hooks of a method.

A method is a subclass of ``QuantLinear`` in a file of its own under ``methods/`` (SVCD:
``svcd.py``).  It overrides hooks, in this order of a layer's life:

    quantized_weight                    the matrix that stands for the weight, in training
    to_sign_planes, from_sign_planes    what a packed file stores of the weight, and the way back
    prepare_input, finish_output        what is done around the product, trained and packed alike
    beside_product                      what is added to it

Nothing outside of its file knows a method by name.
"""

import inspect
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.quantization.fake_quant import fake_quantize_tokens, straight_through
from cress_svcd.quantization.sign_planes import SignPlanes, ternary_plane_scales
from cress_svcd.quantization.validation import require_choice

NORMALIZATIONS = ("none", "layernorm", "rmsnorm")


class Holder(Protocol):
    """Whoever holds a method's parameters: its layer in training, its packed form afterwards."""

    bias: Any
    h: Any
    h2: Any
    step: Any
    up: Any
    down: Any


def _normalization(kind: str, features: int, **factory: Any) -> nn.Module:
    """The module that ``kind`` names, over the last dimension of ``features`` entries."""
    if kind == "layernorm":
        return nn.LayerNorm(features, eps=1e-5, **factory)
    if kind == "rmsnorm":
        return nn.RMSNorm(features, eps=1e-5, **factory)
    return nn.Identity()


class QuantLinear(nn.Linear):
    """A linear layer that trains a full-precision ("latent") weight and computes with few bits.

    A method names itself and the widths it has, and gives ``quantized_weight``: then

        y = q(prepare_input(norm(x))) @ quantized_weight^T + bias

    with the weight's gradient straight through.  It may replace any other step.  Keyword-only
    arguments of ``__init__`` are the options of a policy; each is kept as an attribute of the same
    name.

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
        mix_on_device: the same as a scalar tensor, where steps are captured as CUDA graphs, which
            would keep the value of a number.
    """

    mix_on_device: Tensor | None = None

    METHOD: ClassVar[str]
    WEIGHT_BITS: ClassVar[tuple[float, ...]]
    DEFAULT_BITS: ClassVar[float] = 1
    ACTIVATION_BITS: ClassVar[tuple[int | None, ...]] = (8, 16, None)
    DEFAULT_ACTIVATION_BITS: ClassVar[int | None] = 8
    DEFAULT_NORMALIZATION: ClassVar[str] = "none"
    # Why a packed file has no form for it, as the rest of a sentence; empty where it has one.
    NOT_PACKED: ClassVar[str] = ""
    # Parameters besides bias and norm of a packed layer: "g" multiplies the product's input.
    PACKED_PARAMETERS: ClassVar[tuple[str, ...]] = ()
    # Whether under autocast the output has its lower type.  It has not where parameters, which
    # autocast leaves in float32, scale the product's result.
    AUTOCAST_LOWERS_OUTPUT: ClassVar[bool] = True
    # Whether one token's output depends on the other tokens of a batch.
    DEPENDS_ON_BATCH: ClassVar[bool] = False
    # Whether something is added to the product, by ``beside_product``.
    ADDS_BESIDE_PRODUCT: ClassVar[bool] = False
    # Whether the output is linear in an input scale g and an output scale h, so that calibration
    # can fit these in closed form.
    FITS_SCALES: ClassVar[bool] = False

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
        """The quantised form of ``linear``: its own weight and bias, new scales.

        The parameters are shared with ``linear``, not copied, so that entries of an optimizer stay
        valid.

        Args:
            keep_weight: False draws weight and bias again, as the published code does, which
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
        layer.reset_scales()
        for parameter in layer.scale_parameters().values():
            parameter.requires_grad_(weight.requires_grad)  # a frozen layer stays frozen
        return layer.train(linear.training)

    def reset_scales(self) -> None:
        """Set every parameter but weight and bias to its initial value for the present weight."""
        reset = getattr(self.norm, "reset_parameters", None)
        if reset is not None:
            reset()

    # Hooks of a method

    def quantized_weight(self) -> Tensor:
        """The dense matrix (out, in) that stands for the weight, all scales included."""
        raise NotImplementedError

    def to_sign_planes(self) -> SignPlanes:
        """The weight as a packed file holds it.

        Here for methods whose quantised weight is -scale, 0 or scale, one scale a row.
        """
        weight = self.quantized_weight()
        return SignPlanes(weight.sign(), weight.abs().amax(dim=1))

    def from_sign_planes(self, planes: SignPlanes) -> None:
        """Set the weight to one from which ``to_sign_planes`` makes ``planes`` again.

        It is not the trained weight, which is gone, but a forward pass cannot tell.

        Raises:
            CheckpointError: no weight gives these planes.
        """
        with torch.no_grad():
            self.weight.copy_(planes.dense())

    @staticmethod
    def plane_scales(planes: int) -> tuple[float, ...]:
        """The factor of each of so many sign planes in q (see ``sign_planes``)."""
        return ternary_plane_scales(planes)

    def product_scales(self, holder: Holder, planes: int) -> Tensor | None:
        """The scales (planes * out) of the rows of all planes in the packed product; None for
        ``plane_scales`` times the scale of a row."""
        return None

    def prepare_input(self, x: Tensor, holder: Holder) -> Tensor:
        """What the method does to the normalised input (…, in) before the product.

        Args:
            holder: where the method's parameters are: this layer, or its packed form.
        """
        return x

    @property
    def product_bits(self) -> int | None:
        """Bits to which the product rounds its input; None where ``prepare_input`` has done it."""
        return self.activation_bits

    def beside_product(self, x: Tensor, holder: Holder) -> Tensor:
        """What is added to the product, (…, out), of the normalised input x (…, in); called where
        ADDS_BESIDE_PRODUCT."""
        raise NotImplementedError

    def finish_output(self, y: Tensor, holder: Holder) -> Tensor:
        """What the method does to the product (…, out); called where ``finishes_output``."""
        return y

    @property
    def finishes_output(self) -> bool:
        """Whether there is anything to be done after the product, by ``finish_output``."""
        return False

    @property
    def scales_in_product(self) -> bool:
        """Whether the packed product multiplies with the rows' scale, not ``finish_output``."""
        return True

    @property
    def bias_in_product(self) -> bool:
        """Whether the packed product adds the bias, not ``finish_output``."""
        return True

    def steps_around_product(self) -> dict[str, Any] | None:
        """What ``prepare_input`` and ``finish_output`` do, as plain data for an engine without this
        code (``docs/native.md`` has the words); None where that cannot be said."""
        rounds = self.product_bits == self.activation_bits
        if self.finishes_output or self.ADDS_BESIDE_PRODUCT or not rounds:
            return None
        return {}

    def set_progress(self, mix: float, ternary: float) -> None:
        """Enter a state of a schedule.

        Args:
            mix: see the attribute.
            ternary: share of the ternary threshold that 1-bit weights still have, where the method
                leads from ternary to binary weights.
        """
        self.mix = mix

    # What follows from them

    @property
    def weight_bits(self) -> float:
        """Bits of one weight as stored: 1, 1.58 (log2 3), 2, 4, 8."""
        return self.bits

    def settings(self) -> dict[str, Any]:
        """The keyword options with which an equal layer is made: plain data, for checkpoints."""
        return {name: getattr(self, name) for name in option_names(type(self))}

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters by name, other than weight and bias: g, h, steps, norms."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name not in ("weight", "bias")
        }

    def estimated_weight(self) -> Tensor:
        """The matrix of the product, with a gradient for the latent weight."""
        return straight_through(self.weight, self.quantized_weight())

    def quantized_forward(self, x: Tensor) -> Tensor:
        """The output (…, out) of the quantised layer for x (…, in), ``mix`` aside."""
        normed = self.norm(x)
        x = fake_quantize_tokens(self.prepare_input(normed, self), self.product_bits)
        y = F.linear(x, self.estimated_weight(), self.bias)
        return y + self.beside_product(normed, self) if self.ADDS_BESIDE_PRODUCT else y

    def forward(self, x: Tensor) -> Tensor:
        if self.mix >= 1:
            return self.quantized_forward(x)
        full = F.linear(x, self.weight, self.bias)
        if self.mix <= 0:
            return full
        mix = self.mix if self.mix_on_device is None else self.mix_on_device.to(full.dtype)
        return torch.lerp(full, self.quantized_forward(x), mix)

    def kernel_call(self, x: Tensor) -> tuple[str, tuple[Tensor, Tensor]]:
        """See ``kernels.explain``."""
        return "training", (x, self.weight)

    def extra_repr(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.settings().items())
        return f"{super().extra_repr()}, {options}"


def option_names(method: type[QuantLinear]) -> list[str]:
    """The options that ``method`` takes beyond the layer's shape: its own, then the common ones."""
    names: list[str] = []
    for owner in method.__mro__[: method.__mro__.index(nn.Linear)]:
        own = vars(owner).get("__init__")
        parameters = inspect.signature(own).parameters.values() if own else ()
        names += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.name == "num_groups"]
    return [name for name in dict.fromkeys(names) if name not in ("device", "dtype")]
