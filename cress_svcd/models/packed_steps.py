"""Decoder layers whose projections are packed, one step in few launches (``kernels.gpu_whole``).

What a step of few rows takes is its number of kernels, not what they compute.  Layer norms,
activations and residuals are part of the products here, and query, key and value are one product:
ten kernels a layer where plain modules launch eighteen.
"""

from typing import Callable, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq.modules import gelu

from cress_svcd.kernels import gpu, gpu_rows, gpu_whole
from cress_svcd.quantization.packing import PackedLinear

ACTIVATIONS: dict[Callable, int] = {F.relu: gpu_whole.RELU, gelu: gpu_whole.GELU}


class _Product:
    """One projection, or several side by side, with the norm before them."""

    def __init__(self, layers: list[PackedLinear], norm: nn.LayerNorm | None = None) -> None:
        operands = [layer.kernel_operands() for layer in layers]
        self.signs, self.g, self.h, self.bias = (
            values[0] if len(layers) == 1 else _stacked(values) for values in zip(*operands)
        )
        self.parts = len(layers)
        self.norm = norm and gpu_whole.Norm(norm.weight.detach(), norm.bias.detach(), norm.eps)

    def __call__(
        self, x: Tensor, activation: int = gpu_whole.NONE, residual: Tensor | None = None
    ) -> Tensor:
        return gpu_whole.sign_matmul(
            x.contiguous(), self.signs, self.g, self.h, self.bias, parts=self.parts, norm=self.norm,
            activation=activation, residual=residual,
        )  # fmt: skip


def _stacked(values: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if values[0] is None else torch.cat(values)


class PackedStep:
    """The products of a decoder layer, for at most ``gpu_whole.MOST_ROWS`` rows; ``of`` makes it.

    It holds the projections of one input stacked, a copy of their bits: weights must not change.
    """

    def __init__(self, layer: nn.Module) -> None:
        own, other = layer.self_attn, layer.encoder_attn
        self.own = _Product([own.q_proj, own.k_proj, own.v_proj], layer.self_attn_layer_norm)
        self.own_out = _Product([own.out_proj])
        self.other = _Product([other.q_proj], layer.encoder_attn_layer_norm)
        self.other_out = _Product([other.out_proj])
        self.first = _Product([layer.fc1], layer.final_layer_norm)
        self.second = _Product([layer.fc2])
        self.activation = ACTIVATIONS[layer.activation_fn]

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """None where modules must do it one by one."""
        own, other = layer.self_attn, layer.encoder_attn
        projections = [
            own.q_proj, own.k_proj, own.v_proj, own.out_proj, other.q_proj, other.out_proj,
            layer.fc1, layer.fc2,
        ]  # fmt: skip
        norms = [layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm]
        together = [projection.kernel_operands() if isinstance(projection, PackedLinear) else None
                    for projection in projections]  # fmt: skip
        if (
            not layer.normalize_before
            or layer.activation_fn not in ACTIVATIONS
            or any(type(norm) is not nn.LayerNorm or norm.bias is None for norm in norms)
            or norms[0].weight.dtype not in gpu_rows.TYPES
            or any(operands is None for operands in together)
            or own.q_proj.out_features % gpu_whole.OUTPUTS[-1]
            or not all(gpu.is_for(signs) for signs, *_ in together)
            or not all(gpu_whole.fits(1, projection.in_features, projection.signs.device)
                       for projection in projections)
        ):  # fmt: skip
            return None
        vectors = [[operand is None for operand in operands] for operands in together[:3]]
        sizes = {projection.out_features for projection in projections[:3]}
        return cls(layer) if len(sizes) == 1 and vectors[0] == vectors[1] == vectors[2] else None

    def __call__(self, past: Callable, source: Callable, x: Tensor) -> Tensor:
        """The layer's output for a step.

        Args:
            past: query, key and value (rows x C each) → what rows find in their own past.
            source: query → what they find in the encoder's states.
            x: rows x C.
        """
        x = self.own_out(past(*self.own(x).chunk(3, dim=-1)), residual=x)
        x = self.other_out(source(self.other(x)), residual=x)
        return self.second(self.first(x, self.activation), residual=x)
