"""fairseq scorers: importing registers them (``--scoring bleu_chrf``)."""

from cress_svcd.scoring import bleu_chrf  # noqa: F401
