"""One step of fairseq's Transformer decoder over tensors that never move, so that it can be
captured once as a CUDA graph (``kernels.cuda_graph``).

fairseq's incremental decoding grows its caches by a column a step, copies them to reorder the
beams, and asks the device in between.  Here the caches have room for all steps of a range of
lengths, the number of the step and the order of the beams are tensors, and a mask hides what is not
there yet: every step is the same sequence of kernels.  The decoder's own modules do the work, so
layers may be plain, quantised or packed; scores are those of fairseq up to rounding.

    decoder = CudaGraphDecoder(model)
    decoder.begin(encoder_out, beam)
    while ...:
        scores = decoder.step(tokens, temperature)      # (rows, entries)
        decoder.reorder(order)                          # rows to go on with
"""

import functools
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from fairseq.models.transformer import TransformerDecoder, TransformerDecoderBase
from fairseq.modules import (
    FairseqDropout,
    LearnedPositionalEmbedding,
    MultiheadAttention,
    SinusoidalPositionalEmbedding,
)
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cress_svcd.inference.cuda_graph_encoder import derived_tensors, is_watched, state_of
from cress_svcd.inference.fused_layers import FusedDecoderLayer
from cress_svcd.inference.graph_bucket import (
    LEAST_SENTENCES,
    LEAST_SOURCE,
    LEAST_TARGET,
    MAX_BUCKETS,
    MAX_BYTES,
    SOURCE,
    GraphBucket,
    rounded,
)
from cress_svcd.kernels.cuda_graph import GraphCapture
from cress_svcd.models.attention import CallingAttention, ReorderingDecoder
from cress_svcd.models.decoder_blocks import (
    FeedForward,
    SelfAttention,
    decoder_blocks,
    feed_forward,
    run_block,
)
from cress_svcd.models.deltalm import ClampedPositions, DeltaLMDecoder, InterleavedDecoderLayer
from cress_svcd.quantization import QuantLinear
from cress_svcd.quantization.packed_linear import PackedLinear

# Whose parts these steps know.
DECODERS = (TransformerDecoderBase, TransformerDecoder, ReorderingDecoder, DeltaLMDecoder)
LAYERS = (TransformerDecoderLayerBase.forward, InterleavedDecoderLayer.forward)
POSITIONS = (LearnedPositionalEmbedding, SinusoidalPositionalEmbedding, ClampedPositions)
# Without cuDNN's, which makes a plan for each shape.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def why_unsupported(model: nn.Module) -> str | None:
    """Why the steps of a model cannot be those of ``CudaGraphDecoder``; None if they can."""
    decoder = getattr(model, "decoder", None)
    if type(decoder) not in DECODERS:
        return f"a {type(decoder).__name__} has other steps"
    parts = (
        decoder.adaptive_softmax,
        decoder.quant_noise,
        decoder.project_in_dim,
        decoder.cross_self_attention or None,
    )
    if any(part is not None for part in parts) or decoder.output_projection is None:
        return "the decoder has parts that are rarely used"
    positions = decoder.embed_positions
    if positions is not None and type(positions) not in POSITIONS:
        return f"positions are of a {type(positions).__name__}"
    for layer in decoder.layers:
        if (reason := _why_layer_unsupported(layer)) is not None:
            return reason
    for module in decoder.modules():
        if isinstance(module, FairseqDropout) and module.apply_during_inference:
            return "dropout is retained"
        if is_watched(module):
            return f"a hook watches a {type(module).__name__}"
        if _depends_on_batch(module):
            return f"the output of a {type(module).__name__} depends on its batch"
    return None


def _why_layer_unsupported(layer: nn.Module) -> str | None:
    if not isinstance(layer, TransformerDecoderLayerBase) or type(layer).forward not in LAYERS:
        return f"a {type(layer).__name__} is no plain decoder layer"
    for name in ("attn_ln", "c_attn", "ffn_layernorm", "w_resid"):
        if getattr(layer, name) is not None:
            return f"a decoder layer has {name}"
    for attention in (layer.self_attn, layer.encoder_attn):
        if type(attention) not in (MultiheadAttention, CallingAttention):
            return f"attention is a {type(attention).__name__}"
        if attention.bias_k is not None or attention.add_zero_attn or attention.use_xformers:
            return "attention has further keys"
    return None


def _depends_on_batch(module: nn.Module) -> bool:
    """Whether rows of zeros next to its rows would change what a layer gives."""
    if isinstance(module, QuantLinear):
        return module.DEPENDS_ON_BATCH
    return isinstance(module, PackedLinear) and module.depends_on_batch


def _by_heads(projected: Tensor, heads: int) -> Tensor:
    """(…, channels) → (…, heads, width)."""
    return projected.unflatten(-1, (heads, -1))


class CudaGraphDecoder:
    """Decodes batches of one model step by step; see the module.

    It holds the caches and graphs of the buckets that came last, MAX_BUCKETS at most and MAX_BYTES
    of caches, though always those of the current batch.  Weights may be changed between
    batches, by loading a state or moving the model: then everything is captured again.
    """

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: one for which ``why_unsupported`` is None, in evaluation.
        """
        self.model = model
        self._buckets: OrderedDict[tuple, GraphBucket] = OrderedDict()
        self._state: tuple = ()
        self._capture: GraphCapture | None = None
        self._now: GraphBucket | None = None
        self._fused: list[FusedDecoderLayer | None] = []  # by layer
        self._rows = self._position = self._target = 0
        self._ordered = False  # whether the bucket's order is the one to go on with

    @property
    def captures(self) -> bool:
        """Whether steps are captured; False where the device of the last batch has no graphs."""
        return self._capture is not None and self._capture.captures

    def bytes(self) -> int:
        """Of all caches; graphs hold no more than the caches of a bucket again."""
        return sum(bucket.bytes() for bucket in self._buckets.values())

    @torch.no_grad()
    def begin(self, encoder_out: dict[str, list[Tensor]], beam: int) -> None:
        """Start with a batch.

        Args:
            encoder_out: of the model's encoder, its states (source, batch, channels) and, if any,
                padding (batch, source).
            beam: rows that decode each sentence.
        """
        states, padding = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"]
        frames, sentences = states.shape[:2]
        self._forget_if_changed(states)
        bucket = self._now = self._bucket(
            states,
            rounded(sentences, LEAST_SENTENCES),
            beam,
            rounded(frames, LEAST_SOURCE),
        )
        self._rows, self._position, self._target = sentences * beam, 0, 0
        self._ordered = False
        # Broken numbers of an earlier batch would come through masks: their weight is 0, not they.
        bucket.self_kv.zero_()
        bucket.states.zero_()
        bucket.states[:frames, :sentences] = states
        bucket.cross_mask.zero_()
        bucket.cross_mask[:sentences, :, :, frames:] = float("-inf")
        if padding:
            hidden = padding[0].bool()[:, None, None]
            bucket.cross_mask[:sentences, :, :, :frames].masked_fill_(hidden, float("-inf"))
        bucket.batches += 1
        project = functools.partial(self._project_source, bucket)
        if bucket.batches == 1:  # it may be the last one, and a capture runs it three times
            project()
        else:
            self._run(SOURCE, project)

    @torch.no_grad()
    def step(self, tokens: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (rows, entries), in float32, of what follows ``tokens``.

        Args:
            tokens: (rows, steps so far), of which the last is new.
            temperature: logits are divided by it.
        Raises:
            RuntimeError: it is not the turn of that step, or there are other rows.
        """
        rows, position, bucket = *tokens.shape, self._now
        if bucket is None or (rows, position) != (self._rows, self._position + 1):
            raise RuntimeError(
                f"decoding: found {rows} rows at step {position}, expected {self._rows} at step "
                f"{self._position + 1}"
            )
        if position > self._target:
            self._target = rounded(position, LEAST_TARGET, fine=False)
            bucket.grow(self._target)
            self._bound_memory()
            self._cover_positions(tokens)
        bucket.tokens[:rows].copy_(tokens[:, -1])
        bucket.step.fill_(self._position)
        if not self._ordered:
            bucket.order.copy_(bucket.same)
        self._run(
            (self._target, temperature),
            functools.partial(self._decode, bucket, self._target, temperature),
        )
        self._position, self._ordered = position, False
        return bucket.scores[:rows]

    @torch.no_grad()
    def reorder(self, order: Tensor) -> None:
        """Go on with the rows ``order``: of each sentence as many as before, from itself.

        Sentences may be missing: they are finished.
        """
        bucket, rows = self._now, len(order)
        if rows == self._rows:
            bucket.order[:rows].copy_(order)  # the next step does it
            self._ordered = True
            return
        kept = order.view(-1, bucket.beam)[:, 0] // bucket.beam
        bucket.self_kv[:, :rows, :, : self._target] = bucket.self_kv[
            :, :, :, : self._target
        ].index_select(1, order)
        bucket.cross_kv[:, : len(kept)] = bucket.cross_kv.index_select(1, kept)
        bucket.cross_mask[: len(kept)] = bucket.cross_mask.index_select(0, kept)
        self._rows = rows

    # Buckets and graphs

    def _bucket(self, states: Tensor, sentences: int, beam: int, source: int) -> GraphBucket:
        key = sentences, beam, source
        if key not in self._buckets:
            # In inference mode tensors would be born that no one may change outside of it.
            with torch.inference_mode(False):
                self._buckets[key] = GraphBucket(self.model.decoder, states, *key)
        self._buckets.move_to_end(key)
        self._bound_memory()
        return self._buckets[key]

    def _bound_memory(self) -> None:
        """Forget the buckets that were used longest ago, never the current one."""
        while len(self._buckets) > 1 and (
            len(self._buckets) > MAX_BUCKETS or self.bytes() > MAX_BYTES
        ):
            self._buckets.popitem(last=False)

    def _run(self, key: tuple, function: Callable[[], None]) -> None:
        """Run the graph ``key`` of the current bucket, made of ``function`` if need be."""
        bucket = self._now
        if key not in bucket.graphs:
            order = bucket.order.clone()
            bucket.order.copy_(bucket.same)  # to be called again and again must move no beam
            run = self._capture.capture(function)
            bucket.graphs[key] = run, derived_tensors(self.model.decoder)
            bucket.order.copy_(order)
        run, _ = bucket.graphs[key]
        run()

    def _forget_if_changed(self, states: Tensor) -> None:
        """Forget all graphs if they are of other weights."""
        decoder = self.model.decoder
        state = state_of(decoder, states.device, states.dtype)
        if state == self._state:
            return
        self._state = state
        self._now = None
        self._fused = [FusedDecoderLayer.of(layer) for layer in decoder.layers]
        self._buckets.clear()
        self._capture = GraphCapture(states.device)

    def _cover_positions(self, tokens: Tensor) -> None:
        """Have sinusoidal positions for all steps of a graph: fairseq makes them if asked."""
        positions = self.model.decoder.embed_positions
        if isinstance(positions, SinusoidalPositionalEmbedding):
            positions(tokens.new_zeros(1, self._target), incremental_state={})

    # What is captured

    def _project_source(self, bucket: GraphBucket) -> None:
        """Keys and values of the encoder's states, for all layers."""
        for number, layer in enumerate(self.model.decoder.layers):
            attention = layer.encoder_attn
            for place, project in enumerate((attention.k_proj, attention.v_proj)):
                heads = _by_heads(project(bucket.states), bucket.heads)
                bucket.cross_kv[2 * number + place].copy_(heads.permute(1, 2, 0, 3))

    def _decode(self, bucket: GraphBucket, target: int, temperature: float) -> None:
        """One step of all rows."""
        decoder = self.model.decoder
        self_kv = bucket.self_kv[:, :, :, :target]
        if bucket.beam > 1:
            self_kv.copy_(self_kv.index_select(1, bucket.order))
        mask = torch.zeros(target, dtype=self_kv.dtype, device=self_kv.device)
        mask = mask.masked_fill(bucket.places[:target] > bucket.step, float("-inf"))
        x = decoder.embed_scale * decoder.embed_tokens(bucket.tokens)
        if decoder.embed_positions is not None:
            x = x + self._position_row(bucket.step).to(x.dtype)
        if decoder.layernorm_embedding is not None:
            x = decoder.layernorm_embedding(x)
        with sdpa_kernel(ATTENTION):
            for number, layer in enumerate(decoder.layers):
                keys, values = 2 * number, 2 * number + 1
                past = functools.partial(
                    _over_past, layer.self_attn, bucket, self_kv[keys], self_kv[values], mask
                )
                source = functools.partial(
                    _over_source,
                    layer.encoder_attn,
                    bucket,
                    bucket.cross_kv[keys],
                    bucket.cross_kv[values],
                )
                fused = self._fused[number]
                x = _layer(layer, past, source, x) if fused is None else fused(past, source, x)
        if decoder.layer_norm is not None:
            x = decoder.layer_norm(x)
        if decoder.project_out_dim is not None:
            x = decoder.project_out_dim(x)
        logits = decoder.output_layer(x).unsqueeze(1) / temperature
        scores = self.model.get_normalized_probs((logits, None), log_probs=True, sample=None)
        bucket.scores.copy_(scores[:, 0])

    def _position_row(self, step: Tensor) -> Tensor:
        """(1, channels) of the step ``step`` (1), from 0; the first comes after the padding's."""
        positions = self.model.decoder.embed_positions
        place = step + (positions.padding_idx + 1)
        if isinstance(positions, ClampedPositions):
            place = place.clamp(max=positions.num_embeddings - 1)
        learned = isinstance(positions, LearnedPositionalEmbedding)
        return (positions.weight if learned else positions.weights).index_select(0, place)


def _layer(layer: nn.Module, past: Callable, source: Callable, x: Tensor) -> Tensor:
    """A decoder layer by its modules, for x (rows, channels).

    Args:
        past: query, key, value of ``x`` (rows, channels) → ``_over_past``'s.
        source: query → ``_over_source``'s.
    """
    for block in decoder_blocks(layer):
        if isinstance(block, FeedForward):
            inner = functools.partial(feed_forward, layer, block)
        else:
            is_self = isinstance(block, SelfAttention)
            inner = functools.partial(
                _attend, block.attention, past if is_self else source, is_self
            )
        x = run_block(layer, block, x, inner)
    return x


def _attend(attention: MultiheadAttention, mix: Callable, is_self: bool, x: Tensor) -> Tensor:
    """The inner part of an attention block."""
    query = attention.q_proj(x)
    further = (attention.k_proj(x), attention.v_proj(x)) if is_self else ()
    return attention.out_proj(mix(query, *further))


def _over_past(
    attention: MultiheadAttention,
    bucket: GraphBucket,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
) -> Tensor:
    """What each row (rows, channels) finds in its past; key and value are written at the step."""
    for cache, projected in ((keys, key), (values, value)):
        cache.index_copy_(2, bucket.step, _by_heads(projected, bucket.heads).unsqueeze(2))
    query = _by_heads(query, bucket.heads).unsqueeze(2)
    mixed = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask[None, None, None], scale=attention.scaling
    )
    return mixed.flatten(1)


def _over_source(
    attention: MultiheadAttention, bucket: GraphBucket, keys: Tensor, values: Tensor, query: Tensor
) -> Tensor:
    """What each row (rows, channels) finds in the states of its sentence: beams are queries of one
    sequence."""
    query = _by_heads(query, bucket.heads).unflatten(0, (bucket.sentences, bucket.beam))
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2), keys, values, attn_mask=bucket.cross_mask, scale=attention.scaling
    )
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)
