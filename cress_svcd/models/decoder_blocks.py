"""What a decoder layer consists of, said once for all who run it: residual blocks in their order.

Training runs them over whole sequences (fairseq's layer, ``deltalm.InterleavedDecoderLayer``),
translation step by step on CUDA graphs (``inference.cuda_graph_decoder``) or in few launches
(``inference.fused_layers``).
"""

from collections.abc import Callable
from typing import NamedTuple

from fairseq.modules import MultiheadAttention
from torch import Tensor, nn


class SelfAttention(NamedTuple):
    """A block of attention over the layer's own past."""

    attention: MultiheadAttention
    norm: nn.Module


class CrossAttention(NamedTuple):
    """A block of attention over the encoder's states."""

    attention: MultiheadAttention
    norm: nn.Module


class FeedForward(NamedTuple):
    """A block of two linear layers with the layer's activation between them."""

    first: nn.Module
    second: nn.Module
    norm: nn.Module


DecoderBlock = SelfAttention | CrossAttention | FeedForward


def decoder_blocks(layer: nn.Module) -> list[DecoderBlock]:
    """The blocks of a decoder layer of fairseq's Transformer or of DeltaLM."""
    blocks: list[DecoderBlock] = [SelfAttention(layer.self_attn, layer.self_attn_layer_norm)]
    if hasattr(layer, "fc3"):
        blocks.append(FeedForward(layer.fc3, layer.fc4, layer.ffn_layer_norm))
    if layer.encoder_attn is not None:
        blocks.append(CrossAttention(layer.encoder_attn, layer.encoder_attn_layer_norm))
    return [*blocks, FeedForward(layer.fc1, layer.fc2, layer.final_layer_norm)]


def run_block(
    layer: nn.Module, block: DecoderBlock, x: Tensor, inner: Callable[[Tensor], Tensor]
) -> Tensor:
    """``inner`` with the block's norm, dropout and residual connection around it."""
    y = inner(block.norm(x)) if layer.normalize_before else inner(x)
    x = layer.residual_connection(layer.dropout_module(y), x)
    return x if layer.normalize_before else block.norm(x)


def feed_forward(layer: nn.Module, block: FeedForward, x: Tensor) -> Tensor:
    """The inner part of a feed-forward block."""
    hidden = layer.activation_dropout_module(layer.activation_fn(block.first(x)))
    return block.second(hidden)
