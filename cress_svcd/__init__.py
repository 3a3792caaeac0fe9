"""cress_svcd: 1-bit speech translation as a fairseq plug-in (``--user-dir cress_svcd``).

Importing the package registers its tasks, criterions, models, optimizer, learning-rate schedulers
and scorers with fairseq, if fairseq is installed; nothing else happens.  The folders
``quantization`` and ``kernels`` work without fairseq.
"""

import importlib.util

__version__ = "0.1.0"

if importlib.util.find_spec("fairseq") is not None:
    from cress_svcd.training import fairseq_patches

    fairseq_patches.apply()

    from cress_svcd import models, tasks  # noqa: F401
    from cress_svcd.evaluation import bleu_chrf  # noqa: F401
    from cress_svcd.pretraining import (  # noqa: F401
        ctc_and_units,
        ctc_hubert,
        masked_hubert,
        masked_prediction,
        task,
    )
    from cress_svcd.training import criterion, quant_adam, warmup_scheduler  # noqa: F401
