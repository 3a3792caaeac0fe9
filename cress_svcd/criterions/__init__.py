"""fairseq criterions: importing registers them."""

from cress_svcd.criterions import (  # noqa: F401
    ctc_and_units,
    masked_prediction,
    speech_and_text_translation,
)
