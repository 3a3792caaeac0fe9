"""From a quantised model's tensors to packed ones and back.

Packing and unpacking are done on the tensors of a checkpoint alone: neither needs the model, its
data or its code.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.inference.int8_modules import dequantize_rows, quantize_rows
from cress_svcd.inference.low_bits import to_bit_planes, widen
from cress_svcd.models.ties import tie_equal
from cress_svcd.quantization.low_bit_grid import (
    FRONT_END_PROJECTION,
    TABLES,
    LowBits,
    quantize_low,
    quantize_trained,
)
from cress_svcd.quantization.packed_linear import PackedLinear
from cress_svcd.quantization.policy import LayerSpec

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Only a loss and transcripts need it, and it is as large as an embedding.
CTC_HEAD = "encoder.ctc_head."
STEP = "log2_step"  # of a module that was trained at few bits
UNINITIALISED = "._float_tensor"  # buffers that older fairseq never fills

Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Precision:
    """How what is not packed is stored.

    Attributes:
        dtype: a key of DTYPES, for all that follows no other rule, the packed layers' scales too.
        int8_embeddings: embeddings and output projection in int8.
        int8_convolutions: the speech encoder's and the subsampler's convolutions in int8, and the
            projection between the speech encoder's convolutions and its transformer.
        bf16_convolutions: they are computed in bf16 where the processor has instructions for it.
        keep_ctc_head: it stays, as embeddings are stored; transcripts need it.
        low_bits: fewer than 8 bits for some of them, see ``low_bits``.
    """

    dtype: str = "fp16"
    int8_embeddings: bool = False
    int8_convolutions: bool = False
    bf16_convolutions: bool = False
    keep_ctc_head: bool = False
    low_bits: LowBits = LowBits()

    def bits_of_convolution(self, name: str) -> int | None:
        """Of the integers that hold the convolution ``name``; None: ``dtype`` holds it."""
        return self.low_bits.of_convolution(name) or (8 if self.int8_convolutions else None)

    def bits_of_table(self, name: str) -> int | None:
        """The same for the table or projection ``name``."""
        last = name.rpartition(".")[2]
        if last not in (*TABLES, FRONT_END_PROJECTION):
            return None
        is_table = last != FRONT_END_PROJECTION
        in_int8 = self.int8_embeddings if is_table else self.int8_convolutions
        return self.low_bits.of_table(name) or (8 if in_int8 else None)


def pack_tensors(
    tensors: Mapping[str, Tensor],
    layers: Mapping[str, Mapping[str, Any]],
    precision: Precision = Precision(),
) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a packed model, and the description from which ``build_packed`` makes it.

    Args:
        tensors: of the quantised model, by name.
        layers: its ``quantization_map``.
    Returns:
        The tensors, those of equal bytes tied, and plain data: ``layers`` (name ->
        ``PackedLinear.description``), ``tables`` (names of int8 embeddings and projections),
        ``convolutions`` (name -> ``dtype``; ``compute`` in that type, or null; ``weight_norm``: the
        dimension of a weight normalisation that was multiplied out, or null), ``dtype``; where
        there are any of fewer than 8 bits ``low_bits`` (name -> ``bits``, ``shape``).
    Raises:
        CheckpointError: tensors are missing, or a weight is broken.
        ConfigError: a layer cannot be packed, or the precision cannot hold the model.
    """
    left_out = () if precision.keep_ctc_head else (CTC_HEAD,)
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    rest = tie_equal(rest)
    packed: Tensors = {}
    described: dict[str, Any] = {}
    layers = {name: spec for name, spec in layers.items() if not f"{name}.".startswith(left_out)}
    for name, spec in tqdm(layers.items(), desc="packing", unit="layer", disable=None):
        own = _take(rest, name)
        try:
            layer = _packed_layer(own, spec, DTYPES[precision.dtype])
        except (CheckpointError, ConfigError, RuntimeError) as error:
            kind = type(error) if not isinstance(error, RuntimeError) else CheckpointError
            raise kind(f"{name}: {error}") from None
        described[name] = layer.description()
        packed |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    low_bits: dict[str, Any] = {}
    convolutions = _pack_convolutions(rest, packed, precision, low_bits)
    tables = _pack_tables(rest, packed, precision, low_bits)
    stored = _once(lambda tensor: tensor.detach().clone().to(DTYPES[precision.dtype]))
    for name, tensor in rest.items():
        if name.endswith(UNINITIALISED):
            packed[name] = torch.zeros(tensor.shape)
        else:
            packed[name] = stored(tensor) if tensor.is_floating_point() else tensor.clone()
    _require_finite(packed, precision.dtype)
    _own_memory(packed)
    return packed, {
        "layers": described,
        "tables": tables,
        "convolutions": convolutions,
        "dtype": precision.dtype,
        **({"low_bits": low_bits} if low_bits else {}),
    }


def _trained_step(name: str, scale: Tensor | None, description: Mapping[str, Any]) -> Tensors:
    """The step of a module that was trained at few bits, from the scale in a packed file."""
    how = description.get("low_bits", {}).get(name, {})
    if scale is None or not how.get("trained"):
        return {}
    return {f"{name}.{STEP}": (2 * scale.float()).log2()}


def _take(tensors: Tensors, name: str) -> Tensors:
    """Remove the tensors of the module ``name`` and return them by their names in it."""
    prefix = f"{name}."
    found = [key for key in tensors if key.startswith(prefix)]
    return {key.removeprefix(prefix): tensors.pop(key) for key in found}


def _packed_layer(own: Tensors, spec: Mapping[str, Any], dtype: torch.dtype) -> PackedLinear:
    """The packed form of a quantised layer with these tensors."""
    weight = own.get("weight")
    if weight is None or weight.dim() != 2:
        raise CheckpointError(
            "the quantization map names a layer here, but the checkpoint holds no such weight; "
            "its map and its tensors do not belong together"
        )
    linear = nn.Linear(weight.shape[1], weight.shape[0], "bias" in own, device="meta")
    # Float32 whatever the checkpoint has: as the model computes on the CPU.
    layer = LayerSpec.from_dict(spec, "quantization map").quantize(linear).to_empty(device="cpu")
    layer.load_state_dict(own)
    # The storage form is the same in every back end; this one needs no conversion.
    return PackedLinear.from_layer(layer.eval(), dtype=dtype, backend="reference")


def _pack_convolutions(
    rest: Tensors, packed: Tensors, precision: Precision, low_bits: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Move the convolutions of ``rest`` to ``packed``; all stay in fp32 unless asked for less."""
    suffixes = (".weight", ".weight_v")
    names = dict.fromkeys(
        key.rpartition(".")[0] for key in rest if key.endswith(suffixes) and rest[key].dim() == 3
    )
    described = {}
    for name in names:
        bits = precision.bits_of_convolution(name)
        dtype = torch.int8 if bits else DTYPES[precision.dtype]
        if dtype == torch.float32 and not precision.bf16_convolutions:
            continue
        own, norm = _take(rest, name), None
        weight = own.get("weight")
        if weight is None:
            norm = _normalised_dimension(own["weight_g"])
            weight = torch._weight_norm(own["weight_v"].float(), own["weight_g"].float(), norm)
        if bits:
            step = own.get(STEP)
            packed[f"{name}.weight"], packed[f"{name}.scale"] = _quantize(weight, bits, step)
            _describe_low(low_bits, name, weight, bits, step)
        else:
            packed[f"{name}.weight"] = weight.detach().to(dtype)
        if "bias" in own:
            packed[f"{name}.bias"] = own["bias"].detach().to(DTYPES[precision.dtype])
        described[name] = {
            "dtype": str(dtype).removeprefix("torch."),
            "compute": "bfloat16" if precision.bf16_convolutions else None,
            "weight_norm": norm,
        }
    return described


def _normalised_dimension(gains: Tensor) -> int:
    """The dimension along which the gains of a weight normalisation run."""
    return max(range(gains.dim()), key=lambda dimension: gains.shape[dimension])


def _quantize(weight: Tensor, bits: int, step: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a file holds of ``weight`` (rows x ...), by its trained ``step`` where there is one:
    int8 or bit planes, and the scales."""
    if bits == 8:
        return quantize_rows(weight)
    q, scale = quantize_low(weight, bits) if step is None else quantize_trained(weight, bits, step)
    return to_bit_planes(q, bits), scale


def _describe_low(
    low_bits: dict[str, Any], name: str, weight: Tensor, bits: int, step: Tensor | None
) -> None:
    if bits < 8:
        trained = {} if step is None else {"trained": True}
        low_bits[name] = {"bits": bits, "shape": list(weight.shape), **trained}


def _pack_tables(
    rest: Tensors, packed: Tensors, precision: Precision, low_bits: dict[str, Any]
) -> list[str]:
    """Move the tables of ``rest`` that are to be integers to ``packed``."""
    names = {
        name: bits
        for name, dot, key in (key.rpartition(".") for key in rest)
        if dot and key == "weight" and (bits := precision.bits_of_table(name))
    }
    # What shares a weight shares its steps.
    steps = {
        rest[f"{name}.weight"].data_ptr(): rest.pop(f"{name}.{STEP}")
        for name in names
        if f"{name}.{STEP}" in rest
    }

    def quantize(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        return _quantize(weight, bits, steps.get(weight.data_ptr()))

    by_bits = {bits: _once(functools.partial(quantize, bits=bits)) for bits in set(names.values())}
    for name, bits in names.items():
        weight = rest.pop(f"{name}.weight")
        packed[f"{name}.weight"], packed[f"{name}.scale"] = by_bits[bits](weight)
        _describe_low(low_bits, name, weight, bits, steps.get(weight.data_ptr()))
    return list(names)


def _once(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """``function`` with one result for tensors that are the same memory, so that ties stay."""
    results: dict[tuple, Any] = {}
    alive: list[Tensor] = []  # or another tensor might be given the memory of one that is gone

    def apply(tensor: Tensor) -> Any:
        key = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if not tensor.numel():
            return function(tensor)
        if key not in results:
            alive.append(tensor)
            results[key] = function(tensor)
        return results[key]

    return apply


def _own_memory(tensors: Tensors) -> None:
    """Part them from larger ones that they are views of: a file would hold those whole."""
    copy = _once(torch.clone)
    for name, tensor in tensors.items():
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            tensors[name] = copy(tensor)


def _require_finite(packed: Tensors, dtype: str) -> None:
    for name, tensor in packed.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ConfigError(
                f"{name}: holds NaN or infinity as {dtype}; if the checkpoint itself is sound, its "
                "values are too large: pack with --dtype bf16 or fp32"
            )


# Unpacking


def unpack_tensors(
    packed: Mapping[str, Tensor], description: Mapping[str, Any]
) -> tuple[Tensors, dict[str, Any]]:
    """Float32 tensors that the quantised arch loads, and the ``quantization_map``.

    Sign weights, scales and everything else are those of the packed model: so is the translation.
    The latent weights are not the trained ones, which are gone (``PackedLinear.to_layer``).

    Raises:
        CheckpointError: no weight gives the sign weights of a layer again.
    """
    rest = widen(packed, description.get("low_bits", {}))
    tensors: Tensors = {}
    quantization_map = {}
    layers = description["layers"]
    for name, arguments in tqdm(layers.items(), desc="unpacking", unit="layer", disable=None):
        layer = PackedLinear(**arguments, backend="reference")
        try:
            layer.load_state_dict(_take(rest, name))
            state = layer.to_layer().state_dict()
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from None
        except RuntimeError as error:  # of load_state_dict
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{name}: its tensors are not those of the layer that the description names "
                f"({reason:.300}); the file is damaged: copy it again, or pack the checkpoint again"
            ) from None
        tensors |= {f"{name}.{key}": value for key, value in state.items()}
        quantization_map[name] = dict(arguments["spec"])
    for name, how in description["convolutions"].items():
        own = _take(rest, name)
        weight = dequantize_rows(own["weight"], own["scale"]) if "scale" in own else own["weight"]
        if how["weight_norm"] is None:
            tensors[f"{name}.weight"] = weight.float()
        else:
            tensors[f"{name}.weight_v"] = weight.float()
            norm = torch.norm_except_dim(weight.float(), 2, how["weight_norm"])
            tensors[f"{name}.weight_g"] = norm
        if "bias" in own:
            tensors[f"{name}.bias"] = own["bias"].float()
        tensors |= _trained_step(name, own.get("scale"), description)
    scales = {name: rest.pop(f"{name}.scale") for name in description["tables"]}
    dense: dict[tuple, Tensor] = {}
    for name, scale in scales.items():
        q = rest.pop(f"{name}.weight")
        key = q.data_ptr(), q.shape
        if key not in dense:
            dense[key] = dequantize_rows(q, scale)
        tensors[f"{name}.weight"] = dense[key]
        tensors |= _trained_step(name, scale, description)
    full = _once(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    return tensors | {name: full(tensor) for name, tensor in rest.items()}, quantization_map
