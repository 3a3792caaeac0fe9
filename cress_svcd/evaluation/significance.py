"""Paired bootstrap resampling (Koehn 2004) between translations of the same sentences.

The resampling is sacreBLEU's own.  Its p-value is two-sided: the share of resamples in which the
size of the difference is above its mean by more than the difference that was found.
"""

import contextlib
import os
from collections.abc import Iterator

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest, Result

from cress_svcd.evaluation.bleu_chrf import measure


def compare(
    systems: dict[str, list[str]],
    references: list[str],
    tokenize: str = "13a",
    resamples: int = 1000,
    seed: int = 12345,
) -> dict:
    """Scores of several systems, and how sure it is that each differs from the first.

    Args:
        systems: name → detokenised hypotheses, in the order of ``references``; first the baseline.
        references: one for each sentence.
        tokenize: sacreBLEU tokenizer.
        resamples: of the bootstrap.
        seed: 1 or more; the same seed gives the same figures.
    Returns:
        ``baseline``, ``resamples``, ``seed``, ``bleu_signature``, ``chrf_signature``, and
        ``systems``: for each ``name``, ``bleu``, ``chrf``, ``length_ratio``, ``sentences``,
        ``bleu_interval`` and ``chrf_interval`` (half of the 95 % confidence interval), and for all
        but the baseline ``bleu_difference``, ``bleu_p``, ``chrf_difference``, ``chrf_p`` and
        ``same_sentences``, how many hypotheses are those of the baseline.  Where all are, there is
        nothing to test, and p is None (sacreBLEU would find the difference of 0 significant).
    """
    metrics = {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF()}
    # The only way to tell it the seed.
    with _environment("SACREBLEU_SEED", str(seed)):
        test = PairedTest(
            list(systems.items()), metrics, [references], test_type="bs", n_samples=resamples
        )
    signatures, results = test()
    by_metric = dict(zip(metrics, (results[name] for name in test.metrics)))
    baseline, *_ = systems
    rows = []
    for number, (name, hypotheses) in enumerate(systems.items()):
        row = {"name": name, **measure(hypotheses, references, tokenize)}
        row = {key: value for key, value in row.items() if not key.endswith("_signature")}
        same = sum(map(str.__eq__, hypotheses, systems[baseline]))
        for metric, found in by_metric.items():
            row[f"{metric}_interval"] = round(float(found[number].ci), 2)
            if number:
                row |= _against(metric, found[number], found[0], same == len(hypotheses))
        if number:
            row["same_sentences"] = same
        rows.append(row)
    return {
        "baseline": baseline,
        "resamples": resamples,
        "seed": seed,
        **{
            f"{metric}_signature": str(signatures[name])
            for metric, name in zip(metrics, test.metrics)
        },
        "systems": rows,
    }


def _against(metric: str, result: Result, baseline: Result, identical: bool) -> dict:
    return {
        f"{metric}_difference": round(float(result.score - baseline.score), 2),
        f"{metric}_p": None if identical else round(float(result.p_value), 4),
    }


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Context in which an environment variable has a value."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
