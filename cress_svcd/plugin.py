"""The plug-in for fairseq: importing this module registers all of it.

Tasks, criterions, models, optimizer, learning-rate schedulers and scorers, after the patches that
fairseq needs.  :mod:`cress_svcd.registration` has it imported in time.
"""

from cress_svcd.training import fairseq_patches

fairseq_patches.apply()

from cress_svcd import models, tasks  # noqa: E402, F401
from cress_svcd.evaluation import bleu_chrf  # noqa: E402, F401
from cress_svcd.inference import cress_file  # noqa: E402, F401
from cress_svcd.pretraining import (  # noqa: E402, F401
    ctc_and_units,
    ctc_hubert,
    masked_hubert,
    masked_prediction,
    task,
)
from cress_svcd.training import criterion, quant_adam, warmup_scheduler  # noqa: E402, F401
