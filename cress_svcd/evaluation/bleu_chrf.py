"""BLEU and chrF by sacreBLEU, in one run of fairseq-generate."""

from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass
from fairseq.scoring import BaseScorer, register_scorer
from sacrebleu.metrics import BLEU, CHRF


@dataclass
class BleuChrfConfig(FairseqDataclass):
    """Options of the scorer."""

    bleu_tokenize: str = field(
        default="13a", metadata={"help": "sacreBLEU tokenizer (13a, intl, char, none, …)"}
    )


def measure(hypotheses: list[str], references: list[str], tokenize: str = "13a") -> dict:
    """Corpus BLEU and chrF with their signatures and the length ratio.

    Returns:
        ``bleu``, ``chrf`` (0 to 100), ``length_ratio`` (hypothesis over reference tokens),
        ``sentences``, ``bleu_signature``, ``chrf_signature``.
    """
    bleu, chrf = BLEU(tokenize=tokenize), CHRF()
    bleu_score = bleu.corpus_score(hypotheses, [references])
    chrf_score = chrf.corpus_score(hypotheses, [references])
    return {
        "bleu": round(bleu_score.score, 2),
        "chrf": round(chrf_score.score, 2),
        "length_ratio": round(bleu_score.sys_len / max(bleu_score.ref_len, 1), 3),
        "sentences": len(hypotheses),
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


@register_scorer("bleu_chrf", dataclass=BleuChrfConfig)
class BleuChrfScorer(BaseScorer):
    """``--scoring bleu_chrf``: BLEU and chrF over detokenised text."""

    def score(self) -> float:
        return measure(self.pred, self.ref, self.cfg.bleu_tokenize)["bleu"]

    def result_string(self) -> str:
        result = measure(self.pred, self.ref, self.cfg.bleu_tokenize)
        return (
            f"BLEU = {result['bleu']:.2f} chrF2 = {result['chrf']:.2f} "
            f"length ratio = {result['length_ratio']:.3f} sentences = {result['sentences']} "
            f"{result['bleu_signature']} {result['chrf_signature']}"
        )
