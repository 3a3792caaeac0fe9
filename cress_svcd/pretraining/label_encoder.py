"""Labels as text to indices: of every segment, in every epoch."""

import torch
from fairseq.data import Dictionary
from torch import Tensor


class LabelEncoder:
    """Encodes labels as fairseq's does, in a tenth of the time: that writes them into a tensor one
    by one, which took as long as reading the audio.

    Args:
        dictionary: of the labels; others are unknown.
    """

    def __init__(self, dictionary: Dictionary):
        self.dictionary = dictionary

    def __call__(self, text: str) -> Tensor:
        """Indices of the labels, which stand between white space: (labels)."""
        known, unknown = self.dictionary.indices, self.dictionary.unk()
        return torch.tensor(
            [known.get(label, unknown) for label in text.split()], dtype=torch.int64
        )
