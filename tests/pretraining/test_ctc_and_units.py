import math

import pytest
import torch
import torch.nn.functional as F
from fairseq.data import Dictionary

from cress_svcd.pretraining.ctc_and_units import CtcAndUnitsCriterion

UNITS, FRAMES = 7, 12


def dictionary(symbols):
    result = Dictionary()
    for symbol in symbols:
        result.add_symbol(symbol)
    return result


class Task:
    dictionaries = [dictionary("xyz"), dictionary("ab|c")]


A, B, BOUNDARY = (Task.dictionaries[1].index(symbol) for symbol in "ab|")
BLANK = Task.dictionaries[1].bos()


class Model(torch.nn.Module):
    """Gives the logits it was given; the second utterance is four frames shorter."""

    def __init__(self, letters, units):
        super().__init__()
        self.letters = torch.nn.Parameter(letters)
        self.units = torch.nn.Parameter(units)

    def forward(self, source, padding_mask):
        mask = torch.arange(FRAMES) >= torch.tensor([[FRAMES], [FRAMES - 4]])
        return {"letters": self.letters, "units": self.units, "padding_mask": mask}


@pytest.fixture
def model():
    return Model(torch.randn(2, FRAMES, 8), torch.randn(2, FRAMES, UNITS))


def batch(texts=((A, BOUNDARY, B), (B, B)), label_frames=FRAMES):
    letters = torch.ones(2, max(map(len, texts)), dtype=torch.long)
    for row, text in enumerate(texts):
        letters[row, : len(text)] = torch.tensor(text)
    lengths = torch.tensor([len(text) for text in texts])
    units = torch.randint(4, UNITS, (2, label_frames))
    return {
        "net_input": {"source": torch.zeros(2, 1), "padding_mask": torch.zeros(2, 1).bool()},
        "target_list": [units, letters],
        "target_lengths_list": [torch.tensor([label_frames, label_frames - 4]), lengths],
        "ntokens_list": [2 * label_frames - 4, sum(map(len, texts))],
    }


def test_the_loss_is_ctc_plus_weighted_frame_loss(model):
    sample = batch()
    units, letters = sample["target_list"]
    ctc = sum(
        F.ctc_loss(
            F.log_softmax(model.letters[i, :frames], dim=-1),
            letters[i, :length],
            torch.tensor(frames),
            torch.tensor(length),
            blank=BLANK,
            reduction="sum",
        )
        for i, (frames, length) in enumerate([(FRAMES, 3), (FRAMES - 4, 2)])
    )
    frame_losses = torch.cat(
        [
            F.cross_entropy(model.units[i, :n], units[i, :n], reduction="none")
            for i, n in ((0, FRAMES), (1, FRAMES - 4))
        ]
    )
    loss, size, logged = CtcAndUnitsCriterion(Task, 0.5)(model, sample)
    assert size == 5
    torch.testing.assert_close(loss, ctc + 0.5 * 5 * frame_losses.mean())
    assert logged["frames"] == 2 * FRAMES - 4
    torch.testing.assert_close(logged["loss_ctc"], ctc.detach())


def test_without_weight_units_do_not_count(model):
    loss, _, logged = CtcAndUnitsCriterion(Task, 0.0)(model, batch())
    loss.backward()
    assert model.units.grad is None and "loss_units" not in logged


def test_more_frames_than_labels(model):
    _, _, logged = CtcAndUnitsCriterion(Task, 1.0)(model, batch(label_frames=FRAMES - 1))
    assert logged["frames"] == 2 * FRAMES - 5


def test_a_text_that_finds_no_place_gives_no_gradient_that_is_not_finite(model):
    loss, _, _ = CtcAndUnitsCriterion(Task, 0.5)(model, batch(((A,), (B,) * 8)))
    loss.backward()
    assert math.isfinite(loss.item()) and torch.isfinite(model.letters.grad).all()
    assert (model.letters.grad[1] == 0).all() and (model.letters.grad[0] != 0).any()


def test_errors_are_counted_in_validation(model):
    found = [
        [A, A, BLANK, BOUNDARY, BOUNDARY, B, BLANK, B, BLANK, BLANK, BLANK, BLANK],
        [B, BLANK, B, BLANK, BLANK, BLANK, BLANK, BLANK, A, A, A, A],  # the end is padding
    ]
    model.letters.data = 10 * F.one_hot(torch.tensor(found), 8).float()
    criterion = CtcAndUnitsCriterion(Task, 0.5)
    assert "letters" not in criterion(model, batch())[2]
    _, _, logged = criterion(model.eval(), batch())
    # Found "a bb" and "bb"; said "a b" and "bb".
    assert (logged["letter_errors"], logged["letters"]) == (1, 5)
    assert (logged["word_errors"], logged["words"]) == (1, 3)


def test_metrics_of_several_workers():
    from fairseq import metrics

    outputs = [
        {
            "sample_size": 10,
            "loss": 20.0,
            "loss_ctc": 10.0,
            "loss_units": 3.0,
            "frames": 6,
            "correct": 3,
            "letter_errors": 1,
            "letters": 10,
            "word_errors": 1,
            "words": 2,
        },
        {
            "sample_size": 30,
            "loss": 20.0,
            "loss_ctc": 10.0,
            "loss_units": 5.0,
            "frames": 2,
            "correct": 1,
            "letter_errors": 3,
            "letters": 30,
            "word_errors": 0,
            "words": 6,
        },
    ]
    with metrics.aggregate() as values:
        CtcAndUnitsCriterion.reduce_metrics(outputs)
    smoothed = values.get_smoothed_values()
    assert smoothed["loss"] == pytest.approx(1 / math.log(2), abs=1e-3)
    assert smoothed["loss_units"] == pytest.approx(1 / math.log(2), abs=1e-3)
    assert smoothed["units_acc"] == 50
    assert (smoothed["cer"], smoothed["wer"]) == (10, 12.5)
