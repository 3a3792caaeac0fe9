"""From batches to words: fairseq's search, and what it leaves open.

Where a hypothesis repeats itself, the search is made again.  What a token attends to, and what the
CTC head hears, comes from the encoder's states of the search; the decoder goes through the best
hypothesis once more, all steps in one, since decoding on CUDA graphs keeps no attention.
"""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq import utils
from fairseq.data import FairseqDataset, data_utils
from torch import Tensor, nn

from cress_svcd.tasks.speech_and_text_translation import SpeechAndTextTranslationTask
from cress_svcd.translation import repetition
from cress_svcd.translation.repetition import NO_REPEAT
from cress_svcd.translation.result import Wanted


class Found(NamedTuple):
    """What was found for an item.

    text, score, tokens: of the best hypothesis, see ``result.Translation``.
    decoded_again: the first one repeated itself.
    attention: of the tokens to the source (tokens, frames).
    labels: the best of the CTC head for each frame (frames,).
    """

    text: str
    score: float
    tokens: tuple[str, ...]
    decoded_again: bool = False
    attention: np.ndarray | None = None
    labels: np.ndarray | None = None


class NoRepeat(nn.Module):
    """No so many tokens in a row come twice: in the place of fairseq's ``repeat_ngram_blocker``.

    fairseq's own compares with the padding behind the tokens, unless its CUDA extension is built:
    it forbids nothing.

    begin: it forbids nothing before this step, where tokens are given.
    """

    def __init__(self, size: int, begin: int = 0):
        super().__init__()
        self.size, self.begin = size, begin

    def forward(
        self, tokens: Tensor, lprobs: Tensor, bsz: int, beam_size: int, step: int
    ) -> Tensor:
        """Log-probabilities (rows, entries) without what would repeat.

        Args:
            tokens: of the hypotheses so far, ``step`` + 1 of each row, the first one the end of
                sentence that fairseq begins with.
        """
        size, so_far = self.size, tokens[:, : step + 1]
        if so_far.size(1) < size + (size == 1) or step < self.begin:
            return lprobs
        following = so_far[:, max(1, size - 1) :]
        if size > 1:
            recent = so_far[:, None, -(size - 1) :]
            repeats = (so_far.unfold(1, size - 1, 1)[:, :-1] == recent).all(dim=-1)
            # The first one stands for none: it is found as the next token nowhere.
            following = torch.where(repeats, following, so_far[:, :1])
        banned = torch.zeros_like(lprobs, dtype=torch.bool).scatter_(1, following, True)
        banned.scatter_(1, so_far[:, :1], False)
        return lprobs.masked_fill(banned, -math.inf)


class Search:
    """Finds the translation of each item of a dataset.

    Threads take turns: fairseq's generator is changed and keeps a state while it searches.

    generator: fairseq's, as the task builds it.
    decoded_again: how many items' first hypotheses repeated themselves so far.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        task: SpeechAndTextTranslationTask,
        generator: Any,
        device: torch.device,
    ):
        self.task, self.generator, self.device = task, generator, device
        self.model: Any = model
        self.decoded_again = 0
        # Whether the first search does already what the second would.
        blocker = generator.repeat_ngram_blocker
        self._forbids_repetition = blocker is not None and blocker.size <= NO_REPEAT
        self._turn = threading.Lock()

    def run(self, dataset: FairseqDataset, budget: int, wanted: Wanted = Wanted()) -> list[Found]:
        """What is found for each item of a dataset.

        Args:
            dataset: speech or text.
            budget: samples or tokens in a batch, padding included.
        """
        if len(dataset) == 0:
            return []
        found: dict[int, Found] = {}
        order = dataset.ordered_indices()
        lengths = dataset.num_tokens_vec(order)
        for indices in dataset.batch_by_size(order, max_tokens=max(budget, int(lengths.max()))):
            own = self.translate(_collated(dataset, indices), wanted)
            again = [] if self._forbids_repetition else _repeating(own)
            if again:
                with self._turn:
                    self.decoded_again += len(again)
                own |= self.translate(_collated(dataset, again), wanted, NoRepeat(NO_REPEAT))
                own |= {number: own[number]._replace(decoded_again=True) for number in again}
            found |= own
        return [found[number] for number in range(len(dataset))]

    def translate(
        self,
        batch: dict[str, Any],
        wanted: Wanted = Wanted(),
        no_repeat: NoRepeat | None = None,
    ) -> dict[int, Found]:
        """What is found in a dataset's batch, by the items' ids; searched once.

        Args:
            no_repeat: what may not come twice in this search; None: as the generator has it.
        """
        numbers = batch["id"].tolist()
        batch = utils.apply_to_sample(lambda tensor: tensor.to(self.device), batch)
        if not wanted.translations:
            with torch.no_grad():
                states = self.model.encoder.forward_torchscript(batch["net_input"])
            return {
                number: Found("", 0.0, (), labels=labels)
                for number, labels in zip(numbers, self._labels(states))
            }
        kept: list[dict[str, list[Tensor]]] = []
        prefix = batch.get("prefix_tokens")
        if no_repeat is not None and prefix is not None:
            no_repeat = NoRepeat(no_repeat.size, prefix.size(1))
        with self._turn, contextlib.ExitStack() as stack:
            if wanted.attention or wanted.labels:
                kept = stack.enter_context(self._keeping_states())
            if no_repeat is not None:
                stack.enter_context(self._without_repetition(no_repeat))
            hypotheses = self.task.inference_step(self.generator, [self.model], batch, prefix)
        best = [ranked[0] for ranked in hypotheses]
        found = {number: self._read(one) for number, one in zip(numbers, best)}
        if wanted.attention:
            starts = batch.get("start_tokens")
            matrices = self._attention(kept[0], [one["tokens"] for one in best], starts)
            for number, one, matrix in zip(numbers, best, matrices):
                rows = self._is_read(one["tokens"])
                found[number] = found[number]._replace(attention=matrix[rows])
        if wanted.labels:
            for number, labels in zip(numbers, self._labels(kept[0])):
                found[number] = found[number]._replace(labels=labels)
        return found

    def report(self) -> str:
        """A line about what repeated itself; empty if nothing did."""
        return repetition.report(self.decoded_again)

    @contextlib.contextmanager
    def _without_repetition(self, no_repeat: NoRepeat) -> Iterator[None]:
        """Searches in the block give nothing twice that ``no_repeat`` forbids; of one's turn."""
        usual = self.generator.repeat_ngram_blocker
        self.generator.repeat_ngram_blocker = no_repeat
        try:
            yield
        finally:
            self.generator.repeat_ngram_blocker = usual

    @contextlib.contextmanager
    def _keeping_states(self) -> Iterator[list[dict[str, list[Tensor]]]]:
        """The encoder's output of the search in the block, which fairseq does not hand out.

        It comes from the generator's ensemble; of one's turn.
        """
        kept: list[dict[str, list[Tensor]]] = []
        ensemble = self.generator.model
        encode = ensemble.forward_encoder

        def keep(net_input: dict[str, Tensor]) -> list[dict[str, list[Tensor]]]:
            states = encode(net_input)
            kept.extend(states)
            return list(states)

        ensemble.forward_encoder = keep
        try:
            yield kept
        finally:
            del ensemble.forward_encoder

    def _read(self, hypothesis: dict[str, Any]) -> Found:
        """As fairseq-generate makes its H- and D- lines."""
        _, tokens, _ = utils.post_process_prediction(
            hypo_tokens=hypothesis["tokens"].int().cpu(),
            src_str="",
            alignment=None,
            align_dict=None,
            tgt_dict=self.task.tgt_dict,
            extra_symbols_to_ignore=self.generator.symbols_to_strip_from_output,
        )
        score = float(hypothesis["score"]) / math.log(2)
        return Found(self.text_of(tokens), score, tuple(tokens.split()))

    def text_of(self, tokens: str) -> str:
        """The text of tokens of either vocabulary, which spaces separate."""
        text = self.task.bpe.decode(tokens) if self.task.bpe is not None else tokens
        if self.task.pre_tokenizer is not None:
            text = self.task.pre_tokenizer.decode(text)
        return str(text)

    def _is_read(self, tokens: Tensor) -> np.ndarray:
        """Which tokens of a hypothesis ``Found.tokens`` holds."""
        dictionary = self.task.tgt_dict
        left_out = {
            dictionary.bos(),
            dictionary.eos(),
            *self.generator.symbols_to_strip_from_output,
        }
        return np.array([int(token) not in left_out for token in tokens])

    @torch.no_grad()
    def _attention(
        self,
        states: dict[str, list[Tensor]],
        hypotheses: Sequence[Tensor],
        starts: Tensor | None,
    ) -> list[np.ndarray]:
        """Of each token of each hypothesis to the frames of its source (tokens, frames).

        The mean of all heads of the later half of the decoder's layers: the first ones tell less.

        Args:
            starts: (batch,) with which each of them begins; None: with the end of the sentence.
        """
        dictionary = self.task.tgt_dict
        previous = data_utils.collate_tokens(
            [tokens.long() for tokens in hypotheses],
            dictionary.pad(),
            dictionary.eos(),
            left_pad=False,
            move_eos_to_beginning=True,
        ).to(self.device)
        if starts is not None:
            previous[:, 0] = starts
        decoder = self.model.decoder
        layers = range(len(decoder.layers) // 2, len(decoder.layers))
        total: Any = 0.0
        for layer in layers:
            _, extra = decoder.extract_features(previous, states, alignment_layer=layer)
            total = total + extra["attn"][0].float()
        weights = (total / len(layers)).cpu().numpy()
        frames = _frames(states)
        return [weights[row, : len(tokens), : frames[row]] for row, tokens in enumerate(hypotheses)]

    @torch.no_grad()
    def _labels(self, states: dict[str, list[Tensor]]) -> list[np.ndarray]:
        log_probs, frames = self.model.encoder.ctc_log_probs(states)
        best = log_probs.argmax(dim=-1).cpu().numpy()
        return [best[:length, row] for row, length in enumerate(frames.tolist())]


def _repeating(found: dict[int, Found]) -> list[int]:
    """The numbers of those that repeat themselves."""
    return [
        number for number, one in found.items() if repetition.repeats_itself(one.text, one.tokens)
    ]


def _collated(dataset: FairseqDataset, indices: Sequence[int]) -> dict[str, Any]:
    batch: dict[str, Any] = dataset.collater([dataset[int(index)] for index in indices])
    return batch


def _frames(states: dict[str, list[Tensor]]) -> list[int]:
    """How many of each item."""
    lengths: list[int] = (~states["encoder_padding_mask"][0]).sum(dim=1).tolist()
    return lengths
