"""HuBERT's masked prediction in several processes on any device."""

from fairseq.criterions import register_criterion
from fairseq.criterions.hubert_criterion import HubertCriterion, HubertCriterionConfig


@register_criterion("masked_prediction", dataclass=HubertCriterionConfig)
class MaskedPredictionCriterion(HubertCriterion):
    """fairseq's criterion, whose logged numbers are summed over the processes.

    All of them are sums.  fairseq gathers them one by one instead, by way of tensors on the GPU,
    which fails where there is none.
    """

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
