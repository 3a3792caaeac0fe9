"""A HuBERT encoder under training with CTC on letters, and with a loss on each frame's unit."""

from dataclasses import dataclass, field
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.models import register_model
from fairseq.models.hubert.hubert import HubertConfig
from omegaconf import II, OmegaConf
from torch import Tensor, nn

from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoints import read_checkpoint, shorten, transfer
from cress_svcd.models.hubert_checkpoint import HubertDescription
from cress_svcd.models.hubert_encoder import HubertEncoder

LETTERS_HEAD = "letters_proj."
"""Prefix of the parameters that fairseq's HuBERT does not have."""


@dataclass
class CtcHubertConfig(HubertConfig):
    pretrained: Optional[str] = field(
        default=None, metadata={"help": "HuBERT checkpoint to start from; default: random weights"}
    )
    final_dropout: float = field(
        default=0.0, metadata={"help": "dropout before the projection to letters"}
    )
    units_weight: float = II("criterion.units_weight")


@register_model("ctc_hubert", dataclass=CtcHubertConfig)
class CtcHubert(HubertEncoder):
    """HuBERT with two heads: letters (linear) and units (cosine to label embeddings).

    All but the head for letters has fairseq's parameter names, so that what was pretrained by
    masked prediction can go on here, and the result is a HuBERT checkpoint again.

    Args:
        description: of the encoder.
        letters: size of the letters' dictionary, blank included.
        units: size of the units' dictionary.
        final_dropout: before the head for letters.
        with_units: whether the head for units is trained.
    """

    def __init__(
        self,
        description: HubertDescription,
        letters: int,
        units: int,
        final_dropout: float = 0.0,
        with_units: bool = True,
    ):
        super().__init__(description)
        final_dim = description.model.get("final_dim", 0)
        final_dim = final_dim if final_dim > 0 else self.output_dim
        self.final_proj = nn.Linear(self.output_dim, final_dim)
        self.label_embs_concat = nn.Parameter(torch.rand(units, final_dim))
        self.final_dropout = nn.Dropout(final_dropout)
        self.letters_proj = nn.Linear(self.output_dim, letters)
        self.with_units = with_units
        if not with_units:
            # A parameter without gradient would stop data parallel training.
            self.final_proj.requires_grad_(False)
            self.label_embs_concat.requires_grad_(False)

    @classmethod
    def build_model(cls, cfg: CtcHubertConfig, task) -> "CtcHubert":
        fields = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
        units, letters = task.dictionaries
        description = HubertDescription(
            model={key: fields[key] for key in HubertConfig.__dataclass_fields__ if key in fields},
            normalize=task.cfg.normalize,
            sample_rate=task.cfg.sample_rate,
            label_rate=task.cfg.label_rate,
            label_sizes=(len(units),),
        )
        model = cls(
            description, len(letters), len(units), cfg.final_dropout, fields["units_weight"] > 0
        )
        if cfg.pretrained:
            model.start_from(cfg.pretrained)
        return model

    def start_from(self, path: str) -> None:
        """Take everything but the head for letters from a HuBERT checkpoint.

        Raises:
            CheckpointError: it is another kind of file, of other dimensions, or incomplete.
        """
        trained = read_checkpoint(path)
        if not isinstance(trained.get("model"), dict):
            raise CheckpointError(f"{path}: has no key 'model'; expected a HuBERT checkpoint")
        state = {
            name: tensor
            for name, tensor in trained["model"].items()
            if self.masking or name != "mask_emb"
        }
        report = transfer(self, state, path)
        report.log(f"HuBERT from {path}")
        missing = [name for name in report.missing if not name.startswith(LETTERS_HEAD)]
        if missing or report.unused:
            raise CheckpointError(
                f"{path}: is not of the model that the section model of the config describes; "
                f"missing: {shorten(missing) or 'none'}; unknown: "
                f"{shorten(report.unused) or 'none'}"
            )

    def forward(self, source: Tensor, padding_mask: Tensor, **_) -> dict[str, Tensor | None]:
        """
        Args:
            source: waveforms, (batch, samples).
            padding_mask: True beyond their lengths, (batch, samples).
        Returns:
            ``letters``: logits (batch, time, letters); ``units``: logits (batch, time, units) in
            fp32, or None; ``padding_mask``: True beyond the lengths in frames, (batch, time).
        """
        features, padding_mask = super().forward(source, (~padding_mask).sum(dim=1))
        return {
            "letters": self.letters_proj(self.final_dropout(features)),
            "units": self.unit_logits(features) if self.with_units else None,
            "padding_mask": padding_mask,
        }

    def unit_logits(self, features: Tensor) -> Tensor:
        """HuBERT's cosine similarities over the temperature, in fp32.

        (batch, time, channels) → (batch, time, units).

        The same numbers as fairseq's, by one matrix product; fairseq copies the label embeddings
        for every frame.
        """
        frames = F.normalize(self.final_proj(features).float(), dim=-1)
        embeddings = F.normalize(self.label_embs_concat.float(), dim=-1)
        return frames @ embeddings.T / self.logit_temp
