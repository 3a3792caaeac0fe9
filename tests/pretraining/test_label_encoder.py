import pytest
import torch
from fairseq.data import Dictionary
from fairseq.tasks import hubert_pretraining

from cress_svcd.pretraining.label_encoder import LabelEncoder


@pytest.mark.parametrize("text", ["a b é", "", "  b\t\u3000a \n", "x a", "| | a", "<pad> a </s>"])
def test_labels_are_fairseqs(text):
    dictionary = Dictionary()
    for symbol in "abé|":
        dictionary.add_symbol(symbol)
    theirs = hubert_pretraining.LabelEncoder(dictionary)(text).long()
    ours = LabelEncoder(dictionary)(text)
    assert ours.dtype == torch.int64 and torch.equal(ours, theirs)
