"""Transformer layers whose projections are packed, in few launches (``dispatch.fused_sign_gemm``).

At small M a layer's time is its number of kernels, not what they compute.  Layer norms, activations
and residuals are part of the products here, and query, key and value are one product: ten kernels a
step of a decoder's layer where plain modules launch eighteen.
"""

from collections.abc import Callable
from typing import Self

import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer
from fairseq.modules import gelu
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.kernels import dispatch
from cress_svcd.models.attention import CallingAttention
from cress_svcd.models.decoder_blocks import (
    DecoderBlock,
    FeedForward,
    SelfAttention,
    decoder_blocks,
)
from cress_svcd.quantization.packed_linear import PackedLinear

ACTIVATIONS: dict[Callable, int] = {F.relu: dispatch.RELU, gelu: dispatch.GELU}


class _Product:
    """One projection, or several side by side, with the norm before them."""

    def __init__(
        self,
        layers: list[PackedLinear],
        norm: nn.LayerNorm | None = None,
        keeps: bool = False,
    ) -> None:
        """``keeps``: a residual connection takes what comes after the norm."""
        operands = [layer.kernel_operands() for layer in layers]
        self.signs, self.g, self.h, self.bias = (
            values[0] if len(layers) == 1 else _stacked(values) for values in zip(*operands)
        )
        self.num_projections = len(layers)
        self.norm = norm and dispatch.Norm(norm.weight.detach(), norm.bias.detach(), norm.eps)
        self.keeps = keeps and norm is not None

    def __call__(self, x: Tensor, activation: int = dispatch.NONE, **around: Tensor) -> Tensor:
        """``around``: dense tensors, as ``dispatch.fused_sign_gemm`` takes them."""
        return dispatch.fused_sign_gemm(
            x.contiguous(),
            self.signs,
            self.g,
            self.h,
            self.bias,
            num_projections=self.num_projections,
            norm=self.norm,
            activation=activation,
            **around,
        )

    def enter(self, x: Tensor, activation: int = dispatch.NONE) -> tuple[Tensor, Tensor]:
        """The product of x, and what the residual connection around it takes, dense."""
        x = x.contiguous()
        if not self.keeps:
            return self(x, activation), x
        normed = torch.empty_like(x)
        return self(x, activation, normed=normed), normed


def _stacked(values: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if values[0] is None else torch.cat(values)


def _are_products(
    projections: list[nn.Module], norms: list[nn.Module], activation: Callable
) -> bool:
    """Whether a layer is these 8-bit products, norms and activation, all where Triton computes."""
    operands = [
        projection.kernel_operands() if isinstance(projection, PackedLinear) else None
        for projection in projections
    ]
    return (
        activation in ACTIVATIONS
        and all(type(norm) is nn.LayerNorm and norm.bias is not None for norm in norms)
        and norms[0].weight.dtype in dispatch.FUSED_TYPES
        and all(layer is not None and dispatch.is_on_gpu(layer[0]) for layer in operands)
        and max(projection.in_features for projection in projections) <= dispatch.FUSED_WIDEST
    )


def _lie_together(projections: list[PackedLinear]) -> bool:
    """Whether they can be one product."""
    sizes = {projection.out_features for projection in projections}
    scales = {
        tuple(operand is None for operand in projection.kernel_operands())
        for projection in projections
    }
    return len(sizes) == len(scales) == 1 and not sizes.pop() % dispatch.FUSED_OUTPUTS


def _around(norms: list[nn.LayerNorm], pre_norm: bool) -> tuple[list, nn.LayerNorm | None]:
    """The norm before each block, and the one after the last: each follows its block's residual
    connection or comes first in the block."""
    return (norms, None) if pre_norm else ([None, *norms[:-1]], norms[-1])


class FusedDecoderLayer:
    """The products of a decoder layer, for a step; ``of`` makes it.

    It holds the projections of one input stacked, a copy of their bits: weights must not change.
    """

    def __init__(self, layer: nn.Module) -> None:
        blocks = decoder_blocks(layer)
        norms, self.last = _around([block.norm for block in blocks], layer.normalize_before)
        self.activation = ACTIVATIONS[layer.activation_fn]
        self.blocks = []
        for block, norm in zip(blocks, norms, strict=True):
            first, second = _projections(block)
            # A residual connection of a post-norm layer starts after the norm.
            entering = _Product(first, norm, keeps=not layer.normalize_before)
            self.blocks.append((block, entering, _Product(second)))

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """None where modules must do it one by one."""
        blocks = decoder_blocks(layer)
        entering, leaving = zip(*map(_projections, blocks), strict=True)
        projections = [projection for group in (*entering, *leaving) for projection in group]
        norms = [block.norm for block in blocks]
        fits = _are_products(projections, norms, layer.activation_fn)
        together = fits and all(len(inner) == 1 or _lie_together(inner) for inner in entering)
        return cls(layer) if together else None

    def __call__(self, past: Callable, source: Callable, x: Tensor) -> Tensor:
        """The layer's output for a step, for x (rows, channels).

        Args:
            past: query, key and value (rows, channels) → what rows find in their own past.
            source: query → what they find in the encoder's states.
        """
        for block, enter, leave in self.blocks:
            if isinstance(block, FeedForward):
                inner, x = enter.enter(x, self.activation)
            else:
                projected, x = enter.enter(x)
                is_self = isinstance(block, SelfAttention)
                inner = past(*projected.chunk(3, dim=-1)) if is_self else source(projected)
            x = leave(inner, residual=x)
        return x if self.last is None else self.last(x)


def _projections(block: DecoderBlock) -> tuple[list[nn.Module], list[nn.Module]]:
    """Of a step: those of the block's input, and the one of its output."""
    if isinstance(block, FeedForward):
        return [block.first], [block.second]
    attention = block.attention
    inner = [attention.q_proj]
    if isinstance(block, SelfAttention):  # the source's keys and values are projected once
        inner += [attention.k_proj, attention.v_proj]
    return inner, [attention.out_proj]


def _feed_forward(first: _Product, second: _Product, activation: int, x: Tensor) -> Tensor:
    inner, x = first.enter(x, activation)
    return second(inner, residual=x)


class FusedEncoderLayer:
    """The products of an encoder layer, fairseq's or HuBERT's; ``of`` makes it.

    As ``FusedDecoderLayer`` it holds copies: weights must not change.
    """

    def __init__(self, layer: nn.Module) -> None:
        attention, pre_norm = layer.self_attn, _is_pre_norm(layer)
        norms = [layer.self_attn_layer_norm, layer.final_layer_norm]
        (to_attention, to_first), self.last = _around(norms, pre_norm)
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.attention = _Product(projections, to_attention)
        self.mix = attention.mix
        self.out = _Product([attention.out_proj])
        self.final = _Product([layer.fc1], to_first, not pre_norm), _Product([layer.fc2])
        self.activation = ACTIVATIONS[layer.activation_fn]

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """None where modules must do it one by one."""
        if type(layer) is not TransformerSentenceEncoderLayer and (
            not isinstance(layer, TransformerEncoderLayerBase)
            or type(layer).forward is not TransformerEncoderLayerBase.forward
        ):
            return None
        attention = layer.self_attn
        if type(attention) is not CallingAttention or not attention.is_plain:
            return None
        inner = [attention.q_proj, attention.k_proj, attention.v_proj]
        projections = [*inner, attention.out_proj, layer.fc1, layer.fc2]
        norms = [layer.self_attn_layer_norm, layer.final_layer_norm]
        fits = _are_products(projections, norms, layer.activation_fn) and _lie_together(inner)
        return cls(layer) if fits else None

    def __call__(self, x: Tensor, added: Tensor | None) -> Tensor:
        """The layer's output for x (time, batch, channels).

        Args:
            added: to the scores of attention, as ``attention.added_to_scores`` makes it.
        """
        projected, x = self.attention.enter(x)
        x = self.out(self.mix(*projected.chunk(3, dim=-1), added), residual=x)
        x = _feed_forward(*self.final, self.activation, x)
        return x if self.last is None else self.last(x)


def _is_pre_norm(layer: nn.Module) -> bool:
    hubert = isinstance(layer, TransformerSentenceEncoderLayer)
    return layer.layer_norm_first if hubert else layer.normalize_before
