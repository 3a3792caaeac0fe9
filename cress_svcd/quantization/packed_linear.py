"""Packed layers: a bit for each sign of a weight, for inference.

    pack_model(model, dtype=torch.float16)                # in place
    saved = {"layers": packed_map(model), "state": model.state_dict()}

    rebuild_packed(fresh_model, saved["layers"])
    fresh_model.load_state_dict(saved["state"])

A weight of every method is a sum of sign matrices, one for 1 bit, two for ternary, k for k bits
(``planes``), so one kernel serves all: the matrices are stacked as further rows, multiplied in one
call and added up.  What a method does around the product stays as in its layer.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd import kernels
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.quantization import svcd_paper
from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.convert import quantized_layers
from cress_svcd.quantization.fake_quant import autocast_dtype
from cress_svcd.quantization.methods.quest import rotated_input
from cress_svcd.quantization.methods.tbt import elastic_quantize
from cress_svcd.quantization.planes import (
    latent_weight,
    level_planes,
    levels_and_scale,
    plane_weights,
)
from cress_svcd.quantization.policy import LayerSpec

_EXACT = torch.float32  # what the kernels compute in


class PackedLinear(nn.Module):
    """The inference form of a trained quantised layer; ``from_layer`` makes it.

    State: ``signs`` (uint8, planes * out x ceil(in / 8), see ``kernels.pack_signs``), ``h`` (out,
    the scale of each row), and where the method has them ``g`` (in), ``bias`` (out), ``step`` (tbt)
    and the parameters of ``norm``.  In memory the signs are held once, in the form of the layer's
    back end; a state dict has the storage form whatever that is.  Vectors are changed by loading a
    state, not in place.

    Against the layer that was packed, in evaluation: 8-bit activations (per token) are rounded to
    the same levels and the product is the same integer.  16 bits, none, and activations that the
    method rounds in its own way (tbt, quest) pass through two planes of int8: a relative error of
    about 5e-5 (none on the back end "reference").

    Attributes:
        spec: method and settings of the layer, as in ``quantization_map``.
        planes: sign matrices in a weight, which is the bits that one takes.
        backend: one of ``kernels.BACKENDS``; chosen anew when the layer moves to another device.
    """

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
            dtype: of the vectors.
            backend: see ``kernels.choose``.

        Raises:
            ConfigError: an unknown method or setting, or a back end that cannot be used.
        """
        super().__init__()
        self.in_features, self.out_features, self.planes = in_features, out_features, planes
        self.spec = dict(spec)
        # The method's own layer, without memory: it knows its options and what they imply.
        template = LayerSpec.from_dict(self.spec, "packed layer").quantize(
            nn.Linear(in_features, out_features, bias, device="meta")
        )
        self.method, self.settings = template.METHOD, template.settings()
        if self.method == "tbt":
            self._level_range = template.level_range() if self.settings["activation_bits"] else None
        factory = {"device": torch.device("cpu" if device is None else device), "dtype": dtype}
        norm = template.norm.to_empty(device=factory["device"]).to(dtype)
        self.norm = norm.requires_grad_(False)
        self.register_buffer("h", torch.zeros(out_features, **factory))
        self.register_buffer("bias", torch.zeros(out_features, **factory) if bias else None)
        for name, size in (("g", in_features), ("step", 1)):
            has = name in template.vectors() and not (name == "step" and self.method != "tbt")
            self.register_buffer(name, torch.zeros(size, **factory) if has else None)
        self._requested_backend = backend
        self.backend = kernels.choose(factory["device"], backend)
        signs = kernels.blank(planes * out_features, in_features, self.backend, factory["device"])
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
            dtype: of the vectors (default: the weight's own).

        Raises:
            ConfigError: the method is not known here, or a schedule still mixes in full precision.
            CheckpointError: the weight is broken (NaN or infinity).
        """
        if layer.mix < 1:
            raise ConfigError(
                f"packing: the layer is still mixed with its full-precision self (mix "
                f"{layer.mix:.2f}); set_progress(model, 1) ends the schedule"
            )
        levels, scale = levels_and_scale(layer)
        planes = level_planes(levels)
        packed = cls(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            LayerSpec(layer.METHOD, layer.settings()).to_dict(),
            len(planes),
            dtype=dtype or layer.weight.dtype,
            backend=backend,
            device=layer.weight.device,
        )
        packed.norm.load_state_dict(layer.norm.state_dict())
        packed.h.copy_(scale)
        for name in ("g", "bias", "step"):
            if getattr(packed, name) is not None:
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
        self._published = self.settings.get("variant") == "paper"
        self._output_norm = bool(self.settings.get("output_norm"))
        one = self.planes == 1
        h = torch.ones_like(self.h, dtype=_EXACT) if self._published else self.h.to(_EXACT)
        weights = plane_weights(self.planes, self.method)
        if not (one and weights[0] == 1):  # else it is the buffer itself, no copy
            h = torch.cat([h * weight for weight in weights])
        self._operands = (
            None if self.g is None else self.g.to(_EXACT),
            None if self._published and one else h,
            self.bias.to(_EXACT) if self._bias_in_product() else None,
        )
        rounds = self.method not in ("tbt", "quest") and not self._published
        self._bits = self.settings["activation_bits"] if rounds else None
        self._is_done = one and not (self._published or self._output_norm)

    def _bias_in_product(self) -> bool:
        return self.bias is not None and self.planes == 1 and not self._output_norm

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output (... x out) for x (... x in), in x's type.

        Under autocast it has the type that the layer which was packed gives there.

        Raises:
            ValueError: x has another number of inputs.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x: found {tuple(x.shape)}, expected ... x {self.in_features}")
        lower = autocast_dtype(x)
        x = self._normalize(x)
        if lower is not None and self.method == "svcd":  # BitLinear lowers it before it rounds
            x = x.to(lower)
        y = kernels.sign_matmul(
            self._quantize_input(x),
            self._buffers["signs"],  # found at once: torch looks for an attribute elsewhere first
            self.planes * self.out_features,
            *self._operands,
            self._bits,
            checked=True,
        )
        y = y if self._is_done else self._finish(y)
        if lower is None:
            return y
        # These two scale after the product, by vectors that autocast leaves in float32.
        return y.to(_EXACT if self._published or self.method == "onebit" else lower)

    def kernel_operands(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None] | None:
        """Signs in storage form, g, h and bias, if the layer is one product of 8-bit levels with
        them and nothing else, and they lie there in this form; else None."""
        is_product = self._is_done and self._bits == 8 and self.settings["normalization"] == "none"
        is_stored = self.signs.dtype == torch.uint8 and self.signs.dim() == 2
        return (self.signs, *self._operands) if is_product and is_stored else None

    def _normalize(self, x: Tensor) -> Tensor:
        """The norm, whose vectors may be of another type than x, which torch's modules refuse."""
        kind = self.settings["normalization"]
        if kind == "none":
            return x
        shape, weight = (self.in_features,), self.norm.weight.to(x.dtype)
        if kind == "rmsnorm":
            return F.rms_norm(x, shape, weight, self.norm.eps)
        return F.layer_norm(x, shape, weight, self.norm.bias.to(x.dtype), self.norm.eps)

    def _quantize_input(self, x: Tensor) -> Tensor:
        """What a method does to the input itself; the operator does the rest."""
        bits = self.settings["activation_bits"]
        if self.method == "quest":
            return rotated_input(x, bits)
        if self.method == "tbt" and bits is not None:
            return elastic_quantize(x, self.step, bits, *self._level_range)
        return x

    def _finish(self, y: Tensor) -> Tensor:
        """Planes added up, then what the method does after the product."""
        if self.planes > 1:
            y = y.unflatten(-1, (self.planes, self.out_features)).sum(-2)
        if self._output_norm:
            y = F.layer_norm(y, (self.out_features,))
        if self.bias is not None and not self._bias_in_product():
            y = y + self.bias.to(y.dtype)
        if self._published:
            y = svcd_paper.quantize_groupwise(y, self.settings["num_groups"]) * self.h.to(y.dtype)
        return y

    def levels(self) -> Tensor:
        """The levels of the weight (out x in): sums of its sign matrices, without any scale."""
        rows = kernels.unpack_signs(self._rows(), self.in_features)
        weights = plane_weights(self.planes, self.method)
        return sum(plane * weight for plane, weight in zip(rows.chunk(self.planes), weights))

    @torch.no_grad()
    def to_layer(self) -> QuantLinear:
        """A layer of the method with the same codes, scales and vectors: what ``unpack`` gives.

        Its weight is not the trained one, which is gone; the function is that of this layer.

        Raises:
            CheckpointError: the method's codes cannot be told from a weight again.
        """
        dtype, device = self.h.dtype, self.h.device
        spec = LayerSpec.from_dict(self.spec, "packed layer")
        levels, scale = self.levels(), self.h.to(_EXACT)
        linear = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device=device, dtype=dtype
        )
        layer = spec.quantize(linear)
        layer.weight.copy_(latent_weight(layer, levels, scale))
        layer.norm.load_state_dict(self.norm.state_dict())
        for name, vector in layer.named_parameters(recurse=False):
            if name == "step" and self.method == "uniform":
                vector.copy_(self.h.unsqueeze(1))
            elif name != "weight":
                vector.copy_(getattr(self, name))
        if hasattr(layer, "clear_codes"):
            layer.clear_codes()
        again, _ = levels_and_scale(layer)
        if not torch.equal(again.to(levels.dtype), levels):
            raise CheckpointError(
                f"unpacking: the codes of a {self.method} layer of {self.out_features} x "
                f"{self.in_features} cannot be made from a weight again; keep the checkpoint that "
                "was packed"
            )
        return layer.train(self.training)

    def to_linear(self) -> nn.Linear:
        """The dense layer with the weight h * levels * g and the bias, for comparison.

        It leaves out what is not linear: norms and the rounding of activations.
        """
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        g = 1 if self.g is None else self.g.to(_EXACT)
        with torch.no_grad():
            linear.weight.copy_(self.h.to(_EXACT).unsqueeze(1) * self.levels() * g)
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear.to(self.h.device)

    def bits_per_weight(self) -> float:
        """Bits of the state, vectors included, over the number of weights."""
        bits = sum(8 * value.numel() * value.element_size() for value in self.state_dict().values())
        return bits / (self.in_features * self.out_features)

    def description(self) -> dict[str, Any]:
        """The arguments that make an equal layer to load the state into: plain data."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "spec": self.spec,
            "planes": self.planes,
        }

    def _save_to_state_dict(self, destination, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}signs"] = self._rows()

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
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

    def _apply(self, fn, recurse: bool = True) -> Self:
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
            f"method={self.method}, planes={self.planes}, backend={self.backend}"
        )


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """The packed layers of ``model`` by their first names."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)
    }


def pack_model(
    model: nn.Module, dtype: torch.dtype | None = None, backend: str | None = None
) -> list[str]:
    """Replace every quantised layer of ``model`` by its packed form, in place.

    Args:
        dtype: of the vectors (default: each weight's own).
        backend: see ``kernels.choose``.

    Returns:
        The names of the layers, in the model's order.

    Raises:
        ConfigError, CheckpointError: see ``PackedLinear.from_layer``; names the layer, and nothing
            has changed.
    """
    packed = {}
    for name, layer in quantized_layers(model).items():
        try:
            packed[name] = PackedLinear.from_layer(layer, dtype=dtype, backend=backend)
        except (CheckpointError, ConfigError) as error:
            raise type(error)(f"{name}: {error}") from None
    _replace(model, packed)
    return list(packed)


def unpack_model(model: nn.Module) -> list[str]:
    """The inverse of ``pack_model``, in place; see ``PackedLinear.to_layer``.

    Raises:
        CheckpointError: names the layer, and nothing has changed.
    """
    layers = {}
    for name, packed in packed_layers(model).items():
        try:
            layers[name] = packed.to_layer()
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from None
    _replace(model, layers)
    return list(layers)


def use_backend(model: nn.Module, backend: str | None) -> list[str]:
    """Let every packed layer of ``model`` compute with ``backend``; returns their names.

    So does any other module that has a ``use_backend``.

    Raises:
        ConfigError: see ``kernels.choose``.
    """
    for module in model.modules():
        if hasattr(module, "use_backend"):
            module.use_backend(backend)
    return list(packed_layers(model))


def packed_map(model: nn.Module) -> dict[str, dict[str, Any]]:
    """How each packed layer is made: plain data from which ``rebuild_packed`` makes it again."""
    return {name: layer.description() for name, layer in packed_layers(model).items()}


def rebuild_packed(
    model: nn.Module,
    layers: Mapping[str, Mapping[str, Any]],
    dtype: torch.dtype = _EXACT,
    backend: str | None = None,
    device: torch.device | None = None,
) -> None:
    """Give a full-precision ``model`` the packed layers of a ``packed_map``, to load a state into.

    Args:
        device: of the packed layers (default: of the layers that they replace).
    Raises:
        CheckpointError: the model has no linear layer of that name and size.
        ConfigError: a layer's method is not known here, or the back end cannot be used.
    """
    packed = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, data in layers.items():
        found = modules.get(name)
        sizes = data.get("out_features"), data.get("in_features")
        if not isinstance(found, nn.Linear) or (found.out_features, found.in_features) != sizes:
            what = "nothing" if found is None else repr(found)
            raise CheckpointError(
                f"packed layers: {name}: found {what} in the model, expected a linear layer of "
                f"{sizes[0]} x {sizes[1]}; build the model with the arch of the packed file first"
            )
        packed[name] = PackedLinear(
            **data, dtype=dtype, backend=backend, device=device or found.weight.device
        ).train(found.training)
    _replace(model, packed)


def _replace(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put ``layers`` in the place of the modules of these names, under all their names."""
    new = {id(model.get_submodule(name)): layer for name, layer in layers.items()}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in new:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, new[id(module)])
