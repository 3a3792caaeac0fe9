"""Resumable work: what is done is left out, what was stopped takes up its work.

A step has a name, inputs and outputs.  Records say which steps are finished, or begun; where and in
which form they stand is a matter of each kind of work (``Records``), what follows from them is not:

    finished, same inputs, outputs there    nothing to do
    begun, same inputs                      to be taken up
    anything else                           to be done from the start

A step that is killed never passes for finished: its record of before is removed, or replaced by one
that it has begun, ahead of the work.
"""

import abc
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Step:
    """A piece of work.

    Attributes:
        name: unique among those of its records.
        inputs: what it is made from: plain data, often a ``digest``.
        outputs: files that exist when it is done.
    """

    name: str
    inputs: Any
    outputs: Sequence[Path] = ()


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a step that was begun or finished.

    Attributes:
        inputs: those of ``Step`` at that time.
        finished: False for one that was only begun.
        result: plain data that the work returned.
        seconds: of the work.
        outputs: what ``Records.describe_outputs`` said of them, None where it says nothing.
    """

    inputs: Any
    finished: bool = True
    result: Any = None
    seconds: float = 0.0
    outputs: Any = None


class Records(abc.ABC):
    """Where records are kept."""

    @abc.abstractmethod
    def read(self, name: str) -> Record | None:
        """The record of a step; None where there is none, or it cannot be read."""

    @abc.abstractmethod
    def write(self, name: str, record: Record) -> None:
        """Keep the record of a finished step, all or nothing."""

    @abc.abstractmethod
    def begin(self, step: Step) -> None:
        """Note that ``step`` is about to be done: it is not finished any more."""

    def describe_outputs(self, outputs: Sequence[Path]) -> Any:
        """What tells outputs from others of the same names; None if being there is enough."""
        return None

    def is_done(self, step: Step) -> bool:
        """Whether there is nothing to do."""
        record = self.read(step.name)
        return (
            record is not None
            and record.finished
            and record.inputs == step.inputs
            and record.outputs == self.describe_outputs(step.outputs)
            and (record.outputs is not None or all(path.exists() for path in step.outputs))
        )

    def is_begun(self, step: Step) -> bool:
        """Whether it was stopped on its way, with the same inputs."""
        record = self.read(step.name)
        return record is not None and not record.finished and record.inputs == step.inputs

    def run(self, step: Step, work: Callable[[], Any]) -> Any:
        """The result of ``work()``, or that of an earlier run that still holds."""
        record = self.read(step.name)
        if record is not None and self.is_done(step):
            logger.info("%s: up to date (--force does it again)", step.name.replace("/", " "))
            return record.result
        self.begin(step)
        started = time.monotonic()
        result = work()
        seconds = time.monotonic() - started
        outputs = self.describe_outputs(step.outputs)
        self.write(step.name, Record(step.inputs, True, result, seconds, outputs))
        return result


def digest(data: Any, characters: int = 16) -> str:
    """Short SHA-256 of plain data; what JSON does not know counts as its text."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:characters]
