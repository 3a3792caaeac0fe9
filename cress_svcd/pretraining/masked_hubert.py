"""fairseq's HuBERT under masked prediction: repeatable, of fixed shapes, and without waiting for a
GPU."""

from typing import Any

import torch
import torch.nn.functional as F
from fairseq.data.data_utils import compute_mask_indices
from fairseq.models import register_model
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.modules import GradMultiply
from torch import Tensor

from cress_svcd.models.hubert_checkpoint import parse_conv_layers
from cress_svcd.models.hubert_convolutions import frames_of_blocks, run_blocks
from cress_svcd.models.hubert_encoder import make_faster


@register_model("masked_hubert", dataclass=HubertConfig)
class MaskedHubert(HubertModel):
    """The same parameters and, but for rounding, the same numbers as fairseq's ``hubert``.

    - fairseq draws its masks from the operating system's entropy, in the midst of a step; here
      they come from torch's generator, which the trainer seeds at each update, and are drawn on the
      host before the step (:meth:`draw_masks`): the same seed, the same model.
    - fairseq picks the frames to be predicted out of the batch, for which the host waits for the
      GPU; here all frames are projected, and the criterion counts those that are predicted.
    - fairseq copies all label embeddings for each frame before it compares them (units × frames ×
      dimensions); here they are compared by a matrix product.
    """

    def __init__(self, cfg: HubertConfig, task_cfg, dictionaries: list):
        super().__init__(cfg, task_cfg, dictionaries)
        self.convolutions = parse_conv_layers(str(cfg.conv_feature_layers))
        make_faster(self.encoder)

    @classmethod
    def build_model(cls, cfg: HubertConfig, task) -> "MaskedHubert":
        return cls(cfg, task.cfg, task.dictionaries)

    def forward_features(self, source: Tensor) -> Tensor:
        """Waveforms (batch, samples) → (batch, channels, time), normalised with their padding.

        By blocks that can be captured on a GPU; a CPU is faster by fairseq's.
        """
        if not source.is_cuda:
            return super().forward_features(source)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.feature_grad_mult > 0):
            features = self.convolve(source)
        if 0 < self.feature_grad_mult != 1.0:
            features = GradMultiply.apply(features, self.feature_grad_mult)
        return features

    def convolve(self, source: Tensor) -> Tensor:
        """What fairseq's convolutions give, by :func:`run_blocks`; padding counts as sound."""
        counts = [
            torch.full((len(source),), length, device=source.device)
            for length in frames_of_blocks(source.size(1), self.convolutions)
        ]
        return run_blocks(self.feature_extractor.conv_layers, source, counts)

    def frames(self, samples: int, labels: int) -> int:
        """Frames of a batch of so many samples that have one of ``labels`` labels."""
        frames = frames_of_blocks(samples, self.convolutions)[-1]
        fits = self.feat2tar_ratio * frames <= labels
        return frames if fits else int(labels / self.feat2tar_ratio)

    def draw_masks(self, sample: dict) -> dict[str, Any]:
        """What a batch lacks to be run, on the host.

        Returns:
            ``masks``: True where ``time`` (batch, frames) and ``channels`` (batch, channels) are
            masked, each if there are such masks; ``predicted``: how many frames are masked, and
            how many are not, padding aside.
        """
        source, padding_mask = (sample["net_input"][key] for key in ("source", "padding_mask"))
        batch = len(source)
        labels = min(labels.size(1) for labels in sample["target_list"])
        frames = self.frames(source.size(1), labels)
        # fairseq looks at each row of it on its own, which would stop a GPU each time.
        padding = self.forward_padding_mask(source.new_empty(batch, frames, 0), padding_mask).cpu()
        masks = self._masks(batch, frames, padding)
        masked = int((masks["time"] & ~padding).sum())
        return {"masks": masks, "predicted": (masked, int((~padding).sum()) - masked)}

    def _masks(self, batch: int, frames: int, padding: Tensor | None) -> dict[str, Tensor]:
        masks = {}
        if self.mask_prob > 0:
            masks["time"] = _spans(
                (batch, frames),
                padding,
                self.mask_prob,
                self.mask_length,
                self.mask_selection,
                self.mask_other,
                min_masks=2,
                no_overlap=self.no_mask_overlap,
                min_space=self.mask_min_space,
            )
        if self.mask_channel_prob > 0:
            masks["channels"] = _spans(
                (batch, len(self.mask_emb)),
                None,
                self.mask_channel_prob,
                self.mask_channel_length,
                self.mask_channel_selection,
                self.mask_channel_other,
                no_overlap=self.no_mask_channel_overlap,
                min_space=self.mask_channel_min_space,
            )
        return masks

    def _masked(self, x: Tensor, masks: dict[str, Tensor]) -> Tensor:
        """``x`` (batch, time, channels) with its masks."""
        if "time" in masks:
            x = torch.where(masks["time"].unsqueeze(2), self.mask_emb.type_as(x), x)
        if "channels" in masks:
            x = x.masked_fill(masks["channels"].unsqueeze(1), 0)
        return x

    def apply_mask(
        self, x: Tensor, padding_mask: Tensor | None, target_list: list[Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Mask spans of time and of channels of ``x``, (batch, time, channels), where fairseq's
        own methods ask for it.

        Also returns the time mask, (batch, time).
        """
        padding = None if padding_mask is None else padding_mask.cpu()
        masks = self._masks(x.size(0), x.size(1), padding)
        masks = {name: mask.to(x.device) for name, mask in masks.items()}
        return self._masked(x, masks), masks.get("time")

    def predict(
        self,
        source: Tensor,
        padding_mask: Tensor,
        target_list: list[Tensor],
        masks: dict[str, Tensor],
    ) -> dict[str, Any]:
        """Logits of all frames.

        Args:
            source: waveforms, (batch, samples).
            padding_mask: True beyond their lengths, (batch, samples).
            target_list: of each kind of label those of the frames, (batch, labels).
            masks: of :meth:`draw_masks`.
        Returns:
            ``logits``: for each kind of label (batch, time, labels), in fp32; ``targets``: for
            each (batch, time); ``masked``, ``unmasked``: the frames that are, (batch, time),
            padding aside; ``features_pen``: mean square of the convolutions' features.
        """
        features = self.forward_features(source)
        frames = self.frames(source.size(1), min(labels.size(1) for labels in target_list))
        features = features[..., :frames]
        places = (torch.arange(frames, device=source.device) * self.feat2tar_ratio).long()
        penalty = features.float().pow(2).mean()
        features = self.layer_norm(features.transpose(1, 2))
        padding = self.forward_padding_mask(features, padding_mask)
        if self.post_extract_proj is not None:
            features = self.post_extract_proj(features)
        features = self._masked(self.dropout_input(features), masks)
        features, _ = self.encoder(features, padding_mask=padding)
        return {
            "logits": self.logits(features),
            "targets": [labels.index_select(1, places) for labels in target_list],
            "masked": masks["time"] & ~padding,
            "unmasked": ~masks["time"] & ~padding,
            "features_pen": penalty,
        }

    def forward(self, *arguments, masks: dict[str, Tensor] | None = None, **options):
        """:meth:`predict` with ``masks``; without, what fairseq's model gives."""
        if masks is None:
            return super().forward(*arguments, **options)
        return self.predict(*arguments, masks=masks, **options)

    def logits(self, features: Tensor) -> list[Tensor]:
        """HuBERT's cosine similarities over the temperature, in fp32, for each kind of label.

        (batch, time, channels) → (batch, time, labels).
        """
        kinds = len(self.num_classes)
        projected = self.final_proj(features)
        of_kinds = projected.chunk(kinds, dim=-1) if self.untie_final_proj else [projected] * kinds
        found = []
        for frames, labels in zip(of_kinds, self.label_embs_concat.split(self.num_classes, 0)):
            if self.target_glu is not None:
                labels = self.target_glu(labels)
            labels = F.normalize(labels.float(), dim=-1)
            found.append(F.normalize(frames.float(), dim=-1) @ labels.T / self.logit_temp)
        return found


def _spans(shape: tuple[int, int], *arguments, **options) -> Tensor:
    """fairseq's random spans, drawn with a seed that comes from torch's generator."""
    seed = int(torch.randint(2**31, ()))
    rows = torch.arange(shape[0])
    spans = compute_mask_indices(shape, *arguments, seed=seed, epoch=0, indices=rows, **options)
    return torch.from_numpy(spans)
