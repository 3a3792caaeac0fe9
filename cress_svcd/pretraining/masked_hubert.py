"""fairseq's HuBERT under masked prediction, repeatable and without its memory peak."""

import torch
from fairseq.data.data_utils import compute_mask_indices
from fairseq.models import register_model
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from torch import Tensor


@register_model("masked_hubert", dataclass=HubertConfig)
class MaskedHubert(HubertModel):
    """The same parameters and the same numbers as fairseq's ``hubert``, but for two things.

    - fairseq draws its masks from the operating system's entropy; here they come from torch's
      generator, which the trainer seeds at each update: the same seed, the same model.
    - fairseq copies all label embeddings for each frame before it compares them (units × frames ×
      dimensions); here they are compared by a matrix product.
    """

    @classmethod
    def build_model(cls, cfg: HubertConfig, task) -> "MaskedHubert":
        return cls(cfg, task.cfg, task.dictionaries)

    def apply_mask(
        self, x: Tensor, padding_mask: Tensor | None, target_list: list[Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Mask spans of time and of channels of ``x``, (batch, time, channels).

        Also returns the time mask, (batch, time).
        """
        batch, frames, channels = x.shape
        mask = None
        if self.mask_prob > 0:
            mask = _spans(
                (batch, frames),
                # fairseq looks at each row of it on its own, which would stop a GPU each time.
                None if padding_mask is None else padding_mask.cpu(),
                self.mask_prob,
                self.mask_length,
                self.mask_selection,
                self.mask_other,
                min_masks=2,
                no_overlap=self.no_mask_overlap,
                min_space=self.mask_min_space,
            ).to(x.device)
            x = torch.where(mask.unsqueeze(2), self.mask_emb.type_as(x), x)
        if self.mask_channel_prob > 0:
            masked_channels = _spans(
                (batch, channels),
                None,
                self.mask_channel_prob,
                self.mask_channel_length,
                self.mask_channel_selection,
                self.mask_channel_other,
                no_overlap=self.no_mask_channel_overlap,
                min_space=self.mask_channel_min_space,
            ).to(x.device)
            x = x.masked_fill(masked_channels.unsqueeze(1), 0)
        return x, mask

    def compute_nce(self, x: Tensor, pos: Tensor, negs: Tensor) -> Tensor:
        """Logits over the right label and all labels, the right one among them struck out.

        Args:
            x: projected frames, (frames, channels).
            pos: embedding of each frame's label, (frames, channels).
            negs: embeddings of all labels, the same for each frame: (labels, frames, channels).
        Returns:
            (frames, 1 + labels), the right label first.
        """
        if len(x) == 0:
            return super().compute_nce(x, pos, negs)
        labels = negs[:, 0]
        frames = torch.nn.functional.normalize(x.float(), dim=-1)
        to_labels = frames @ torch.nn.functional.normalize(labels.float(), dim=-1).T
        right = _equal_rows(pos, labels)
        to_right = torch.cosine_similarity(x.float(), pos.float(), dim=-1).unsqueeze(1)
        logits = torch.cat([to_right, to_labels.masked_fill(right, float("-inf"))], dim=1)
        return logits.type_as(x) / self.logit_temp


def _spans(shape: tuple[int, int], *arguments, **options) -> Tensor:
    """fairseq's random spans, drawn with a seed that comes from torch's generator."""
    seed = int(torch.randint(2**31, ()))
    rows = torch.arange(shape[0])
    spans = compute_mask_indices(shape, *arguments, seed=seed, epoch=0, indices=rows, **options)
    return torch.from_numpy(spans)


def _equal_rows(rows: Tensor, others: Tensor) -> Tensor:
    """Where a row equals one of the others: bool, (rows, others).

    Without a tensor of (rows, others, channels).
    """
    equal = rows[:, :1] == others[:, 0]
    first, second = equal.nonzero(as_tuple=True)
    equal[first, second] = (rows[first] == others[second]).all(dim=-1)
    return equal
