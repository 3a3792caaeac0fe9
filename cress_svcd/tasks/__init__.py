"""fairseq tasks: importing registers them."""

from cress_svcd.tasks import speech_and_text_translation  # noqa: F401
