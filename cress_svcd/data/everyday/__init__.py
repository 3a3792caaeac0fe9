"""Everyday English with translations, composed from a lexicon and a grammar.

For demos and tests that need a parallel corpus whose every pair is right, that is theirs to give
away, and that is rich enough for a model to have to listen: some 500 word forms, numbers, clock
times and dates, questions, negation, modals, subordinate and relative clauses.

``composer`` draws what a sentence means (``meaning``) from ``concepts``; ``english`` and one
module a target language put it into words.  A further language is a module with a function
``linearize(sentence) -> str`` (its word list beside it), named in ``corpus.LANGUAGES``.
"""

from cress_svcd.data.everyday.corpus import (
    LANGUAGES,
    Corpus,
    Pair,
    describe,
    make_corpus,
    write_corpus,
)

__all__ = ["LANGUAGES", "Corpus", "Pair", "describe", "make_corpus", "write_corpus"]
