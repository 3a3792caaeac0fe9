"""What the options say without importing what computes is what that computes with."""

import argparse

import pytest
from sacrebleu.metrics import BLEU

from cress_svcd import kernels
from cress_svcd.cli import arguments, pack
from cress_svcd.cli.main import COMMANDS, build_command_parser
from cress_svcd.evaluation import sensitivity
from cress_svcd.inference import packed_tensors
from cress_svcd.translation import translator


def test_choices_and_defaults_are_those_of_the_code():
    assert arguments.BACKENDS == kernels.BACKENDS
    assert arguments.BATCH_SECONDS == translator.BATCH_SECONDS
    assert arguments.GROUPINGS == sensitivity.GROUPINGS
    assert tuple(BLEU.TOKENIZERS) == arguments.TOKENIZERS
    assert tuple(packed_tensors.DTYPES) == pack.DTYPES


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_of_threads_and_processes_are_checked_by_every_command(name):
    known = build_command_parser(name)._option_string_actions
    for option in {"--workers", "--threads"} & known.keys():
        for count in ("-1", "100000", "many", "9" * 5_000):
            with pytest.raises(argparse.ArgumentTypeError, match="expected"):
                known[option].type(count)
        if name != "extract-features":  # which reads in its own process then
            with pytest.raises(argparse.ArgumentTypeError, match="is 0, expected 1 to"):
                known[option].type("0")
