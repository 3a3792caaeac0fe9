"""The scorer gives sacreBLEU's own numbers."""

import pytest
import sacrebleu
from fairseq import scoring
from omegaconf import OmegaConf

from cress_svcd.evaluation.bleu_chrf import measure

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
