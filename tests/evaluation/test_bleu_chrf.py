"""The scorer gives sacreBLEU's own numbers."""

import pytest
import sacrebleu
from fairseq import scoring
from omegaconf import OmegaConf

from cress_svcd.evaluation.bleu_chrf import measure, without_4grams

HYPOTHESES = ["Der Hund sieht das Haus.", "Meine Frau kauft heute einen Apfel!", "Wasser", ""]
REFERENCES = ["Der Hund sieht ein Haus.", "Meine Frau kauft einen Apfel.", "Wasser.", "Ja."]


@pytest.mark.parametrize("tokenize", ["13a", "char", "none"])
def test_measures_as_sacrebleu_does(tokenize):
    result = measure(HYPOTHESES, REFERENCES, tokenize)
    bleu = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES], tokenize=tokenize)
    chrf = sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES])
    assert result["bleu"] == round(bleu.score, 2) > 0
    assert result["chrf"] == round(chrf.score, 2) > 0
    assert result["length_ratio"] == round(bleu.sys_len / bleu.ref_len, 3)
    assert result["sentences"] == 4
    assert f"tok:{tokenize}" in result["bleu_signature"]
    assert result["chrf_signature"].startswith("nrefs:1")


def test_the_same_text_gives_a_hundred():
    result = measure(REFERENCES, REFERENCES)
    assert (result["bleu"], result["chrf"], result["length_ratio"]) == (100, 100, 1)


def test_as_a_scorer_of_fairseq():
    cfg = OmegaConf.create({"_name": "bleu_chrf", "bleu_tokenize": "13a"})
    scorer = scoring.build_scorer(cfg, tgt_dict=None)
    for reference, hypothesis in zip(REFERENCES, HYPOTHESES):
        scorer.add_string(reference, hypothesis)
    wanted = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert scorer.score() == pytest.approx(wanted, abs=0.005)
    chrf = sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    line = scorer.result_string()
    assert f"BLEU = {wanted:.2f} chrF2 = {chrf:.2f}" in line and "sentences = 4" in line


def scorer_of(hypotheses, references):
    cfg = OmegaConf.create({"_name": "bleu_chrf", "bleu_tokenize": "13a"})
    scorer = scoring.build_scorer(cfg, tgt_dict=None)
    for reference, hypothesis in zip(references, hypotheses):
        scorer.add_string(reference, hypothesis)
    return scorer


DIGITS = ["eins", "zwei", "drei hundert fünf", "vier"]
HEARD = ["eins ", "zwei", "drei hundert sechs", "fier"]


@pytest.mark.parametrize("hypotheses, exact", [(DIGITS, 100), (HEARD, 50)])
def test_where_no_reference_has_four_tokens_bleu_is_said_to_mean_nothing(hypotheses, exact):
    result = measure(hypotheses, DIGITS)
    assert result["bleu"] == 0 and result["reference_4grams"] == 0
    chrf = sacrebleu.corpus_chrf(hypotheses, [DIGITS]).score
    assert result["exact_match"] == exact and result["chrf"] == round(chrf, 2)
    line = f"exact match {exact:.2f} %, chrF2 {chrf:.2f}"
    assert "means nothing" in without_4grams(result) and line in without_4grams(result)
    scorer = scorer_of(hypotheses, DIGITS)
    assert line in scorer.result_string() and scorer.score() == pytest.approx(chrf, abs=0.005)


@pytest.mark.parametrize("tokenize, found", [("13a", 1), ("none", 0), ("char", 10 - 3 + 5 - 3)])
def test_four_tokens_in_one_reference_are_enough(tokenize, found):
    references = ["Ja, ein Hund", "Nein."]
    result = measure(["x", "y"], references, tokenize)
    assert result["reference_4grams"] == found
    if not found:
        return
    assert not without_4grams(result) and result["exact_match"] == 0
    assert "nothing" not in scorer_of(["x", "y"], references).result_string()


def test_scores_that_an_earlier_version_wrote_have_no_such_line():
    assert not without_4grams({"bleu": 0.0, "chrf": 50.0})
