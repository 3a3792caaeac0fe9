"""cress_svcd: 1-bit speech translation as a fairseq plug-in (``--user-dir cress_svcd``).

Importing the package registers its tasks, criterions, models, optimizer, learning-rate schedulers
and scorers with fairseq, if fairseq is installed: at once where fairseq has been imported before,
else as soon as fairseq is, or a module of ours that needs it.  The folders ``quantization`` and
``kernels`` work without fairseq.

    translator = cress_svcd.Translator.load("model.packed.pt")
"""

import importlib
import importlib.util
from typing import Any

from cress_svcd.registration import register_in_time

__version__ = "0.1.0"

register_in_time()


def __getattr__(name: str) -> Any:
    """``Translator`` and the folders of the package, imported when they are asked for."""
    if name == "Translator":
        return importlib.import_module("cress_svcd.translation.translator").Translator
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
