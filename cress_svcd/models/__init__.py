"""fairseq models: importing registers their archs."""

from cress_svcd.models import (  # noqa: F401
    ctc_hubert,
    hubert_deltalm,
    hubert_transformer,
    masked_hubert,
    quant_deltalm,
    quant_transformer,
)
