"""DeltaLM's encoder and decoder (Ma et al., 2021, "DeltaLM: Encoder-Decoder Pre-training for
Language Generation and Translation by Augmenting Pretrained Multilingual Encoders").

The encoder is a post-norm Transformer's.  A decoder layer interleaves two feed-forward blocks with
its attentions, so that both halves of it look like an encoder layer:

    self-attention → FFN 1 (fc3, fc4) → cross-attention → FFN 2 (fc1, fc2)

Parameters have the names that DeltaLM has after fine-tuning in fairseq.
"""

import functools

import torch.nn.functional as F
from fairseq import utils
from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import LayerNorm, LearnedPositionalEmbedding
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

from cress_svcd.models.attention import ReorderingDecoder
from cress_svcd.models.decoder_blocks import (
    FeedForward,
    SelfAttention,
    decoder_blocks,
    feed_forward,
    run_block,
)
from cress_svcd.models.hubert_transformer import SpeechTextEncoder


class ClampedPositions(LearnedPositionalEmbedding):
    """Learned positions of which the last serves for everything beyond the table.

    fairseq stops with an index error there; a segment of more than 41 s, or a sentence of more
    than 512 tokens, would end a whole generation.
    """

    @classmethod
    def like(cls, positions: LearnedPositionalEmbedding) -> "ClampedPositions":
        """The same table: the parameter itself, not a copy of it."""
        clamped = cls(positions.num_embeddings, positions.embedding_dim, positions.padding_idx)
        clamped.weight = positions.weight
        return clamped

    def forward(
        self, input: Tensor, incremental_state: dict | None = None, positions: None = None
    ) -> Tensor:
        """Tokens (batch, time) → (batch, time, channels).

        With ``incremental_state`` the last position alone, (1, 1, channels).
        """
        if incremental_state is not None:
            places = input.new_full((1, 1), self.padding_idx + input.size(1))
        else:
            places = utils.make_positions(input, self.padding_idx)
        return F.embedding(places.clamp(max=self.num_embeddings - 1), self.weight, self.padding_idx)


class DeltaLMEncoder(SpeechTextEncoder):
    """Encoder over tokens or speech, whose learned positions do not end."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.embed_positions = ClampedPositions.like(self.embed_positions)


class InterleavedDecoderLayer(TransformerDecoderLayerBase):
    """A decoder layer with a second feed-forward block between its attentions."""

    def __init__(self, cfg: TransformerConfig, no_encoder_attn: bool = False):
        super().__init__(cfg, no_encoder_attn)
        width, inner = self.embed_dim, cfg.decoder.ffn_embed_dim
        noise = self.quant_noise, self.quant_noise_block_size
        self.fc3 = self.build_fc1(width, inner, *noise)
        self.fc4 = self.build_fc2(inner, width, *noise)
        self.ffn_layer_norm = LayerNorm(width, export=cfg.export)

    def forward(
        self,
        x: Tensor,
        encoder_out: Tensor | None = None,
        encoder_padding_mask: Tensor | None = None,
        incremental_state: dict | None = None,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_attn: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, None]:
        """
        Args:
            x: (time, batch, channels); encoder_out: (source time, batch, channels).
            encoder_padding_mask: True beyond the lengths, (batch, source time).
            incremental_state: keys and values of the steps before; ``x`` is one step then.
            self_attn_mask: added to the scores, (time, time).
            self_attn_padding_mask: (batch, time).
            need_attn, need_head_weights: return the cross-attention's weights, of each head.
        Returns:
            (time, batch, channels); the weights of cross-attention or None, (batch, time, source
            time) or (heads, batch, time, source time); None.
        """
        weights = None

        def attend_to_source(query: Tensor) -> Tensor:
            nonlocal weights
            attended, weights = self._attend_to_source(
                query,
                encoder_out,
                encoder_padding_mask,
                incremental_state,
                need_attn or need_head_weights,
                need_head_weights,
            )
            return attended

        attend_to_past = functools.partial(
            self._attend_to_past,
            padding_mask=self_attn_padding_mask,
            incremental_state=incremental_state,
            mask=self_attn_mask,
        )
        for block in decoder_blocks(self):
            if isinstance(block, SelfAttention):
                x = run_block(self, block, x, attend_to_past)
            elif isinstance(block, FeedForward):
                x = run_block(self, block, x, functools.partial(feed_forward, self, block))
            elif encoder_out is not None:
                x = run_block(self, block, x, attend_to_source)
        return x, weights, None

    def _attend_to_past(
        self,
        query: Tensor,
        padding_mask: Tensor | None,
        incremental_state: dict | None,
        mask: Tensor | None,
    ) -> Tensor:
        attended, _ = self.self_attn(
            query=query,
            key=query,
            value=query,
            key_padding_mask=padding_mask,
            incremental_state=incremental_state,
            need_weights=False,
            attn_mask=mask,
        )
        return attended

    def _attend_to_source(
        self,
        query: Tensor,
        encoder_out: Tensor | None,
        padding_mask: Tensor | None,
        incremental_state: dict | None,
        need_weights: bool,
        need_head_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        return self.encoder_attn(
            query=query,
            key=encoder_out,
            value=encoder_out,
            key_padding_mask=padding_mask,
            incremental_state=incremental_state,
            static_kv=True,
            need_weights=need_weights or (not self.training and self.need_attn),
            need_head_weights=need_head_weights,
        )


class DeltaLMDecoder(ReorderingDecoder):
    """fairseq's decoder with interleaved layers and positions that do not end."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.embed_positions = ClampedPositions.like(self.embed_positions)

    def build_decoder_layer(self, cfg: TransformerConfig, no_encoder_attn: bool = False):
        layer = InterleavedDecoderLayer(cfg, no_encoder_attn)
        recompute = cfg.checkpoint_activations
        if recompute:
            layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
        return fsdp_wrap(layer, min_num_params=0 if recompute else cfg.min_params_to_wrap)
