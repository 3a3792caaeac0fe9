"""Segments of recordings as the batches that a model translates."""

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.data import Dictionary, data_utils

from cress_svcd.data.audio import standardize
from cress_svcd.data.dataset import SpeechTranslationDataset
from cress_svcd.translation.loudness import at_usual_loudness
from cress_svcd.translation.recordings import Segment


class Waveforms(SpeechTranslationDataset):
    """Speech in memory, to be translated."""

    def __init__(
        self,
        segments: Sequence[Segment],
        dictionary: Dictionary,
        normalize: bool,
        length_multiple: int,
    ):
        sizes = [len(segment.wave) for segment in segments]
        super().__init__(
            [], sizes, None, None, dictionary, normalize=normalize, length_multiple=length_multiple
        )
        self.segments, self.dictionary = segments, dictionary

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> dict[str, Any]:
        wave = at_usual_loudness(self.segments[index].wave)
        wave = standardize(wave) if self.normalize else wave
        return {"id": index, "audio": torch.from_numpy(wave), "target": None, "source": None}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch, with what its translations must begin with where any of them must."""
        batch: dict[str, Any] = super().collater(samples)
        prefixes = [self.segments[number].prefix for number in batch["id"].tolist()]
        if any(prefixes):
            tokens = [[self.dictionary.index(token) for token in prefix] for prefix in prefixes]
            rows = [torch.tensor(row, dtype=torch.long) for row in tokens]
            batch["prefix_tokens"] = data_utils.collate_tokens(rows, self.dictionary.pad())
        return batch
