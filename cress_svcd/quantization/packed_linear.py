"""Packed layers: a bit for each sign of a weight, for inference.

A weight of every method is a weighted sum of sign planes (``sign_planes``): one for 1 bit, two for
ternary, k for k bits.  So one kernel serves all: the planes are stacked as further rows, multiplied
in one call and added up.  What a method does around the product, its own hooks do (``base``).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd import kernels
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.fake_quant import autocast_dtype
from cress_svcd.quantization.policy import LayerSpec
from cress_svcd.quantization.sign_planes import SignPlanes, join

_EXACT = torch.float32  # what the kernels compute in


class PackedLinear(nn.Module):
    """The inference form of a trained quantised layer; ``from_layer`` makes it.

    State: ``signs`` (uint8, (planes x out, ceil(in / 8)), see ``kernels.pack_signs``), ``h`` (out,
    the scale of each row), ``bias`` (out) if any, what the method names in PACKED_PARAMETERS (``g``
    (in), ``step`` (1)) and the parameters of ``norm``.  In memory the signs are held once, in the
    form of the layer's back end; a state dict has the storage form whatever that is.  Scales are
    changed by loading a state, not in place.

    Against the layer that was packed, in evaluation: 8-bit activations (per token) are rounded to
    the same integers and the product is the same integer.  16 bits, none, and activations that the
    method rounds in its own way pass through a hi/lo split into int8: a relative error of about
    5e-5 (none on the back end "reference").

    Attributes:
        spec: method and settings of the layer, as in ``quantization_map``.
        method: the method's own layer without memory, which has its settings and hooks.
        planes: sign planes of a weight, which is the bits that one takes.
        backend: one of ``kernels.BACKENDS``; chosen again when the layer moves to another device.
    """

    in_features: int
    out_features: int
    method: QuantLinear
    norm: Any  # a layer norm, an RMS norm or the identity
    signs: Tensor
    h: Tensor
    bias: Tensor | None
    g: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        spec: Mapping[str, Any],
        planes: int = 1,
        *,
        dtype: torch.dtype = _EXACT,
        backend: str | None = None,
        device: Any = None,
    ) -> None:
        """A layer of zeros, to load a state into.

        Args:
            spec, planes: see the attributes.
            dtype: of the scales.
            backend: see ``kernels.choose``.

        Raises:
            ConfigError: an unknown method or setting, or a back end that cannot be used.
        """
        super().__init__()
        self.in_features, self.out_features, self.planes = in_features, out_features, planes
        self.spec = dict(spec)
        device = torch.device("cpu" if device is None else device)
        method = LayerSpec.from_dict(self.spec, "packed layer").quantize(
            nn.Linear(in_features, out_features, bias, device="meta")
        )
        # Not as a module of this one: its parameters are no state.
        vars(self)["method"] = method
        norm = method.norm.to_empty(device=device).to(dtype)
        self.norm = norm.requires_grad_(False)
        zeros = functools.partial(torch.zeros, device=device, dtype=dtype)
        self.register_buffer("h", zeros(out_features))
        self.register_buffer("bias", zeros(out_features) if bias else None)
        self.register_buffer("g", None)
        for name in method.PACKED_PARAMETERS:
            self.register_buffer(name, zeros(method.get_parameter(name).shape))
        self._requested_backend = backend
        self.backend = kernels.choose(device, backend)
        signs = kernels.blank(planes * out_features, in_features, self.backend, device)
        self.register_buffer("signs", signs)
        self._refresh()

    @classmethod
    @torch.no_grad()
    def from_layer(
        cls,
        layer: QuantLinear,
        *,
        dtype: torch.dtype | None = None,
        backend: str | None = None,
    ) -> Self:
        """The packed form of a trained layer; nothing is shared with it.

        Args:
            dtype: of the scales (default: the weight's own).

        Raises:
            ConfigError: the method is none of METHODS, or one without a packed form, or a schedule
                still mixes in full precision.
            CheckpointError: the weight is broken (NaN or infinity).
        """
        if layer.mix < 1:
            raise ConfigError(
                f"packing: the layer is still mixed with its full-precision self (mix "
                f"{layer.mix:.2f}); set_progress(model, 1) ends the schedule"
            )
        if layer.NOT_PACKED:
            raise ConfigError(
                f"packing: method {layer.METHOD} {layer.NOT_PACKED}, for which packed files have "
                "no form; translate with the checkpoint, or train with another method"
            )
        spec = LayerSpec(layer.METHOD, layer.settings()).to_dict()
        quantized = layer.to_sign_planes()
        if not (quantized.is_finite() and bool(layer.weight.isfinite().all())):
            raise CheckpointError(
                "packing: the weight or a scale holds NaN or infinity; train from an earlier "
                "checkpoint"
            )
        planes = quantized.split()
        packed = cls(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            spec,
            len(planes),
            dtype=dtype or layer.weight.dtype,
            backend=backend,
            device=layer.weight.device,
        )
        packed.norm.load_state_dict(layer.norm.state_dict())
        packed.h.copy_(quantized.scale)
        for name in packed._parameters_of_layer():
            getattr(packed, name).copy_(getattr(layer, name))
        packed.signs = packed._prepared(kernels.pack_signs(torch.cat(planes)))
        packed._refresh()
        return packed.train(layer.training)

    def use_backend(self, backend: str | None) -> None:
        """Compute with another back end from now on, here and wherever the layer moves.

        Raises:
            ConfigError: see ``kernels.choose``; nothing has changed.
        """
        chosen = kernels.choose(self.h.device, backend)
        self._requested_backend = backend
        if chosen != self.backend:
            rows = self._rows()
            self.backend = chosen
            self.signs = self._prepared(rows)

    def _prepared(self, rows: Tensor) -> Tensor:
        return kernels.prepare(rows, self.in_features, self.backend)

    def _rows(self) -> Tensor:
        """The signs in storage form."""
        return kernels.restore(self.signs, self.planes * self.out_features, self.in_features)

    def _refresh(self) -> None:
        """What the operator takes, in the type that it computes in: (g, h, bias)."""
        method, one = self.method, self.planes == 1
        h = self.h.to(_EXACT) if method.scales_in_product else torch.ones_like(self.h, dtype=_EXACT)
        scales = method.plane_scales(self.planes)
        if (own := method.product_scales(self, self.planes)) is not None:
            h = own.to(_EXACT)
        elif scales != (1,):  # else it is the buffer itself, no copy
            h = torch.cat([h * scale for scale in scales])
        self._adds_bias = self.bias is not None and one and method.bias_in_product
        self._operands = (
            None if self.g is None else self.g.to(_EXACT),
            h if method.scales_in_product or not one else None,
            self.bias.to(_EXACT) if self.bias is not None and self._adds_bias else None,
        )
        self._bits = method.product_bits
        self._is_done = one and not (method.finishes_output or method.ADDS_BESIDE_PRODUCT)

    @property
    def depends_on_batch(self) -> bool:
        """Whether one token's output depends on the other tokens of a batch."""
        return self.method.DEPENDS_ON_BATCH

    def _parameters_of_layer(self) -> list[str]:
        """Names of the buffers that are parameters of the same name in the method's layer."""
        bias = [] if self.bias is None else ["bias"]
        return [*bias, *self.method.PACKED_PARAMETERS]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (…, out) for x (…, in), in x's type.

        Under autocast it has the type that the layer which was packed gives there.

        Raises:
            ValueError: x has another number of inputs.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x: found {tuple(x.shape)}, expected (…, {self.in_features})")
        lower = autocast_dtype(x)
        x = self._normalize(x)
        y = kernels.sign_matmul(
            self.method.prepare_input(x, self),
            # Found at once: torch looks for an attribute elsewhere first.
            cast(Tensor, self._buffers["signs"]),
            self.planes * self.out_features,
            *self._operands,
            self._bits,
            checked=True,
        )
        y = y if self._is_done else self._finish(y, x)
        if lower is None:
            return y
        return y.to(lower if self.method.AUTOCAST_LOWERS_OUTPUT else _EXACT)

    def kernel_operands(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None] | None:
        """Signs in storage form, g, h and bias, if the layer is one product of 8-bit inputs with
        them and nothing else, and they lie there in this form; else None."""
        is_product = self._is_done and self._bits == 8 and self.method.normalization == "none"
        is_stored = self.signs.dtype == torch.uint8 and self.signs.dim() == 2
        return (self.signs, *self._operands) if is_product and is_stored else None

    def kernel_call(self, x: Tensor) -> tuple[str, tuple[Any, ...]]:
        """See ``kernels.explain``."""
        return "sign_gemm", (x, self.signs, self._bits)

    def _normalize(self, x: Tensor) -> Tensor:
        """The norm, whose scales may be of another type than x, which torch's modules refuse."""
        kind = self.method.normalization
        if kind == "none":
            return x
        shape, weight = (self.in_features,), self.norm.weight.to(x.dtype)
        if kind == "rmsnorm":
            return F.rms_norm(x, shape, weight, self.norm.eps)
        return F.layer_norm(x, shape, weight, self.norm.bias.to(x.dtype), self.norm.eps)

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        """Planes added up, then what the method adds to the product of the normalised x and does
        after it; in y's type."""
        dtype = y.dtype
        if self.planes > 1:
            y = y.unflatten(-1, (self.planes, self.out_features)).sum(-2)
        if self.bias is not None and self.method.bias_in_product and not self._adds_bias:
            y = y + self.bias.to(y.dtype)
        if self.method.ADDS_BESIDE_PRODUCT:
            y = y + self.method.beside_product(x, self)
        if self.method.finishes_output:
            y = self.method.finish_output(y, self)
        return y.to(dtype)

    def to_sign_planes(self) -> SignPlanes:
        """The weight, without g."""
        signs = kernels.unpack_signs(self._rows(), self.in_features)
        return SignPlanes(join(signs, self.method.plane_scales(self.planes)), self.h.to(_EXACT))

    @torch.no_grad()
    def to_layer(self) -> QuantLinear:
        """A layer of the method with the same sign planes and scales: what ``unpack`` gives.

        Its weight is not the trained one, which is gone; the function is that of this layer.

        Raises:
            CheckpointError: no weight gives the method's sign planes again.
        """
        dtype, device = self.h.dtype, self.h.device
        spec = LayerSpec.from_dict(self.spec, "packed layer")
        planes = self.to_sign_planes()
        linear = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device=device, dtype=dtype
        )
        layer = spec.quantize(linear)
        layer.norm.load_state_dict(self.norm.state_dict())
        for name in (*self._parameters_of_layer(), "h"):
            parameter = getattr(layer, name, None)
            if parameter is not None:
                parameter.copy_(getattr(self, name))
        layer.from_sign_planes(planes)
        if not torch.equal(layer.to_sign_planes().q.to(planes.q.dtype), planes.q):
            raise CheckpointError(
                f"unpacking: the signs of a {layer.METHOD} layer of {self.out_features} x "
                f"{self.in_features} cannot be made from a weight again; keep the checkpoint that "
                "was packed"
            )
        return layer.train(self.training)

    def description(self) -> dict[str, Any]:
        """The arguments that make an equal layer to load the state into: plain data."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "spec": self.spec,
            "planes": self.planes,
        }

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}signs"] = self._rows()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        key = f"{prefix}signs"
        rows = state_dict.get(key)
        expected = (self.planes * self.out_features, -(-self.in_features // 8))
        if rows is not None and (rows.dtype != torch.uint8 or tuple(rows.shape) != expected):
            errors.append(
                f"{key}: found {rows.dtype} of {tuple(rows.shape)}, expected packed "
                f"signs, uint8 of {expected}"
            )
            rows = None
        state_dict = {name: value for name, value in state_dict.items() if name != key}
        if rows is not None:
            # Into the memory that is there: new memory between what preparing needs for a while
            # would leave holes, three times the size of a whole model.
            signs = self._prepared(rows.to(self.h.device))
            fits = signs.shape == self.signs.shape and signs.dtype == self.signs.dtype
            self.signs = self.signs.copy_(signs) if fits else signs
        # The parent compares every entry with what is held: hand it the form that it knows.
        state_dict[key] = self.signs
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        if rows is None and not errors:
            missing.append(key)
        self._refresh()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.signs.device
        super()._apply(fn, recurse)
        device = self.h.device
        if device != before:
            rows = None if before.type == "meta" else self._rows()
            self.backend = kernels.choose(device, self._requested_backend)
            if rows is None:  # nothing to take along; a state will be loaded
                size = self.planes * self.out_features, self.in_features
                self.signs = kernels.blank(*size, self.backend, device)
            else:
                self.signs = self._prepared(rows)
        self._refresh()
        return self

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"method={self.method.METHOD}, planes={self.planes}, backend={self.backend}"
        )
