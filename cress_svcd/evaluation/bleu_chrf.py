"""BLEU, chrF and exact match, in one run of fairseq-generate; BLEU and chrF are sacreBLEU's."""

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
    """Corpus BLEU, chrF and exact match with their signatures and the length ratio.

    Returns:
        ``bleu``, ``chrf`` (0 to 100), ``exact_match`` (percent of the hypotheses that are their
        reference, spaces at the ends aside), ``reference_4grams`` (how many BLEU has to find: of 0
        it means nothing, see ``without_4grams``), ``length_ratio`` (hypothesis over reference
        tokens), ``sentences``, ``bleu_signature``, ``chrf_signature``.
    """
    bleu, chrf = BLEU(tokenize=tokenize), CHRF()
    bleu_score = bleu.corpus_score(hypotheses, [references])
    chrf_score = chrf.corpus_score(hypotheses, [references])
    # What sacreBLEU counts in hypotheses, counted in the references.
    found = BLEU(tokenize=tokenize).corpus_score(references, [references]).totals[3]
    same = sum(hyp.strip() == ref.strip() for hyp, ref in zip(hypotheses, references, strict=True))
    return {
        "bleu": round(bleu_score.score, 2),
        "chrf": round(chrf_score.score, 2),
        "exact_match": round(100 * same / max(len(references), 1), 2),
        "reference_4grams": found,
        "length_ratio": round(bleu_score.sys_len / max(bleu_score.ref_len, 1), 3),
        "sentences": len(hypotheses),
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


def without_4grams(scores: dict) -> str:
    """A line for people where BLEU means nothing, else nothing.

    BLEU is the geometric mean of the precisions of 1- to 4-grams: where no reference is four tokens
    long, it is 0 for a perfect translation, too.

    Args:
        scores: of :func:`measure`; those that an earlier version wrote have no such line.
    """
    if scores.get("reference_4grams", 1):
        return ""
    return (
        "BLEU means nothing here, as no reference has four tokens; "
        f"exact match {scores['exact_match']:.2f} %, chrF2 {scores['chrf']:.2f}"
    )


@register_scorer("bleu_chrf", dataclass=BleuChrfConfig)
class BleuChrfScorer(BaseScorer):
    """``--scoring bleu_chrf``: BLEU and chrF over detokenised text, chrF alone where BLEU means
    nothing."""

    def score(self) -> float:
        result = measure(self.pred, self.ref, self.cfg.bleu_tokenize)
        return result["chrf" if without_4grams(result) else "bleu"]

    def result_string(self) -> str:
        result = measure(self.pred, self.ref, self.cfg.bleu_tokenize)
        warning = without_4grams(result)
        return (
            f"BLEU = {result['bleu']:.2f} chrF2 = {result['chrf']:.2f} "
            f"length ratio = {result['length_ratio']:.3f} sentences = {result['sentences']} "
            f"{result['bleu_signature']} {result['chrf_signature']}"
            + (f" ({warning})" if warning else "")
        )
