"""Speech translation with packed 1-bit models, without torch.

  from cress_runtime import Translator

  translator = Translator("model.cress")
  print(translator.translate("talk.flac").text)

``cress-svcd export`` makes the file.
"""

from cress_runtime.errors import AudioError, CressError
from cress_runtime.result import Hypothesis, Segment, Translation, Word
from cress_runtime.translator import Translator

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "CressError",
    "Hypothesis",
    "Segment",
    "Translation",
    "Translator",
    "Word",
]
