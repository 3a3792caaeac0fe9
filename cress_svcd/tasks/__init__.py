"""fairseq tasks: importing registers them."""

from cress_svcd.tasks import (  # noqa: F401
    segment_hubert_pretraining,
    speech_and_text_translation,
)
