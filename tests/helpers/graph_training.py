"""Trainings with and without ``--graph-training``: what they logged, and what a step asks for."""

import traceback

import pytest
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import DictConfig
from torch.utils._python_dispatch import TorchDispatchMode

from cress_svcd.models import hubert_convolutions
from cress_svcd.training.graph_trainer import GraphTrainer
from tests.helpers.fairseq_commands import Outcome, measured, records


def rounded(outcome: Outcome, tag: str = "train_inner") -> list[dict]:
    """What a training logged, in numbers that rounding in another order leaves alone."""
    assert not outcome.failed, outcome.output[-3000:]
    kept = [measured(record) for record in records(outcome.output, tag)]
    # Of accuracies, in percent, a token of some hundred that is as likely as another; of norms, a
    # weight of 1 bit that turns its sign an update sooner.
    return [
        {
            name: pytest.approx(
                float(value),
                rel=5e-3 if name.endswith("gnorm") else 2e-3,
                abs=0.3 if "accuracy" in name else 2e-3,
            )
            for name, value in record.items()
        }
        for record in kept
    ]


def plain_numbers(outcome: Outcome, tag: str = "train_inner") -> list[dict]:
    """What a training logged."""
    return [
        {name: float(value) for name, value in measured(record).items()}
        for record in records(outcome.output, tag)
    ]


def require_same_training(theirs: Outcome, ours: Outcome, logs: int) -> None:
    """``ours`` has captured steps and ``theirs`` has not; both logged the same, ``logs`` times."""
    wanted = rounded(theirs)
    assert len(wanted) == logs
    assert plain_numbers(ours) == wanted
    assert plain_numbers(ours, "train")[-1] == rounded(theirs, "train")[-1]
    # On a CPU, which has no graphs.
    assert "as a captured one" in ours.output and "as a captured one" not in theirs.output


READS = ("_local_scalar_dense", "nonzero", "masked_select", "aten::equal")


class Reads(TorchDispatchMode):
    """Where the host asks tensors for values, but for those that fairseq makes of shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in function.name() for name in READS):
            last = [
                frame for frame in traceback.extract_stack()[:-1] if "/torch/" not in frame.filename
            ][-1]
            if not last.filename.endswith("sinusoidal_positional_embedding.py"):
                self.found.append(f"{last.filename}:{last.lineno} {last.line}")
        return function(*args, **(kwargs or {}))


def configuration(command: list) -> DictConfig:
    return convert_namespace_to_omegaconf(
        options.parse_args_and_arch(options.get_training_parser(), [str(part) for part in command])
    )


def begun(command: list) -> tuple[GraphTrainer, dict]:
    """The trainer of a command, and its first batch."""
    cfg = configuration(command[1:])
    task = tasks.setup_task(cfg.task)
    model, loss = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    trainer = GraphTrainer(cfg, task, model, loss)
    task.load_dataset("train")
    batches = trainer.get_train_iterator(epoch=1, load_dataset=False)
    trainer.begin_epoch(1)
    return trainer, next(batches.next_epoch_itr(shuffle=False))


def reads_of_a_step(command: list, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where a step of a command's training asks the device for something: on a GPU the host would
    wait there, and a capture would fail."""
    trainer, batch = begun(command)
    trainer.train_step([batch])
    batch = trainer._on_host(batch)
    monkeypatch.setattr(hubert_convolutions, "is_capturing", lambda: True)
    with Reads() as reads:
        trainer._graphs._run(batch)
    return reads.found


def require_sum_of_parts(
    trainer: GraphTrainer,
    batch: dict,
    monkeypatch: pytest.MonkeyPatch,
    of_gradients: float,
    of_row: float,
) -> None:
    """A batch of six, in a memory that three segments fill, gives what it gives as a whole.

    Args:
        trainer: in evaluation: without dropout.
        of_gradients, of_row: by how much these may differ.
    """
    gradients = trainer.update.gradients
    gradients.zero_()
    whole, wanted = trainer._batches.run(batch), gradients.clone()
    forward = type(trainer.criterion).forward

    def full(self, model, sample, reduce=True):
        if len(sample["id"]) > 3:
            raise torch.OutOfMemoryError("no memory for more than three segments")
        return forward(self, model, sample, reduce)

    monkeypatch.setattr(type(trainer.criterion), "forward", full)
    trainer._graphs._graphs.clear()
    gradients.zero_()
    parts = trainer._batches.run(batch)
    assert len(batch["id"]) == 6 and parts.plain == whole.plain and parts.size == whole.size
    torch.testing.assert_close(gradients, wanted, rtol=1e-3, atol=of_gradients)
    torch.testing.assert_close(parts.row, whole.row, rtol=1e-4, atol=of_row)
