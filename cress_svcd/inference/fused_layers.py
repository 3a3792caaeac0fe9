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
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
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

ACTIVATIONS: dict[Callable, int] = {
    F.relu: dispatch.RELU,
    gelu: dispatch.GELU,
    F.gelu: dispatch.GELU,
}


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


def _around(norms: list[nn.LayerNorm], pre_norm: bool) -> tuple[list, nn.LayerNorm | None]:
    """The norm before each block, and the one after the last: each follows its block's residual
    connection or comes first in the block."""
    return (norms, None) if pre_norm else ([None, *norms[:-1]], norms[-1])


class LayerProducts:
    """The products of a transformer layer, and whether the dispatch table runs them fused.

    Attributes:
        blocks: the layer's, in their order.
        entering, leaving: a block's projections of its input, and the one of its output.
        channels: of the layer's input.
    """

    def __init__(self, layer: nn.Module, blocks: list[DecoderBlock], pre_norm: bool) -> None:
        self.blocks, self.pre_norm, self.activation = blocks, pre_norm, layer.activation_fn
        self.entering, self.leaving = zip(*map(_projections, blocks), strict=True)
        self.channels = self.entering[0][0].in_features

    @classmethod
    def of_decoder(cls, layer: nn.Module) -> Self:
        """Of a decoder layer of fairseq's Transformer or of DeltaLM."""
        return cls(layer, decoder_blocks(layer), layer.normalize_before)

    @classmethod
    def of_encoder(cls, layer: nn.Module) -> Self | None:
        """Of an encoder layer, fairseq's or HuBERT's; None for one that computes otherwise."""
        hubert = type(layer) is TransformerSentenceEncoderLayer
        if not hubert and (
            not isinstance(layer, TransformerEncoderLayerBase)
            or type(layer).forward is not TransformerEncoderLayerBase.forward
        ):
            return None
        attention = layer.self_attn
        if type(attention) is not CallingAttention or not attention.is_plain:
            return None
        blocks = [
            SelfAttention(attention, layer.self_attn_layer_norm),
            FeedForward(layer.fc1, layer.fc2, layer.final_layer_norm),
        ]
        return cls(layer, blocks, layer.layer_norm_first if hubert else layer.normalize_before)

    def kernel_call(self, x: Tensor) -> tuple[str, tuple[Tensor, dispatch.FusedLayer]]:
        """See ``kernels.explain``; of x (..., channels) only the device and type count."""
        norms = [block.norm for block in self.blocks]
        projections = [each for group in (*self.entering, *self.leaving) for each in group]
        return "fused_layer", (
            x,
            dispatch.FusedLayer(
                are_products=all(map(_is_product, projections)),
                lie_together=all(map(_lie_together, self.entering)),
                activation=ACTIVATIONS.get(self.activation),
                has_layer_norms=all(
                    type(norm) is nn.LayerNorm and norm.bias is not None for norm in norms
                ),
                width=max(projection.in_features for projection in projections),
            ),
        )

    def run_fused(self) -> bool:
        """What the table says for inputs like the layer's weights."""
        operation, deciding = self.kernel_call(self.blocks[0].norm.weight)
        return dispatch.implementation(operation, *deciding).run is not None


def products_of(module: nn.Module) -> LayerProducts | None:
    """Of a layer that CUDA graphs may run fused; None for any other module."""
    if isinstance(module, TransformerDecoderLayerBase):
        return LayerProducts.of_decoder(module)
    return LayerProducts.of_encoder(module)


def _projections(block: DecoderBlock) -> tuple[list[nn.Module], list[nn.Module]]:
    """Those of the block's input, and the one of its output; of a step, in a decoder."""
    if isinstance(block, FeedForward):
        return [block.first], [block.second]
    attention = block.attention
    inner = [attention.q_proj]
    if isinstance(block, SelfAttention):  # the source's keys and values are projected once
        inner += [attention.k_proj, attention.v_proj]
    return inner, [attention.out_proj]


def _is_product(projection: nn.Module) -> bool:
    return isinstance(projection, PackedLinear) and projection.kernel_operands() is not None


def _lie_together(projections: list[nn.Module]) -> bool:
    """Whether they can be one product."""
    if len(projections) == 1:
        return True
    if not all(map(_is_product, projections)):
        return False
    sizes = {projection.out_features for projection in projections}
    scales = {
        tuple(operand is None for operand in projection.kernel_operands())
        for projection in projections
    }
    return len(sizes) == len(scales) == 1 and not sizes.pop() % dispatch.FUSED_OUTPUTS


class _FusedLayer:
    """A layer's products, with what stands around them.

    It holds the projections of one input stacked, a copy of their bits: weights must not change.
    """

    def __init__(self, products: LayerProducts) -> None:
        norms = [block.norm for block in products.blocks]
        before, self.last = _around(norms, products.pre_norm)
        self.activation = ACTIVATIONS[products.activation]
        self.blocks = []
        parts = zip(products.blocks, before, products.entering, products.leaving, strict=True)
        for block, norm, first, second in parts:
            # A residual connection of a post-norm layer starts after the norm.
            entering = _Product(first, norm, keeps=not products.pre_norm)
            self.blocks.append((block, entering, _Product(second)))

    def run(self, attend: Callable[[DecoderBlock, Tensor], Tensor], x: Tensor) -> Tensor:
        """The layer's output for x; ``attend``: a block and its projections → what it finds."""
        for block, enter, leave in self.blocks:
            if isinstance(block, FeedForward):
                inner, x = enter.enter(x, self.activation)
            else:
                projected, x = enter.enter(x)
                inner = attend(block, projected)
            x = leave(inner, residual=x)
        return x if self.last is None else self.last(x)


class FusedDecoderLayer(_FusedLayer):
    """A decoder layer, for a step; ``of`` makes it."""

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """None where modules must do it one by one."""
        products = LayerProducts.of_decoder(layer)
        return cls(products) if products.run_fused() else None

    def __call__(self, past: Callable, source: Callable, x: Tensor) -> Tensor:
        """The layer's output for a step, for x (rows, channels).

        Args:
            past: query, key and value (rows, channels) → what rows find in their own past.
            source: query → what they find in the encoder's states.
        """

        def attend(block: DecoderBlock, projected: Tensor) -> Tensor:
            is_self = isinstance(block, SelfAttention)
            return past(*projected.chunk(3, dim=-1)) if is_self else source(projected)

        return self.run(attend, x)


class FusedEncoderLayer(_FusedLayer):
    """An encoder layer, fairseq's or HuBERT's; ``of`` makes it."""

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """None where modules must do it one by one."""
        products = LayerProducts.of_encoder(layer)
        return cls(products) if products is not None and products.run_fused() else None

    def __call__(self, x: Tensor, added: Tensor | None) -> Tensor:
        """The layer's output for x (time, batch, channels).

        Args:
            added: to the scores of attention, as ``attention.added_to_scores`` makes it.
        """

        def attend(block: DecoderBlock, projected: Tensor) -> Tensor:
            return block.attention.mix(*projected.chunk(3, dim=-1), added)

        return self.run(attend, x)
