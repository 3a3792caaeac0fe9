"""What the options say without importing what computes is what that computes with."""

from sacrebleu.metrics import BLEU

from cress_svcd import kernels
from cress_svcd.cli import arguments, pack
from cress_svcd.evaluation import sensitivity
from cress_svcd.inference import packed_tensors
from cress_svcd.translation import translator


def test_choices_and_defaults_are_those_of_the_code():
    assert arguments.BACKENDS == kernels.BACKENDS
    assert arguments.BATCH_SECONDS == translator.BATCH_SECONDS
    assert arguments.GROUPINGS == sensitivity.GROUPINGS
    assert tuple(BLEU.TOKENIZERS) == arguments.TOKENIZERS
    assert tuple(packed_tensors.DTYPES) == pack.DTYPES
