"""Several target languages in one model.

The vocabulary has a tag for each language, ``<lang:de>`` as in fairseq's multilingual data.  The
decoder's first input is the tag of the language that it is to write, where it is the end of the
sentence in a model of one language.  Targets hold no tag: losses, references and translations are
those of one language.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cress_svcd.data.corpus.vocabulary import tag_of
from cress_svcd.errors import ConfigError

if TYPE_CHECKING:
    import pandas
    from fairseq.data import Dictionary


def tag_indices(
    dictionary: "Dictionary", languages: Sequence[str], source: object
) -> dict[str, int]:
    """Language -> index of its tag.

    Args:
        source: file of the dictionary, for messages.
    Raises:
        ConfigError: the dictionary lacks one.
    """
    found = {language: dictionary.index(tag_of(language)) for language in languages}
    missing = [language for language, index in found.items() if index == dictionary.unk()]
    if missing:
        raise ConfigError(
            f"{source}: no entry {tag_of(missing[0])}, which a translation to {missing[0]} begins "
            "with; expected the dictionary that prepare-mustc wrote for these languages"
        )
    return found


def require_one(language: str | None, languages: Sequence[str], what: str) -> None:
    """Raise ConfigError unless ``language`` is one of ``languages``.

    Args:
        what: has several target languages, for the message.
    """
    if language in languages:
        return
    given = f", not to {language}" if language else ""
    raise ConfigError(
        f"{what} translates to {', '.join(languages)}{given}: choose one with --tgt-lang (in "
        "Python target_lang=)"
    )


def choose_rows(
    frame: "pandas.DataFrame", languages: Sequence[str], wanted: str | None, path: object
) -> "pandas.DataFrame":
    """The rows of a manifest that are translated to ``wanted``; None: all.  Their index stays.

    Raises:
        ConfigError: a row is of a language that the data has not, or none is left.
    """
    other = ~frame["tgt_lang"].isin(list(languages))
    if other.any():
        row = int(other.to_numpy().argmax())
        raise ConfigError(
            f"{path}:{row + 2}: column tgt_lang: {frame['tgt_lang'].iloc[row]!r:.40}; expected "
            f"one of tgt_langs of the config: {', '.join(languages)}"
        )
    chosen = frame if wanted is None else frame[frame["tgt_lang"] == wanted]
    if chosen.empty:
        raise ConfigError(f"{path}: column tgt_lang: no row of {wanted}, which was asked for")
    return chosen


def repeats(
    languages: Sequence[str], sizes: Sequence[int], alpha: float, seed: int
) -> np.ndarray | None:
    """How often each example comes in an epoch, so that languages have shares ~ size ** alpha.

    The temperature of Arivazhagan et al. 2019 (arXiv:1907.05019) is 1 / alpha.  No example is left
    out: the largest language comes once, the others more often.

    Args:
        languages: of each example.
        sizes: of each example, in samples or tokens.
        seed: of the examples that come once more where a share asks for a part of them.
    Returns:
        (examples,), or None where each comes once.
    Raises:
        ConfigError: alpha is not within 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"--sampling-alpha {alpha:g}: expected 0 (equal shares) to 1 (as it is)")
    names, own = np.unique(np.asarray(languages, dtype=str), return_inverse=True)
    totals = np.bincount(own, weights=np.asarray(sizes, dtype=float))
    ratios = (totals / totals.max()) ** (alpha - 1)
    if np.allclose(ratios, 1):
        return None
    counts = np.floor(ratios).astype(np.int64)[own]
    random = np.random.default_rng(seed)
    for number, ratio in enumerate(ratios):
        rows = np.flatnonzero(own == number)
        more = round((ratio - np.floor(ratio)) * len(rows))
        counts[random.permutation(rows)[:more]] += 1
    return counts


class BeginsWithTag:
    """Mixed into datasets: what a translation begins with, and how often an example comes.

    starts: (examples,) index of the decoder's first input; None: the end of the sentence.
    counts: see ``repeats``.
    """

    starts: np.ndarray | None = None
    counts: np.ndarray | None = None

    def repeated(self, order: np.ndarray) -> np.ndarray:
        """Indices in ``order``; then, in the same order, those that come more often, and so on.

        Copies lie far from each other, so that a batch has one of them.
        """
        if self.counts is None:
            return order
        own = self.counts[order]
        return np.concatenate([order[own > turn] for turn in range(int(own.max()))])

    def with_starts(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A collated batch with ``start_tokens`` (batch,) and the decoder's input of them."""
        if not batch or self.starts is None:
            return batch
        batch["start_tokens"] = torch.from_numpy(self.starts[batch["id"].numpy()])
        inputs = batch["net_input"].get("prev_output_tokens")
        if inputs is not None:
            inputs[:, 0] = batch["start_tokens"]
        return batch
