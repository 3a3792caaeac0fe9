"""CTC on the letters of the transcript, and cross-entropy on the unit of each frame."""

import math
from dataclasses import dataclass, field

import torch.nn.functional as F
from fairseq import metrics
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from torch import Tensor

from cress_svcd.kernels import dispatch
from cress_svcd.pretraining.frame_loss import frame_loss
from cress_svcd.pretraining.letters import WORD_BOUNDARY


@dataclass
class CtcAndUnitsConfig(FairseqDataclass):
    units_weight: float = field(
        default=0.0,
        metadata={"help": "weight of the mean loss of a frame's unit; that of a letter weighs 1"},
    )


@register_criterion("ctc_and_units", dataclass=CtcAndUnitsConfig)
class CtcAndUnitsCriterion(FairseqCriterion):
    """Loss of a batch: CTC summed over letters, plus ``units_weight`` times as many frame losses.

    The sample size is the number of letters.  In validation, letters are decoded greedily and
    character and word errors counted.
    """

    def __init__(self, task, units_weight: float):
        super().__init__(task)
        self.units_weight = units_weight
        self.letters = task.dictionaries[-1]
        self.blank = self.letters.bos()
        self.unit_padding = task.dictionaries[0].pad()
        self.word_boundary = self.letters.index(WORD_BOUNDARY)

    def forward(self, model, sample, reduce: bool = True):
        """Loss, number of letters, and what is to be logged.

        In training nothing is asked of the device: what the loss needs of sizes is summed there.
        """
        net_output = model(**sample["net_input"])
        *unit_targets, letters = sample["target_list"]
        letter_counts = sample["target_lengths_list"][-1]
        frame_counts = (~net_output["padding_mask"]).sum(dim=1)
        loss = self.ctc_loss(net_output["letters"], frame_counts, letters, letter_counts)
        logged = {"loss_ctc": loss.detach()}
        if self.units_weight > 0:
            frame_loss, correct, frames = self.unit_loss(
                net_output["units"], net_output["padding_mask"], unit_targets[0]
            )
            share = letter_counts.sum() / frames.clamp(min=1)
            loss = loss + self.units_weight * share * frame_loss
            logged |= {"loss_units": frame_loss.detach(), "frames": frames, "correct": correct}
        if not model.training:
            logged |= self.count_errors(net_output["letters"], frame_counts, letters, letter_counts)
        plain = self.plain_log(sample)
        return loss, plain["sample_size"], logged | {"loss": loss.detach()} | plain

    @staticmethod
    def plain_log(sample: dict) -> dict[str, int]:
        """What is logged of a batch that the host knows without running it."""
        size = sample["ntokens_list"][-1]
        sentences = sample["target_list"][-1].size(0)
        return {"ntokens": size, "nsentences": sentences, "sample_size": size}

    @staticmethod
    def why_not_captured(sample: dict) -> str | None:
        """What of a step with ``sample`` asks the device for something, or None."""
        letters = sample["target_list"][-1]
        chosen = dispatch.implementation("ctc_loss", letters, letters)
        if letters.is_cuda and chosen.name == "torch":
            return f"a CTC loss of {letters.size(1)} letters"
        return None

    def ctc_loss(
        self, logits: Tensor, frame_counts: Tensor, letters: Tensor, letter_counts: Tensor
    ) -> Tensor:
        """CTC summed over a batch of logits (batch, time, letters).

        Letters that find no place count nothing.
        """
        log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        losses = dispatch.ctc_loss(log_probs, letters, frame_counts, letter_counts, self.blank)
        return losses.sum()

    def unit_loss(
        self, logits: Tensor, padding_mask: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy summed over the frames whose unit is known; correct ones; how many.

        Varied cuts let in frames beyond the corpus's segment, of which no unit is known.
        """
        frames = min(logits.size(1), targets.size(1))
        targets = targets[:, :frames]
        counted = ~padding_mask[:, :frames] & targets.ne(self.unit_padding)
        return frame_loss(logits[:, :frames], targets, counted)

    def count_errors(
        self, logits: Tensor, frame_counts: Tensor, letters: Tensor, letter_counts: Tensor
    ) -> dict[str, int]:
        """Edit distances in letters and in words, and the lengths of the references."""
        import editdistance  # as fairseq's own CTC: only validation needs it

        counts = dict.fromkeys(("letter_errors", "letters", "word_errors", "words"), 0)
        for best, frames, reference, length in zip(
            logits.argmax(dim=-1).cpu(), frame_counts.tolist(), letters.cpu(), letter_counts
        ):
            found = self.collapse(best[:frames])
            said = reference[: int(length)].tolist()
            counts["letter_errors"] += editdistance.eval(found, said)
            counts["letters"] += len(said)
            found_words, said_words = self.words(found), self.words(said)
            counts["word_errors"] += editdistance.eval(found_words, said_words)
            counts["words"] += len(said_words)
        return counts

    def collapse(self, best: Tensor) -> list[int]:
        """Greedy CTC decoding: repetitions joined, blanks removed."""
        return [index for index in best.unique_consecutive().tolist() if index != self.blank]

    def words(self, indices: list[int]) -> list[tuple[int, ...]]:
        """Split a sequence of letters at the word boundaries."""
        words: list[tuple[int, ...]] = [()]
        for index in indices:
            if index == self.word_boundary:
                words.append(())
            else:
                words[-1] += (index,)
        return [word for word in words if word]

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict]) -> None:
        """Losses a letter (and a frame) in bits, accuracy of units, error rates in percent."""

        def total(key: str) -> float:
            return float(sum(output.get(key, 0) for output in logging_outputs))

        letters = max(total("sample_size"), 1)
        metrics.log_scalar("loss", total("loss") / letters / math.log(2), letters, round=3)
        metrics.log_scalar("loss_ctc", total("loss_ctc") / letters / math.log(2), letters, round=3)
        frames = total("frames")
        if frames:
            metrics.log_scalar(
                "loss_units", total("loss_units") / frames / math.log(2), frames, round=3
            )
            metrics.log_scalar("units_acc", 100 * total("correct") / frames, frames, round=2)
        if total("letters"):
            letters, words = total("letters"), max(total("words"), 1)
            metrics.log_scalar("cer", 100 * total("letter_errors") / letters, letters, round=3)
            metrics.log_scalar("wer", 100 * total("word_errors") / words, words, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
