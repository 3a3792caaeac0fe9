"""fairseq models: importing registers their archs."""

from cress_svcd.models import (  # noqa: F401
    hubert_deltalm,
    hubert_transformer,
    quant_deltalm,
    quant_transformer,
)
