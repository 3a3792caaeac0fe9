"""How recordings are to be cut, and what comes of it."""

from dataclasses import dataclass

from cress_svcd.errors import ConfigError

AUTO = "auto"


@dataclass(frozen=True)
class Segmentation:
    """How to cut.  All but ``threshold_db`` and ``segmenter`` in seconds.

    Args:
        max_seconds: no segment is longer.
        min_seconds: speech that is shorter is joined to its nearest neighbour, if ``max_seconds``
            allows it; None: as the segmenter has it.
        pause_seconds: silence that separates segments; None: as the segmenter has it.
        threshold_db: how far above the noise floor speech begins, at most: where speech is less
            loud, it begins half-way between the noise and its own level.  Of the energy alone.
        segmenter: a name of ``SEGMENTERS``; auto: the learnt one if the model has it, else the
            energy.
    Raises:
        ConfigError: a value that nothing can be cut with.
    """

    max_seconds: float = 20.0
    min_seconds: float | None = None
    pause_seconds: float | None = None
    threshold_db: float = 10.0
    segmenter: str = AUTO

    def __post_init__(self) -> None:
        for name, lowest in (("max_seconds", 1.0), ("pause_seconds", 0.05), ("threshold_db", 1.0)):
            value = getattr(self, name)
            if value is not None and not lowest <= value < float("inf"):
                raise ConfigError(f"segmentation: {name} is {value}, expected {lowest} or more")
        if self.min_seconds is not None and not 0 <= self.min_seconds <= self.max_seconds / 2:
            raise ConfigError(
                f"segmentation: min_seconds is {self.min_seconds}, expected 0 to half of "
                f"max_seconds ({self.max_seconds / 2})"
            )


@dataclass(frozen=True)
class Span:
    """A part of a recording, in samples at the recording's own rate."""

    offset: int
    frames: int
