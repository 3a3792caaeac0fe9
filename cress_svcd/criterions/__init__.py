"""fairseq criterions: importing registers them."""

from cress_svcd.criterions import ctc_and_units, speech_and_text_translation  # noqa: F401
