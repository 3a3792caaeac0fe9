"""Few shapes for all batches: ``--batch-shapes``.

A batch that is as long as its longest segment has a shape of its own, and nothing that was made for
a shape (a CUDA graph, cuDNN's plans, the allocator's blocks) is of use again.  Here a corpus gets
some lengths to which batches are padded, each with as many segments as --max-tokens allows, and for
each length a few numbers of tokens.

Lengths are what --max-tokens counts: samples of speech; of text the tokens of source or target,
whichever has more.  Numbers of tokens are those of transcript or translation, whichever has more,
next to speech; of text those of the source.
"""

import dataclasses

import numpy as np

TOKEN_SHAPES = 4  # numbers of tokens for each length
TOKEN_MULTIPLE = 4
CANDIDATES = 256  # among which lengths are chosen: the search takes their square


@dataclasses.dataclass(frozen=True)
class BatchShapes:
    """The lengths and the numbers of tokens to which batches are padded.

    Attributes:
        lengths: ascending.
        tokens: numbers of tokens for each length, ascending.
    """

    lengths: np.ndarray
    tokens: list[np.ndarray]

    @classmethod
    def choose(
        cls,
        lengths: np.ndarray,
        tokens: np.ndarray,
        count: int,
        multiple: int,
        token_shapes: int = TOKEN_SHAPES,
    ) -> "BatchShapes":
        """Those of a corpus that pad least.

        Args:
            lengths: of its segments.
            tokens: of its segments.
            count: lengths to choose.
            multiple: what each length is to be a multiple of.
            token_shapes: numbers of tokens for each length.
        """
        chosen = least_padding(lengths, count, multiple)
        places = np.searchsorted(chosen, lengths)
        of_each = [
            least_padding(tokens[places == place], token_shapes, TOKEN_MULTIPLE)
            for place in range(len(chosen))
        ]
        return cls(chosen, of_each)

    def shape(self, longest: int, tokens: int) -> tuple[int, int]:
        """Length and tokens to which a batch is padded whose longest segment has the length
        ``longest``, and one of which has so many tokens; beyond what is known, not at all."""
        place = int(np.searchsorted(self.lengths, longest))
        if place == len(self.lengths):
            return longest, tokens
        of_length = self.tokens[place]
        column = int(np.searchsorted(of_length, tokens))
        known = column < len(of_length)
        return int(self.lengths[place]), int(of_length[column]) if known else tokens

    def batches(
        self,
        indices: np.ndarray,
        lengths: np.ndarray,
        tokens: np.ndarray,
        max_tokens: int,
        max_sentences: int | None,
    ) -> list[np.ndarray]:
        """Batches of ``indices``, most of them with as many segments as fit.

        Segments that do not fill a batch of their length go to the next longer one, unless that
        would make small batches of them (``_is_too_long``).  Within a length, batches are made of
        segments with similar numbers of tokens.

        Args:
            indices: of segments, in the order in which equal ones are to be taken.
            lengths, tokens: of these segments.
            max_tokens: the sum of lengths in a batch, padding included.
            max_sentences: segments in a batch.
        """
        order = np.argsort(lengths, kind="stable")
        places = np.searchsorted(self.lengths, lengths[order])
        batches: list[np.ndarray] = []
        waiting = order[:0]
        sizes = [max(1, max_tokens // int(length)) for length in self.lengths]
        sizes = [min(size, max_sentences or size) for size in sizes]
        for place, size in enumerate(sizes):
            if len(waiting) and _is_too_long(size, sizes[place - 1], len(waiting)):
                batches.append(waiting)
                waiting = order[:0]
            members = np.concatenate([waiting, order[places == place]])
            full = len(members) // size * size
            members, waiting = members[:full], members[full:]
            members = members[np.argsort(tokens[members], kind="stable")]
            batches += list(members.reshape(-1, size))
        if len(waiting):
            batches.append(waiting)
        # Those longer than all shapes are batches of one.
        beyond = order[places == len(self.lengths)]
        batches += list(beyond[np.argsort(tokens[beyond], kind="stable")].reshape(-1, 1))
        return [indices[batch] for batch in batches]


def _is_too_long(size: int, size_before: int, waiting: int) -> bool:
    """Whether segments that wait for a batch are better one of their own than go on.

    As is where a few segments are far longer than all others: a length that takes at most half as
    many segments as the one before, of which those that wait would fill more than one batch.

    Args:
        size, size_before: segments in a batch of the next length, and of theirs.
        waiting: segments that wait.
    """
    return 2 * size <= size_before and waiting > size


class ShapedBatches:
    """Goes before a dataset of fairseq's, whose batches it makes of ``shapes`` where there are any.

    Attributes:
        shapes: None: batches are fairseq's.
        lengths: of the segments.
        token_counts: of the segments.
    """

    shapes: BatchShapes | None = None
    lengths: np.ndarray
    token_counts: np.ndarray

    def batch_by_size(
        self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1
    ):
        """fairseq's, or those of :class:`BatchShapes`."""
        if self.shapes is None or not max_tokens:
            return super().batch_by_size(
                indices, max_tokens, max_sentences, required_batch_size_multiple
            )
        indices = np.asarray(indices)
        lengths, tokens = self.lengths[indices], self.token_counts[indices]
        return self.shapes.batches(indices, lengths, tokens, max_tokens, max_sentences)


def least_padding(sizes: np.ndarray, count: int, multiple: int) -> np.ndarray:
    """Up to ``count`` sizes, multiples of ``multiple``, to which all ``sizes`` are padded with the
    least padding in all."""
    rounded = -(-np.maximum(sizes, 1) // multiple) * multiple
    candidates, counts = np.unique(rounded, return_counts=True)
    if len(candidates) > CANDIDATES:
        # Equal shares of the corpus's time.
        shares = np.cumsum(candidates * counts) / np.sum(candidates * counts)
        kept = np.unique(np.searchsorted(shares, np.arange(1, CANDIDATES + 1) / CANDIDATES))
        kept = np.minimum(kept, len(candidates) - 1)
        candidates = candidates[np.union1d(kept, [len(candidates) - 1])]
        places = np.searchsorted(candidates, rounded)
        counts = np.bincount(places, minlength=len(candidates))
    if len(candidates) <= count:
        return candidates
    return candidates[_best_partition(candidates.astype(np.float64), counts, count)]


def _best_partition(sizes: np.ndarray, counts: np.ndarray, parts: int) -> list[int]:
    """Places of the ``parts`` sizes, the last among them, to which all are padded at least cost."""
    last = len(sizes) - 1
    up_to = np.concatenate([[0], np.cumsum(counts)])
    # number[i, j]: of segments from the i-th size up to the j-th.
    number = up_to[None, 1:] - up_to[:-1, None]
    later = np.tri(last, last + 1, 0, dtype=bool)  # [i, j] where j <= i
    cost = number[0] * sizes  # of padding all up to the j-th size to it
    before: list[np.ndarray] = []
    for _ in range(parts - 1):
        # One more shape: those up to the i-th size by the shapes so far, the others by the j-th.
        total = np.where(later, np.inf, cost[:-1, None] + number[1:] * sizes)
        before.append(total.argmin(axis=0))
        cost = np.concatenate([cost[:1], total.min(axis=0)[1:]])
    places = [last]
    for best in reversed(before):
        if places[-1] > 0:
            places.append(int(best[places[-1]]))
    return sorted(set(places))
