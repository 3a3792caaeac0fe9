"""What became of the rows of a split: how many were kept, and why the others were dropped."""

import dataclasses

WARNINGS_SHOWN = 5  # of each kind

# Reasons for dropping a segment, in the order in which they are reported.
NO_TEXT = "empty text"
UNREADABLE = "unreadable audio"
PAST_END = "past the end of the audio"
TOO_SHORT = "too short"
TOO_LONG = "too long"
NOT_FINITE = "NaN or infinite samples"
SILENT = "silent"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Shortest and longest segment to keep, in samples at 16 kHz, both included.

    ``max_frames`` is for training only: a test set that has lost sentences gives other scores.
    """

    min_frames: int = 1_000
    max_frames: int = 480_000


@dataclasses.dataclass
class SplitReport:
    """What became of a split's rows.  ``dropped`` counts segments by reason."""

    rows: int
    audio_files: int
    segments: int = 0
    hours: float = 0.0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    longer_than_limit_but_kept: int = 0
    clipped_at_end: int = 0
    texts_normalised: int = 0
    duplicates: int = 0
