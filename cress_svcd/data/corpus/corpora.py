"""All corpora by the name that ``--corpus`` takes.

To add one: a file here with a class that answers as ``corpus.Corpus`` says, and a line in CORPORA.
"""

from cress_svcd.data.corpus.corpus import Corpus
from cress_svcd.data.corpus.mustc import Release

DEFAULT_CORPUS = "mustc"

CORPORA: dict[str, type[Corpus]] = {
    DEFAULT_CORPUS: Release,
}
