"""The tensors that decoding steps on CUDA graphs read and write, by the size of a batch."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

# Sizes are rounded up to few values, graphs for each: see ``rounded``.
LEAST_SENTENCES, LEAST_SOURCE, LEAST_TARGET = 1, 64, 32
# Buckets; each has its caches and some graphs.
MAX_BUCKETS = 16
MAX_BYTES = 1 << 30
# Rows of a batch; on a GPU, those of which caches for USUAL_STEPS, and a copy of them, take at most
# this share of its memory.
MAX_ROWS, USUAL_STEPS, SHARE = 2048, 128, 1 / 4
SOURCE = ("source",)  # the key of the graph that projects the encoder's states


def rounded(size: int, least: int, fine: bool = True) -> int:
    """The first of least * (1, 2, 4, ...) that ``size`` fits in; ``fine``: * (1, 1.5, 2, 3, ...).

    ``least`` 1 has no half.
    """
    whole = least << max(0, (-(-size // least) - 1).bit_length())
    half = whole // 4 * 3
    return half if fine and half > least and size <= half else whole


def max_rows(decoder: nn.Module, like: Tensor) -> int:
    """Rows of a batch; caches for all steps of a range take up to four times the memory of those
    for the steps that there are.

    Args:
        like: encoder's states, of whose type and device the caches are.
    """
    if like.device.type != "cuda":
        return MAX_ROWS
    states = 2 * len(decoder.layers) * decoder.layers[0].self_attn.embed_dim * USUAL_STEPS
    capacity = SHARE * torch.cuda.get_device_properties(like.device).total_memory
    return int(capacity / (2 * states * like.element_size()))


class GraphBucket:
    """Tensors for batches of up to so many sentences and frames, and the graphs on them.

    Caches, keys and values of the layers alternating in ``num_kv``:

        self_kv    (num_kv, rows, heads, target, width)       of the tokens so far
        cross_kv   (num_kv, sentences, heads, source, width)  of the encoder's states

    A row is a beam of a sentence; those of one lie together, so the encoder's keys and values are
    held once for all of them.
    """

    def __init__(self, decoder: nn.Module, like: Tensor, sentences: int, beam: int, source: int):
        """``like``: encoder's states, of whose type and device the tensors are."""
        attention = decoder.layers[0].self_attn
        self.sentences, self.beam, self.source, self.target = sentences, beam, source, 0
        self.rows = sentences * beam
        self.heads, self.width = attention.num_heads, attention.head_dim
        self.num_kv = 2 * len(decoder.layers)
        zeros = functools.partial(like.new_zeros, dtype=torch.int64)
        self.tokens, self.step = zeros(self.rows), zeros(1)
        self.same = torch.arange(self.rows, device=like.device)
        self.order = self.same.clone()
        self.states = like.new_zeros(source, sentences, like.size(2))
        self.cross_mask = like.new_zeros(sentences, 1, 1, source)
        self.cross_kv = like.new_zeros(self.num_kv, sentences, self.heads, source, self.width)
        self.self_kv = like.new_zeros(self.num_kv, self.rows, self.heads, 0, self.width)
        self.places = zeros(0)
        entries = decoder.output_projection.out_features
        self.scores = like.new_zeros(self.rows, entries, dtype=torch.float32)
        # What a graph reads besides parameters and buffers is held with it.
        self.graphs: dict[tuple, tuple[Callable[[], None], list]] = {}
        self.batches = 0

    def bytes(self) -> int:
        """Of all tensors."""
        tensors = (value for value in vars(self).values() if isinstance(value, Tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def grow(self, target: int) -> None:
        """Make the cache hold ``target`` steps; what is cached stays."""
        if target <= self.target:
            return
        with torch.inference_mode(False):
            self_kv = self.self_kv.new_zeros(*self.self_kv.shape[:3], target, self.width)
            self_kv[:, :, :, : self.target] = self.self_kv
            self.places = torch.arange(target, device=self_kv.device)
        self.self_kv, self.target = self_kv, target
        source = self.graphs.get(SOURCE)
        self.graphs = {} if source is None else {SOURCE: source}
