"""One step of fairseq's Transformer decoder over tensors that never move, so that it can be
recorded once and launched as a whole (``kernels.graphs``).

fairseq's incremental decoding grows its caches by a column a step, copies them to reorder the
beams, and asks the device in between.  Here the caches have room for all steps of a range of
lengths, the number of the step and the order of the beams are tensors, and a mask hides what is not
there yet: every step is the same sequence of kernels.  The decoder's own modules do the work, so
layers may be plain, quantised or packed; scores are those of fairseq up to rounding.

    decoder = StaticDecoder(model)
    decoder.begin(encoder_out, beam)
    while ...:
        scores = decoder.step(tokens, temperature)      # rows x entries
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
from cress_svcd.inference.fused_layers import PackedStep
from cress_svcd.kernels.cuda_graph import Recorder
from cress_svcd.models.attention import CallingAttention, ReorderingDecoder
from cress_svcd.models.deltalm import ClampedPositions, DeltaLMDecoder, InterleavedDecoderLayer
from cress_svcd.quantization import QuantLinear
from cress_svcd.quantization.packed_linear import PackedLinear

# Sizes are rounded up to few values, a recording for each: see ``rounded``.
LEAST_SENTENCES, LEAST_SOURCE, LEAST_TARGET = 1, 64, 32
# Of shapes of batches; each has its caches and some recordings.
MOST_SHAPES = 16
MOST_BYTES = 1 << 30
# Of a batch; on a GPU, those of which caches for so many steps, and a copy of them, take at most this
# share of its memory.
MOST_ROWS, USUAL_STEPS, SHARE = 2048, 128, 1 / 4
SOURCE = ("source",)  # the key of a recording
# Whose parts these steps know.
DECODERS = (TransformerDecoderBase, TransformerDecoder, ReorderingDecoder, DeltaLMDecoder)
LAYERS = (TransformerDecoderLayerBase.forward, InterleavedDecoderLayer.forward)
POSITIONS = (LearnedPositionalEmbedding, SinusoidalPositionalEmbedding, ClampedPositions)
# Without cuDNN's, which makes a plan for each shape.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def rounded(size: int, least: int, fine: bool = True) -> int:
    """The first of least * (1, 2, 4, ...) that ``size`` fits in; ``fine``: * (1, 1.5, 2, 3, ...).

    ``least`` 1 has no half.
    """
    whole = least << max(0, (-(-size // least) - 1).bit_length())
    half = whole // 4 * 3
    return half if fine and half > least and size <= half else whole


def most_rows(decoder: nn.Module, like: Tensor) -> int:
    """Rows of a batch; caches for all steps of a range take up to four times the memory of those
    for the steps that there are.

    Args:
        like: encoder's states, of whose type and device the caches are.
    """
    if like.device.type != "cuda":
        return MOST_ROWS
    states = 2 * len(decoder.layers) * decoder.layers[0].self_attn.embed_dim * USUAL_STEPS
    room = SHARE * torch.cuda.get_device_properties(like.device).total_memory
    return int(room / (2 * states * like.element_size()))


def why_unsupported(model: nn.Module) -> str | None:
    """Why the steps of a model cannot be those of ``StaticDecoder``; None if they can."""
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


def _halves(projected: Tensor, heads: int) -> Tensor:
    """... x C → ... x heads x width."""
    return projected.unflatten(-1, (heads, -1))


class Shape:
    """Tensors for batches of up to so many sentences and frames, and the recordings on them.

    Caches (H heads of D): ``own`` layers·2 x rows x H x target x D, keys and values alternating,
    and ``other`` layers·2 x sentences x H x source x D of the encoder's states.  A row is a beam
    of a sentence; those of one lie together, so the encoder's keys and values are held once for
    all of them.
    """

    def __init__(self, decoder: nn.Module, like: Tensor, sentences: int, beam: int, source: int):
        """``like``: encoder's states, of whose type and device the tensors are."""
        attention = decoder.layers[0].self_attn
        self.sentences, self.beam, self.source, self.target = sentences, beam, source, 0
        self.rows = sentences * beam
        self.heads, self.width = attention.num_heads, attention.head_dim
        self.planes = 2 * len(decoder.layers)
        zeros = functools.partial(like.new_zeros, dtype=torch.int64)
        self.tokens, self.step = zeros(self.rows), zeros(1)
        self.same = torch.arange(self.rows, device=like.device)
        self.order = self.same.clone()
        self.states = like.new_zeros(source, sentences, like.size(2))
        self.other_mask = like.new_zeros(sentences, 1, 1, source)
        self.other = like.new_zeros(self.planes, sentences, self.heads, source, self.width)
        self.own = like.new_zeros(self.planes, self.rows, self.heads, 0, self.width)
        self.places = zeros(0)
        entries = decoder.output_projection.out_features
        self.scores = like.new_zeros(self.rows, entries, dtype=torch.float32)
        # What a recording reads beside parameters and buffers is held with it.
        self.recordings: dict[tuple, tuple[Callable[[], None], list]] = {}
        self.batches = 0

    def bytes(self) -> int:
        """Of all tensors."""
        tensors = (value for value in vars(self).values() if isinstance(value, Tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def make_room(self, target: int) -> None:
        """Have room for ``target`` steps; what is cached stays."""
        if target <= self.target:
            return
        with torch.inference_mode(False):
            own = self.own.new_zeros(*self.own.shape[:3], target, self.width)
            own[:, :, :, : self.target] = self.own
            self.places = torch.arange(target, device=own.device)
        self.own, self.target = own, target
        source = self.recordings.get(SOURCE)
        self.recordings = {} if source is None else {SOURCE: source}


class StaticDecoder:
    """Decodes batches of one model step by step; see the module.

    It holds the caches and recordings of the shapes that came last, MOST_SHAPES at most and
    MOST_BYTES of caches, though always those of the current batch.  Weights may be changed between
    batches, by loading a state or moving the model: then everything is recorded anew.
    """

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: one for which ``why_unsupported`` is None, in evaluation.
        """
        self.model = model
        self._shapes: OrderedDict[tuple, Shape] = OrderedDict()
        self._state: tuple = ()
        self._recorder: Recorder | None = None
        self._now: Shape | None = None
        self._packed: list[PackedStep | None] = []  # by layer
        self._rows = self._position = self._target = 0
        self._ordered = False  # whether the shape's order is the one to go on with

    @property
    def records(self) -> bool:
        """Whether steps are recorded; False where the device of the last batch has no graphs."""
        return self._recorder is not None and self._recorder.records

    def bytes(self) -> int:
        """Of all caches; recordings hold no more than the caches of a shape again."""
        return sum(shape.bytes() for shape in self._shapes.values())

    @torch.no_grad()
    def begin(self, encoder_out: dict[str, list[Tensor]], beam: int) -> None:
        """Start with a batch.

        Args:
            encoder_out: of the model's encoder, its states S×B×C and, if any, padding B×S.
            beam: rows that decode each sentence.
        """
        states, padding = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"]
        frames, sentences = states.shape[:2]
        self._forget_if_changed(states)
        shape = self._now = self._shape(
            states,
            rounded(sentences, LEAST_SENTENCES),
            beam,
            rounded(frames, LEAST_SOURCE),
        )
        self._rows, self._position, self._target = sentences * beam, 0, 0
        self._ordered = False
        # Broken numbers of an earlier batch would come through masks: their weight is 0, not they.
        shape.own.zero_()
        shape.states.zero_()
        shape.states[:frames, :sentences] = states
        shape.other_mask.zero_()
        shape.other_mask[:sentences, :, :, frames:] = float("-inf")
        if padding:
            hidden = padding[0].bool()[:, None, None]
            shape.other_mask[:sentences, :, :, :frames].masked_fill_(hidden, float("-inf"))
        shape.batches += 1
        project = functools.partial(self._project_source, shape)
        if shape.batches == 1:  # it may be the last one, and a recording runs it thrice
            project()
        else:
            self._run(SOURCE, project)

    @torch.no_grad()
    def step(self, tokens: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (rows x entries, float32) of what follows ``tokens``.

        Args:
            tokens: rows x steps so far, of which the last is new.
            temperature: logits are divided by it.
        Raises:
            RuntimeError: it is not the turn of that step, or there are other rows.
        """
        rows, position, shape = *tokens.shape, self._now
        if shape is None or (rows, position) != (self._rows, self._position + 1):
            raise RuntimeError(
                f"decoding: found {rows} rows at step {position}, expected {self._rows} at step "
                f"{self._position + 1}"
            )
        if position > self._target:
            self._target = rounded(position, LEAST_TARGET, fine=False)
            shape.make_room(self._target)
            self._bound_memory()
            self._cover_positions(tokens)
        shape.tokens[:rows].copy_(tokens[:, -1])
        shape.step.fill_(self._position)
        if not self._ordered:
            shape.order.copy_(shape.same)
        self._run(
            (self._target, temperature),
            functools.partial(self._decode, shape, self._target, temperature),
        )
        self._position, self._ordered = position, False
        return shape.scores[:rows]

    @torch.no_grad()
    def reorder(self, order: Tensor) -> None:
        """Go on with the rows ``order``: of each sentence as many as before, from itself.

        Sentences may be missing: they are finished.
        """
        shape, rows = self._now, len(order)
        if rows == self._rows:
            shape.order[:rows].copy_(order)  # the next step does it
            self._ordered = True
            return
        kept = order.view(-1, shape.beam)[:, 0] // shape.beam
        shape.own[:, :rows, :, : self._target] = shape.own[:, :, :, : self._target].index_select(
            1, order
        )
        shape.other[:, : len(kept)] = shape.other.index_select(1, kept)
        shape.other_mask[: len(kept)] = shape.other_mask.index_select(0, kept)
        self._rows = rows

    # Shapes and recordings

    def _shape(self, states: Tensor, sentences: int, beam: int, source: int) -> Shape:
        key = sentences, beam, source
        if key not in self._shapes:
            # In inference mode tensors would be born that no one may change outside of it.
            with torch.inference_mode(False):
                self._shapes[key] = Shape(self.model.decoder, states, *key)
        self._shapes.move_to_end(key)
        self._bound_memory()
        return self._shapes[key]

    def _bound_memory(self) -> None:
        """Forget the shapes that were used longest ago, never the current one."""
        while len(self._shapes) > 1 and (
            len(self._shapes) > MOST_SHAPES or self.bytes() > MOST_BYTES
        ):
            self._shapes.popitem(last=False)

    def _run(self, key: tuple, function: Callable[[], None]) -> None:
        """Run the recording ``key`` of the current shape, made of ``function`` if need be."""
        shape = self._now
        if key not in shape.recordings:
            order = shape.order.clone()
            shape.order.copy_(shape.same)  # to be called again and again must move no beam
            run = self._recorder.record(function)
            shape.recordings[key] = run, derived_tensors(self.model.decoder)
            shape.order.copy_(order)
        run, _ = shape.recordings[key]
        run()

    def _forget_if_changed(self, states: Tensor) -> None:
        """Forget all recordings if they are of other weights."""
        decoder = self.model.decoder
        state = state_of(decoder, states.device, states.dtype)
        if state == self._state:
            return
        self._state = state
        self._now = None
        self._packed = [PackedStep.of(layer) for layer in decoder.layers]
        self._shapes.clear()
        self._recorder = Recorder(states.device)

    def _cover_positions(self, tokens: Tensor) -> None:
        """Have sinusoidal positions for all steps of a recording: fairseq makes them if asked."""
        positions = self.model.decoder.embed_positions
        if isinstance(positions, SinusoidalPositionalEmbedding):
            positions(tokens.new_zeros(1, self._target), incremental_state={})

    # What is recorded

    def _project_source(self, shape: Shape) -> None:
        """Keys and values of the encoder's states, for all layers."""
        for number, layer in enumerate(self.model.decoder.layers):
            attention = layer.encoder_attn
            for place, project in enumerate((attention.k_proj, attention.v_proj)):
                heads = _halves(project(shape.states), shape.heads)
                shape.other[2 * number + place].copy_(heads.permute(1, 2, 0, 3))

    def _decode(self, shape: Shape, target: int, temperature: float) -> None:
        """One step of all rows."""
        decoder = self.model.decoder
        own = shape.own[:, :, :, :target]
        if shape.beam > 1:
            own.copy_(own.index_select(1, shape.order))
        mask = torch.zeros(target, dtype=own.dtype, device=own.device)
        mask = mask.masked_fill(shape.places[:target] > shape.step, float("-inf"))
        x = decoder.embed_scale * decoder.embed_tokens(shape.tokens)
        if decoder.embed_positions is not None:
            x = x + self._position_row(shape.step).to(x.dtype)
        if decoder.layernorm_embedding is not None:
            x = decoder.layernorm_embedding(x)
        with sdpa_kernel(ATTENTION):
            for number, layer in enumerate(decoder.layers):
                keys, values = 2 * number, 2 * number + 1
                past = functools.partial(
                    _over_past, layer.self_attn, shape, own[keys], own[values], mask
                )
                source = functools.partial(
                    _over_source, layer.encoder_attn, shape, shape.other[keys], shape.other[values]
                )
                packed = self._packed[number]
                x = _layer(layer, past, source, x) if packed is None else packed(past, source, x)
        if decoder.layer_norm is not None:
            x = decoder.layer_norm(x)
        if decoder.project_out_dim is not None:
            x = decoder.project_out_dim(x)
        logits = decoder.output_layer(x).unsqueeze(1) / temperature
        scores = self.model.get_normalized_probs((logits, None), log_probs=True, sample=None)
        shape.scores.copy_(scores[:, 0])

    def _position_row(self, step: Tensor) -> Tensor:
        """1 x C of the step ``step`` (1), counted from 0; the first comes after the padding's."""
        positions = self.model.decoder.embed_positions
        place = step + (positions.padding_idx + 1)
        if isinstance(positions, ClampedPositions):
            place = place.clamp(max=positions.num_embeddings - 1)
        learned = isinstance(positions, LearnedPositionalEmbedding)
        return (positions.weight if learned else positions.weights).index_select(0, place)


def _layer(layer: nn.Module, past: Callable, source: Callable, x: Tensor) -> Tensor:
    """A decoder layer by its modules; x: rows x C.

    Args:
        past: query, key, value of ``x`` (rows x C each) → ``_over_past``'s.
        source: query → ``_over_source``'s.
    """
    own, other = layer.self_attn, layer.encoder_attn
    x = _block(
        layer,
        layer.self_attn_layer_norm,
        x,
        lambda y: own.out_proj(past(own.q_proj(y), own.k_proj(y), own.v_proj(y))),
    )
    if isinstance(layer, InterleavedDecoderLayer):
        x = _block(
            layer, layer.ffn_layer_norm, x, lambda y: layer.fc4(layer.activation_fn(layer.fc3(y)))
        )
    x = _block(
        layer,
        layer.encoder_attn_layer_norm,
        x,
        lambda y: other.out_proj(source(other.q_proj(y))),
    )
    return _block(
        layer, layer.final_layer_norm, x, lambda y: layer.fc2(layer.activation_fn(layer.fc1(y)))
    )


def _block(
    layer: nn.Module, norm: nn.Module, x: Tensor, inner: Callable[[Tensor], Tensor]
) -> Tensor:
    """Residual connection and layer norm of a decoder layer around ``inner``; x: rows x C."""
    if layer.normalize_before:
        return layer.residual_connection(inner(norm(x)), x)
    return norm(layer.residual_connection(inner(x), x))


def _over_past(
    attention: MultiheadAttention,
    shape: Shape,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
) -> Tensor:
    """What each row (rows x C) finds in its own past; key and value are written where the step
    is."""
    for cache, projected in ((keys, key), (values, value)):
        cache.index_copy_(2, shape.step, _halves(projected, shape.heads).unsqueeze(2))
    query = _halves(query, shape.heads).unsqueeze(2)
    mixed = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask[None, None, None], scale=attention.scaling
    )
    return mixed.flatten(1)


def _over_source(
    attention: MultiheadAttention, shape: Shape, keys: Tensor, values: Tensor, query: Tensor
) -> Tensor:
    """What each row (rows x C) finds in the states of its sentence: beams are queries of one
    sequence."""
    query = _halves(query, shape.heads).unflatten(0, (shape.sentences, shape.beam))
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2), keys, values, attn_mask=shape.other_mask, scale=attention.scaling
    )
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)
