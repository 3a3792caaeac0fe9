"""Batches in parts: what does not fit the memory is run in halves, to the same sums."""

import pytest
import torch

from cress_svcd.errors import ConfigError
from cress_svcd.training.split_batches import SplitBatches, split
from cress_svcd.training.step_graphs import Done


def batch(rows: int) -> dict:
    return {
        "id": torch.arange(rows),
        "net_input": {
            "src_tokens": torch.randn(rows, 7),
            "src_lengths": torch.full((rows,), 7),
        },
        "target": torch.arange(rows * 3).view(rows, 3),
        "ntokens": rows * 3,
        "nsentences": rows,
    }


class Steps:
    """Sums of what it is given, in a memory of so many rows."""

    def __init__(self, update, fits: int):
        self.update, self.fits, self.ran = update, fits, []

    def run(self, sample: dict) -> Done:
        rows = sample["target"].size(0)
        self.update.gradients += 1  # before the memory is full
        if rows > self.fits:
            raise torch.OutOfMemoryError("full")
        self.ran.append(rows)
        self.update.gradients += sample["net_input"]["src_tokens"].sum() - 1
        plain = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"]}
        row = sample["target"].sum().double().view(1)
        return Done(sample["ntokens"], ("sum",), row, plain)


class Update:
    def __init__(self):
        self.gradients = torch.full((2,), 5.0)


@pytest.mark.parametrize(
    "rows, fits, parts", [(8, 8, [8]), (8, 5, [4, 4]), (7, 2, [2, 2, 2, 1]), (3, 1, [1, 1, 1])]
)
def test_the_sums_are_those_of_the_whole(rows, fits, parts):
    update, sample = Update(), batch(rows)
    steps = Steps(update, fits)
    batches = SplitBatches(steps, update)
    for time in (1, 2):  # the second time it is known what fits
        update.gradients.fill_(5.0)
        done = batches.run(sample)
        assert steps.ran == parts * time
        wanted = 5 + sample["net_input"]["src_tokens"].sum().item()
        assert update.gradients.tolist() == pytest.approx([wanted] * 2, rel=1e-5)
        assert done.size == rows * 3 and done.row.tolist() == [sample["target"].sum().item()]
        assert done.plain == {"ntokens": rows * 3, "nsentences": rows}


@pytest.mark.parametrize(
    "inputs, message",
    [
        (
            {"src_tokens": torch.zeros(4, 48_000)},
            r"segment, padded to 48000 samples \(3.0 s\) does not fit .*a lower --max-audio",
        ),
        ({"src_tokens": torch.zeros(4, 150, 8)}, r"segment, padded to 48000 samples \(3.0 s\)"),
        ({"source": torch.zeros(4, 8_000)}, r"padded to 8000 samples .*task.max_sample_size"),
        (
            {"src_tokens": torch.zeros(4, 9, dtype=torch.long)},
            "sentence pair, padded to 9 tokens, does not fit .*lower --max-source-positions",
        ),
    ],
)
def test_one_segment_that_does_not_fit_is_named(inputs, message):
    update = Update()
    with pytest.raises(ConfigError, match=message):
        SplitBatches(Steps(update, 0), update).run(batch(4) | {"net_input": inputs})


def test_parts_are_alike():
    parts = split(batch(6), 4)
    assert [part["target"].size(0) for part in parts] == [2, 2, 2]
    assert [part["id"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert all(part["net_input"]["src_lengths"].size(0) == 2 for part in parts)
