"""fairseq's attention, made to call its projections, and a decoder that finds its caches."""

import torch
import torch.nn.functional as F
from fairseq.models.transformer import TransformerDecoderBase
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from cress_svcd.quantization import QuantLinear
from cress_svcd.quantization.packed_linear import PackedLinear


class CallingAttention(MultiheadAttention):
    """fairseq's attention, which always calls its projections, by torch's fused product of scores
    and values wherever nobody asks for the weights."""

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As fairseq's.

        Args:
            query: (target time, batch, channels); key, value: (source time, batch, channels).
            key_padding_mask: (batch, source time), True at padding.
            attn_mask: (target time, source time), added to the scores.
        """
        if (
            incremental_state is not None
            or need_weights
            or need_head_weights
            or before_softmax
            or not self.is_plain
        ):
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                incremental_state,
                need_weights,
                static_kv,
                attn_mask,
                before_softmax,
                need_head_weights,
            )
        queries, keys, values = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        added = added_to_scores(key_padding_mask, attn_mask, queries.dtype)
        return self.out_proj(self.mix(queries, keys, values, added)), None

    @property
    def is_plain(self) -> bool:
        """Whether there are no further keys than those that it is given."""
        return self.bias_k is None and not self.add_zero_attn

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, added: Tensor | None) -> Tensor:
        """The input of the output projection, (target time, batch, channels).

        Args:
            queries: projected, (target time, batch, channels).
            keys, values: projected, (source time, batch, channels).
            added: to the scores, (batch, heads, target time, source time).
        """
        dropout = self.dropout_module
        mixed = F.scaled_dot_product_attention(
            self._heads(queries),
            self._heads(keys),
            self._heads(values),
            attn_mask=added,
            dropout_p=dropout.p if self.training or dropout.apply_during_inference else 0.0,
            scale=self.scaling,
        )
        return mixed.permute(2, 0, 1, 3).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        """(time, batch, channels) → (batch, heads, time, channels of a head)."""
        return x.unflatten(2, (self.num_heads, self.head_dim)).permute(1, 2, 0, 3)


def added_to_scores(
    padding: Tensor | None, attn_mask: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """What both masks add to the scores (batch, heads, target time, source time)."""
    if padding is None:
        return None if attn_mask is None else attn_mask.to(dtype)
    added = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    added = added.masked_fill(padding.bool(), float("-inf"))[:, None, None, :]
    return added if attn_mask is None else added + attn_mask.to(dtype)


class ReorderingDecoder(TransformerDecoderBase):
    """fairseq's decoder, which goes to its caches straight when the beams are reordered, and whose
    output projection may be packed.

    fairseq looks for them in all modules at every step: 4 % of a packed model's time on a CPU.
    """

    masks_always = False

    def extract_features_scriptable(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, list[Tensor]] | None,
        incremental_state: dict[str, dict[str, Tensor | None]] | None = None,
        full_context_alignment: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
    ) -> tuple[Tensor, dict]:
        """fairseq's; in training, and with ``masks_always``, the layers always get the padding
        mask, and none gives the weights of its attention.

        fairseq gives the mask where there is padding, for which the host would wait for the GPU, or
        for the sake of an attention that this decoder does not have; and asks the last layer for
        weights that only alignments need.
        """
        always = self.training or self.masks_always
        if always and alignment_layer is None:
            alignment_layer = self.num_layers  # one more than there is
        self.cross_self_attention = always
        try:
            return super().extract_features_scriptable(
                prev_output_tokens,
                encoder_out,
                incremental_state,
                full_context_alignment,
                alignment_layer,
                alignment_heads,
            )
        finally:
            self.cross_self_attention = False

    def reorder_incremental_state_scripting(
        self, incremental_state: dict[str, dict[str, Tensor | None]], new_order: Tensor
    ) -> None:
        for layer in self.layers:
            for attention in (layer.self_attn, layer.encoder_attn):
                if attention is not None:
                    attention.reorder_incremental_state(incremental_state, new_order)

    def output_layer(self, features: Tensor) -> Tensor:
        """fairseq's; the states of a step, (batch, 1, channels), as rows.

        Symptom otherwise: torch multiplies them one by one with a weight that is not trained, since
        they were (1, batch, channels) before, and reads it once for each.
        """
        if features.dim() == 3 and features.size(1) == 1:
            return super().output_layer(features.squeeze(1)).unsqueeze(1)
        return super().output_layer(features)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> dict:
        """fairseq's, which gives a state without the weight of a tied output projection that of
        the embedding: a packed projection has none."""
        state_dict = super().upgrade_state_dict_named(state_dict, name)
        if isinstance(self.output_projection, PackedLinear):
            state_dict.pop(f"{name}.output_projection.weight", None)
        return state_dict


def call_projections(attention: MultiheadAttention) -> None:
    """Have ``attention`` call its projections always.

    Symptom otherwise: without an incremental state, fairseq hands the projections' raw weights to
    torch's attention function.  A quantised projection, or one with a hook, is then never called,
    so that it trains in full precision and translates quantised.
    """
    attention._set_skip_embed_dim_check()
    if type(attention) is MultiheadAttention:
        # Not a new module: names, parameters and hooks stay.
        attention.__class__ = CallingAttention


def call_quantized_projections(model: nn.Module) -> None:
    """``call_projections`` wherever a projection of ``model`` is quantised or packed."""
    for attention in quantized_attentions(model):
        call_projections(attention)


def quantized_attentions(model: nn.Module) -> list[MultiheadAttention]:
    """The attentions of ``model`` of which a projection is quantised or packed."""
    return [
        module
        for module in model.modules()
        if isinstance(module, MultiheadAttention)
        and any(isinstance(child, QuantLinear | PackedLinear) for child in module.children())
    ]
