"""What became of a model's layers, as plain data: sizes, bits and output errors."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.quantization.base import QuantLinear
from cress_svcd.quantization.convert import quantized_layers
from cress_svcd.quantization.low_bit_modules import LOW_BIT_MODULES

FULL_BITS = 16  # of a number that is not quantised, as stored for inference


@contextlib.contextmanager
def capture_inputs(
    model: nn.Module, names: Iterable[str] | None = None, max_rows: int = 1024
) -> Iterator[dict[str, Tensor]]:
    """Keep the inputs of layers while the block runs the model.

    Args:
        names: the layers; by default all quantised ones.
        max_rows: rows kept a layer, the first ones met (memory: layers x max_rows x in).

    Yields a dictionary that fills, in the order of the first calls, with tensors of rows x in,
    detached.  A layer that is never called is missing from it.
    """
    captured: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            earlier = captured.get(name)
            free = max_rows - (0 if earlier is None else len(earlier))
            if free > 0:
                rows = rows[:free].clone()
                captured[name] = rows if earlier is None else torch.cat([earlier, rows])

        return keep

    handles = [
        model.get_submodule(name).register_forward_pre_hook(keeper(name))
        for name in (quantized_layers(model) if names is None else names)
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def layer_rows(
    model: nn.Module,
    inputs: dict[str, Tensor] | None = None,
    reference: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """One dictionary a quantised layer, in the model's order.

    Keys: name, out_features, in_features, method, weight_bits, activation_bits (None: off),
    parameters (weights), vector_parameters (all else in the layer), bits (of the stored layer,
    scales in 16), full_bits (of the linear layer it replaced, in 16), and, for layers with
    ``inputs``, rows, relative_error and cosine of the output against full precision.

    Args:
        inputs: rows x in of real inputs by layer name (``capture_inputs``).
        reference: the full-precision model, layers under the same names; by default the layer's own
            latent weight, which is the trained one just after the conversion.
    """
    rows = []
    for name, layer in quantized_layers(model).items():
        row = {"name": name, **_sizes(layer)}
        if inputs is not None and name in inputs:
            against: Any = layer if reference is None else reference.get_submodule(name)
            row |= output_error(layer, against, inputs[name])
        rows.append(row)
    return rows


def _sizes(layer: QuantLinear) -> dict[str, Any]:
    weights = layer.weight.numel()
    biases = 0 if layer.bias is None else layer.bias.numel()
    scales = biases + sum(scale.numel() for scale in layer.scale_parameters().values())
    return {
        "out_features": layer.out_features,
        "in_features": layer.in_features,
        "method": layer.METHOD,
        "weight_bits": layer.weight_bits,
        "activation_bits": layer.activation_bits,
        "parameters": weights,
        "vector_parameters": scales,
        "bits": math.ceil(weights * layer.weight_bits) + FULL_BITS * scales,
        "full_bits": FULL_BITS * (weights + biases),
    }


@torch.no_grad()
def output_error(layer: QuantLinear, reference: nn.Linear, x: Tensor) -> dict[str, Any]:
    """How far the quantised output is from ``reference``'s weight and bias on ``x`` (rows x in).

    Returns rows, relative_error ||y - full|| / ||full|| and cosine over all entries; the last two
    are None where a norm is zero or not finite.
    """
    x = x.to(layer.weight.dtype)
    quantized = layer.quantized_forward(x).double()
    full = F.linear(x, reference.weight, reference.bias).double()
    norm, quantized_norm = full.norm(), quantized.norm()
    product = (full * quantized).sum()
    return {
        "rows": len(x),
        "relative_error": _finite((quantized - full).norm() / norm),
        "cosine": _finite(product / (norm * quantized_norm)),
    }


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def summary(model: nn.Module) -> dict[str, Any]:
    """Totals over the whole model: parameters, the quantised share, bits, compression.

    Keys: parameters, quantized_weights, quantized_layers, bits (scales and everything that is not
    quantised in 16), full_bits (all in 16), bits_per_weight (over the quantised layers, their
    scales included; None without any).  Modules of few bits (``low_bit_modules``) count in bits
    alone.  Parameters that several modules share count once.
    """
    rows = layer_rows(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(row["parameters"] for row in rows)
    scales = sum(row["vector_parameters"] for row in rows)
    bits = sum(row["bits"] for row in rows)
    added = sum(row["bits"] - row["full_bits"] for row in rows)
    low_bits = {
        id(module.log2_step): module  # of a table that several modules share, one
        for module in model.modules()
        if isinstance(module, LOW_BIT_MODULES)
    }
    steps = FULL_BITS * sum(module.log2_step.numel() for module in low_bits.values())
    added += steps - sum(
        (FULL_BITS - module.bits) * module.latent_weight().numel() for module in low_bits.values()
    )
    full_bits = (
        FULL_BITS * parameters
        - steps
        - sum(
            FULL_BITS * scale.numel()
            for layer in quantized_layers(model).values()
            for scale in layer.scale_parameters().values()
        )
    )
    return {
        "parameters": parameters,
        "quantized_layers": len(rows),
        "quantized_weights": weights,
        "vector_parameters": scales,
        "bits": full_bits + added,
        "full_bits": full_bits,
        "bits_per_weight": bits / weights if weights else None,
    }
