"""cress_svcd: 1-bit speech translation as a fairseq plug-in (``--user-dir cress_svcd``).

Importing the package registers its tasks, criterions, models, optimizer, learning-rate schedulers
and scorers with fairseq, if fairseq is installed; nothing else happens.  The floors
``quantization`` and ``kernels`` work without fairseq.
"""

import importlib.util

__version__ = "0.1.0"

if importlib.util.find_spec("fairseq") is not None:
    from cress_svcd import compat

    compat.apply()

    from cress_svcd import criterions, models, optim, schedulers, scoring, tasks  # noqa: F401
