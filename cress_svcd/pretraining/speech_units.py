"""Labels for the frames of speech: clusters of acoustic features, or phones that are known.

HuBERT's frame ``i`` stands for the samples from 320·i to 320·i + 400 at 16 kHz: a frame each 20 ms.
A model whose convolutions stride twice as far has every other of these frames, one each 40 ms.  All
labels here belong to the model's frames, one for each.
"""

import itertools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np

from cress_svcd.atomic_files import replacing
from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.corpus.segment_rows import read_rows, segment_ids
from cress_svcd.data.corpus.text import read_lines
from cress_svcd.data.synthesis.speech import frame_phones
from cress_svcd.errors import ConfigError, ReleaseError

FRAME_SHIFT = 320
FRAME_LENGTH = 400
"""Samples that a frame advances, and that it sees, in HuBERT-Base."""

FRAME_SHIFTS = (FRAME_SHIFT, 2 * FRAME_SHIFT)
"""Samples that a frame of a model may advance."""

# Kaldi's features are defined on 16-bit samples.
_FULL_SCALE = 32768.0
_MFCC_SHIFT_MS = 10
# A segment may have been cut a little at the end of its talk.
_CLOCK_TOLERANCE_SECONDS = 0.1


def count_frames(samples: int, shift: int = FRAME_SHIFT) -> int:
    """Frames of an utterance, one each ``shift`` samples; 0 if it is shorter than one."""
    return max(0, (samples - FRAME_LENGTH) // shift + 1)


class MfccFeatures:
    """Mel-frequency cepstra with first and second differences, as for HuBERT's first iteration.

    Computed each 10 ms, which is what the differences refer to; every other frame is returned, or
    one each ``frame_shift`` samples.
    """

    dimension = 39

    def __init__(self, frame_shift: int = FRAME_SHIFT):
        self.frame_shift = frame_shift

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Features of shape (frames, 39) of a waveform at 16 kHz."""
        options = knf.MfccOptions()
        options.frame_opts.samp_freq = SAMPLE_RATE
        options.frame_opts.frame_shift_ms = _MFCC_SHIFT_MS
        options.frame_opts.snip_edges = True
        options.frame_opts.dither = 0.0  # the same audio shall give the same labels
        options.use_energy = False
        computer = knf.OnlineMfcc(options)
        computer.accept_waveform(SAMPLE_RATE, wave * _FULL_SCALE)
        computer.input_finished()
        frames = computer.num_frames_ready
        if frames == 0:
            return np.zeros((0, self.dimension), dtype=np.float32)
        cepstra = np.stack([computer.get_frame(index) for index in range(frames)])
        deltas = knf.DeltaOptions()
        deltas.order, deltas.window = 2, 2
        every = self.frame_shift * 1000 // (SAMPLE_RATE * _MFCC_SHIFT_MS)
        return knf.compute_deltas(deltas, cepstra)[::every]


@dataclass(frozen=True)
class Clusters:
    """A quantiser: a feature vector's label is the index of the nearest centroid.

    ``centroids`` has the shape (clusters, dimension).
    """

    centroids: np.ndarray

    def __len__(self) -> int:
        return len(self.centroids)

    def assign(self, features: np.ndarray) -> np.ndarray:
        """Labels of shape (frames,) for features of shape (frames, dimension)."""
        # |x - c|² without |x|², which is the same for all centroids.
        norms = 0.5 * np.square(self.centroids).sum(axis=1)
        return np.argmax(features @ self.centroids.T - norms, axis=1)

    def save(self, path: str | os.PathLike) -> None:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, centroids=self.centroids)


def fit_clusters(features: np.ndarray, clusters: int, seed: int) -> Clusters:
    """Cluster features of shape (frames, dimension) with mini-batch k-means.

    Raises ConfigError if there are fewer distinct frames than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    if len(np.unique(features, axis=0)) < clusters:
        raise ConfigError(
            f"units.clusters: {clusters} clusters of {len(features)} frames; expected more "
            "distinct frames than clusters: ask for fewer, or give more speech"
        )
    # Sizes and stopping rule as in HuBERT's recipe (Hsu et al. 2021).
    means = MiniBatchKMeans(
        n_clusters=clusters,
        init="k-means++",
        n_init=5,
        batch_size=10_000,
        max_iter=100,
        tol=0.0,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        random_state=seed,
    )
    means.fit(features)
    return Clusters(means.cluster_centers_.astype(np.float32))


def phone_events(files: Mapping[str, Path], split: str) -> Callable[..., list[str]]:
    """``PhoneEvents.labels`` of a split.

    Args:
        files: by split, or in a corpus of several target languages by ``LANGUAGE:SPLIT``.
    """
    places = {
        name.rpartition(":")[0]: path
        for name, path in files.items()
        if name.rpartition(":")[2] == split
    }
    events = {language: PhoneEvents(path) for language, path in places.items()}

    def labels(segment_id: str, samples: int, shift: int = FRAME_SHIFT) -> list[str]:
        for language, own in events.items():
            # As prepare-mustc makes ids of several languages.
            prefix = f"{language}_" if language else ""
            if segment_id.startswith(prefix):
                return own.labels(segment_id.removeprefix(prefix), samples, shift)
        raise ReleaseError(
            f"segment {segment_id!r} of {split} is of none of the languages with phones: "
            f"{', '.join(events)}; expected LANGUAGE:{split} for each"
        )

    return labels


class PhoneEvents:
    """When each phone of a split begins, by the id of the segment.

    Args:
        path: ``SPLIT.phones`` of ``cress-svcd speak --phones``: a line for each row of the
            ``SPLIT.yaml`` next to it, ``[[seconds, phone], ...]``.
    Raises:
        ReleaseError: a file is missing, or they do not belong together.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._lines = read_lines(path, ReleaseError)
        rows_path = self.path.with_suffix(".yaml")
        rows = read_rows(rows_path)
        if len(rows) != len(self._lines):
            raise ReleaseError(
                f"{path}: {len(self._lines)} lines, but {rows_path} has {len(rows)} rows; line n "
                "must belong to row n: take both from one release"
            )
        self._numbers = {name: number for number, name in enumerate(segment_ids(rows))}

    def __getitem__(self, segment_id: str) -> list[tuple[float, str]]:
        """The events of a segment.  Raises ReleaseError if it has none, or the line is broken."""
        number = self._numbers.get(segment_id)
        if number is None:
            example = next(iter(self._numbers), "none")
            raise ReleaseError(
                f"{self.path}: no line for segment {segment_id!r} of the manifest (this release "
                f"has segments such as {example!r}); give the .phones of the release that the "
                "data was prepared from"
            )
        try:
            events = [(float(start), str(name)) for start, name in json.loads(self._lines[number])]
        except (ValueError, TypeError, RecursionError):
            raise ReleaseError(
                f"{self.path}:{number + 1}: {self._lines[number][:60]!r}; expected a list of "
                '[seconds, "phone"] pairs'
            ) from None
        if not events or any(b < a for (a, _), (b, _) in itertools.pairwise(events)):
            raise ReleaseError(
                f"{self.path}:{number + 1}: expected at least one phone, in order of time"
            )
        return events

    def labels(self, segment_id: str, samples: int, shift: int = FRAME_SHIFT) -> list[str]:
        """The phone of each frame of a segment of ``samples`` at 16 kHz, a frame each ``shift``.

        Raises ReleaseError if the events run past the end: they are of another segment then.
        """
        events = self[segment_id]
        end = samples / SAMPLE_RATE
        if events[-1][0] > end + _CLOCK_TOLERANCE_SECONDS:
            raise ReleaseError(
                f"{self.path}:{self._numbers[segment_id] + 1}: the last phone begins at "
                f"{events[-1][0]:.2f} s, but segment {segment_id} ends at {end:.2f} s; give the "
                ".phones of the release that the data was prepared from"
            )
        return frame_phones(events, count_frames(samples, shift), SAMPLE_RATE / shift)
