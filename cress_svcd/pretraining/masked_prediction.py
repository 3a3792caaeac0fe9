"""HuBERT's masked prediction, in several processes, without waiting for the device."""

from typing import Any

from fairseq import utils
from fairseq.criterions import register_criterion
from fairseq.criterions.hubert_criterion import HubertCriterion, HubertCriterionConfig
from torch import Tensor

from cress_svcd.errors import ConfigError
from cress_svcd.pretraining.frame_loss import frame_loss


@register_criterion("masked_prediction", dataclass=HubertCriterionConfig)
class MaskedPredictionCriterion(HubertCriterion):
    """fairseq's criterion: the same options, loss and log.

    The loss is that of all frames, of which those that are not predicted weigh nothing; fairseq
    picks out the others and reads each number that it logs.  What is logged is summed over the
    processes, for all of it is sums; fairseq gathers it by way of tensors on the GPU, which fails
    where there is none.
    """

    def forward(self, model, sample, reduce: bool = True, log_pred: bool = False):
        """Loss (a sum), number of frames predicted, and what is to be logged.

        Raises:
            ConfigError: frames weigh something that the model skips.
        """
        if "masks" not in sample:
            sample = {**sample, **model.draw_masks(sample)}
        device = sample["net_input"]["source"].device
        masks = {name: mask.to(device) for name, mask in sample["masks"].items()}
        output = model(target_list=sample["target_list"], masks=masks, **sample["net_input"])
        loss, size, logged = 0.0, 0, {}
        for kind, frames, weight, skipped in (
            ("m", output["masked"], self.pred_masked_weight, model.skip_masked),
            ("u", output["unmasked"], self.pred_nomask_weight, model.skip_nomask),
        ):
            if skipped and weight > 0:
                raise ConfigError(
                    "criterion.pred_masked_weight and pred_nomask_weight: frames that "
                    "model.skip_masked or skip_nomask skips weigh something; expected 0"
                )
            if skipped:
                continue
            losses, own = self._prediction(output, frames, kind)
            logged |= own
            if weight > 0:
                loss, size = loss + weight * losses, size + frames.sum()
        for name, value, coefficient in self._extra(model, output):
            extra = coefficient * value.float() * size
            loss = loss + extra
            logged[f"loss_{name}"] = extra.detach()
        logged |= {key: output[key].detach() for key in self.log_keys if key in output}
        plain = self.plain_log(sample)
        return loss, plain["sample_size"], {"loss": loss.detach(), **plain, **logged}

    @staticmethod
    def _prediction(output: dict[str, Any], frames: Tensor, kind: str) -> tuple[Tensor, dict]:
        """Loss of ``frames`` (batch, time) over all kinds of labels, and its part of the log."""
        losses, logged = [], {}
        for place, (logits, targets) in enumerate(zip(output["logits"], output["targets"])):
            loss, correct, count = frame_loss(logits, targets, frames)
            losses.append(loss)
            logged[f"loss_{kind}_{place}"] = loss.detach()
            logged[f"correct_{kind}_{place}"] = correct
            logged[f"count_{kind}_{place}"] = count
        return sum(losses), logged

    def _extra(self, model, output: dict[str, Any]) -> list[tuple[str, Tensor, float]]:
        """Further losses of the model, with their names and weights."""
        if self.loss_weights is None:
            return []
        values, names = model.get_extra_losses(output)
        weights = list(self.loss_weights)
        weights = weights * len(values) if len(weights) == 1 else weights
        return [part for part in zip(names, values, weights, strict=True) if part[2] != 0]

    def plain_log(self, sample: dict) -> dict[str, int]:
        """What is logged of a batch with masks that the host knows without running it."""
        masked, unmasked = sample["predicted"]
        size = masked * (self.pred_masked_weight > 0) + unmasked * (self.pred_nomask_weight > 0)
        return {"ntokens": size, "nsentences": len(sample["id"]), "sample_size": size}

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict]) -> None:
        """As fairseq's, of numbers: it would keep tensors on the device."""
        HubertCriterion.reduce_metrics(
            [{key: utils.item(value) for key, value in log.items()} for log in logging_outputs]
        )

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
