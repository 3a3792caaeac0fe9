"""fairseq models: importing registers their archs."""

from cress_svcd.models import ctc_hubert, hubert_transformer, masked_hubert  # noqa: F401
