"""HuBERT as a speech encoder, exact under padding.

fairseq's HuBERT normalises its first convolution over time *including padding*, and its padding
mask is rounded, so that an utterance's features depend on its batch mates.  Here the same modules
and the same parameters run with true lengths: an utterance gives the same features alone and in
any batch.  Without padding the result is fairseq's own.
"""

import dataclasses
import logging
import os
from collections.abc import Callable

import torch
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder
from fairseq.modules import GradMultiply, gelu
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf
from torch import Tensor, nn

from cress_svcd.errors import CheckpointError
from cress_svcd.models import conv_positions
from cress_svcd.models.checkpoints import shorten, transfer
from cress_svcd.models.hubert_checkpoint import (
    HubertDescription,
    parse_conv_layers,
    read_hubert,
    receptive_field,
)
from cress_svcd.models.hubert_convolutions import frames_of_blocks, run_blocks

logger = logging.getLogger(__name__)

# Layers whose features are worth keeping: those of an encoder that is not trained at all, and of
# one whose transformer is.
OUTPUT, CONVOLUTIONS = "output", "convolutions"
# Parts of a pretraining checkpoint that only its loss needs.
PRETRAINING_ONLY = ("final_proj.", "label_embs_concat", "target_glu.")


def _model_config(fields: dict, overrides: dict):
    """fairseq's ``HubertConfig`` from plain fields; unknown ones (of newer code) are left out."""
    known = {field.name for field in dataclasses.fields(HubertConfig)}
    ignored = sorted(key for key in fields if key not in known)
    if ignored:
        logger.info("HuBERT config: fields unknown to this fairseq, left out: %s", ignored)
    chosen = {key: value for key, value in fields.items() if key in known and value is not None}
    layers = parse_conv_layers(
        str(chosen.get("conv_feature_layers", HubertConfig.conv_feature_layers))
    )
    chosen["conv_feature_layers"] = repr(layers)  # a literal: safe for fairseq's eval
    chosen.update(overrides)
    return OmegaConf.merge(OmegaConf.structured(HubertConfig), chosen)


class HubertEncoder(HubertModel):
    """Waveform → features: fairseq's ``HubertModel`` without pretraining loss, with true lengths.

    Args:
        description: of the checkpoint (see :func:`read_hubert`).
        overrides: fields of fairseq's ``HubertConfig`` to change for fine-tuning (dropout, masks).
        frozen: never trained, always in eval mode and without gradients.
        frozen_convolutions: the transformer is trained, the convolutions are not.

    Attributes:
        cached_layer: whose features :meth:`from_cached` is given.
        run_convolutions: computes the convolutional blocks; ``run_blocks``, until what runs the
            model puts something else in its place.
    """

    cached_layer = OUTPUT
    run_convolutions: Callable[[nn.ModuleList, Tensor, list[Tensor]], Tensor]

    def __init__(
        self,
        description: HubertDescription,
        overrides: dict | None = None,
        frozen: bool = False,
        frozen_convolutions: bool = False,
    ):
        cfg = _model_config(description.model, overrides or {})
        task_cfg = OmegaConf.structured(
            HubertPretrainingConfig(data="", sample_rate=description.sample_rate)
        )
        # [None]: build without the label embeddings, which only the pretraining loss uses.
        super().__init__(cfg, task_cfg, [None])
        self.remove_pretraining_modules()
        self.description = description
        self.convolutions = parse_conv_layers(cfg.conv_feature_layers)
        self.output_dim: int = cfg.encoder_embed_dim
        self.frozen = frozen
        self.run_convolutions = run_blocks
        make_faster(self.encoder)
        self.masking = cfg.mask_prob > 0 or cfg.mask_channel_prob > 0
        if not self.masking:
            del self.mask_emb  # a parameter without gradient would stop data parallel training
        if frozen:
            self.feature_grad_mult = 0.0
            self.requires_grad_(False)
            self.eval()
        elif frozen_convolutions or self.feature_grad_mult <= 0:
            self.feature_grad_mult = 0.0
            self.feature_extractor.requires_grad_(False)

    @property
    def receptive_field(self) -> int:
        """Samples that one feature frame sees: the shortest input that gives a frame."""
        return receptive_field(self.convolutions)

    def load_pretrained(self, state: dict[str, Tensor], source: str | os.PathLike) -> None:
        """Take the tensors of a pretraining checkpoint.

        Raises:
            CheckpointError: a parameter is missing, has another shape, or an unknown one is there
                (nothing may silently stay at its random initial value).
        """
        wanted = {
            name: tensor
            for name, tensor in state.items()
            if not name.startswith(PRETRAINING_ONLY) and (self.masking or name != "mask_emb")
        }
        report = transfer(self, wanted, source)
        report.log(f"HuBERT from {source}")
        if report.missing or report.unused:
            raise CheckpointError(
                f"{source}: its tensors are not those that its config describes; missing: "
                f"{shorten(report.missing) or 'none'}; unknown: {shorten(report.unused) or 'none'}"
            )

    def same_weights(self, path: str | os.PathLike, up_to: str = OUTPUT) -> bool:
        """Whether this encoder has the parameters of the HuBERT checkpoint at ``path``, no other.

        ``up_to`` CONVOLUTIONS compares those only.  Parameters that a training in half precision
        has rounded are the same.
        """
        _, state = read_hubert(path)
        part = self if up_to == OUTPUT else self.feature_extractor
        prefix = "" if up_to == OUTPUT else "feature_extractor."
        own = {prefix + name: value for name, value in part.state_dict().items()}
        own.pop("mask_emb", None)
        return all(
            name in state and _same_but_for_rounding(value, state[name].to(value.device))
            for name, value in own.items()
        )

    def train(self, mode: bool = True) -> "HubertEncoder":
        return super().train(mode and not self.frozen)

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            source: waveforms (batch, samples), padded with anything.
            lengths: samples of each, B.
        Returns:
            features (batch, frames, channels) (what lies beyond an utterance's length is
            undefined), and the padding mask (batch, frames), True beyond it.
        """
        return self.transform(*self.convolve(source, lengths))

    def convolve(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The first half of :meth:`forward`.

        Returns:
            features of the convolutions (batch, frames, channels) (what lies beyond an utterance's
            length is undefined), and the frames of each, B.
        """
        source, lengths = self._at_least_one_frame(source, lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.feature_grad_mult > 0):
            features, lengths = self._convolve(source, lengths)
        if 0 < self.feature_grad_mult != 1.0:
            features = GradMultiply.apply(features, self.feature_grad_mult)
        return features.transpose(1, 2), lengths

    def transform(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The second half of :meth:`forward`, from what :meth:`convolve` returns."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._transform(features, lengths)

    def from_cached(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives, from features (batch, frames, channels) of ``cached_layer``,
        ``lengths`` frames each."""
        features = features.type_as(self.layer_norm.weight)
        if self.cached_layer == CONVOLUTIONS:
            return self.transform(features, lengths)
        frames = torch.arange(features.size(1), device=features.device)
        return features, frames >= lengths.unsqueeze(1)

    def _at_least_one_frame(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Silence after the shortest inputs; exact zeros in the padding of all."""
        shortest = self.receptive_field
        if source.size(1) < shortest:
            source = nn.functional.pad(source, (0, shortest - source.size(1)))
        padding = torch.arange(source.size(1), device=source.device) >= lengths.unsqueeze(1)
        dtype = self.layer_norm.weight.dtype  # of the packed model's convolutions it is another
        return source.to(dtype).masked_fill(padding, 0), lengths.clamp(min=shortest)

    def _convolve(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (batch, samples) of ``lengths`` samples → features (batch, channels, time) of
        the convolutions, and the frames of each.
        """
        counts = frames_of_blocks(lengths, self.convolutions)
        x = self.run_convolutions(self.feature_extractor.conv_layers, source, counts)
        return x.to(source.dtype), counts[-1]  # a packed model may convolve in another type

    def _transform(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = torch.arange(features.size(1), device=features.device)
        padding_mask = frames >= lengths.unsqueeze(1)
        features = self.layer_norm(features)
        if self.post_extract_proj is not None:
            features = self.post_extract_proj(features)
        features = self.dropout_input(features)
        if self.masking and self.training:
            features = self._mask(features)
        features, _ = self.encoder(features, padding_mask=padding_mask)
        return features, padding_mask

    def _mask(self, features: Tensor) -> Tensor:
        """Mask spans of time and of channels, as SpecAugment does.

        fairseq's own masking draws from numpy, which a resumed run does not restore, and raises
        for utterances shorter than its spans.
        """
        batch, frames, channels = features.shape
        if self.mask_prob > 0:
            masked = random_spans(batch, frames, self.mask_prob, self.mask_length, features.device)
            features = torch.where(masked.unsqueeze(2), self.mask_emb.type_as(features), features)
        if self.mask_channel_prob > 0:
            masked = random_spans(
                batch,
                channels,
                self.mask_channel_prob,
                self.mask_channel_length,
                features.device,
            )
            features = features.masked_fill(masked.unsqueeze(1), 0)
        return features


def make_faster(encoder: TransformerEncoder) -> None:
    """The same numbers from fairseq's transformer, by faster operators; nothing of a step's graph
    stays in it."""
    encoder.pos_conv = conv_positions.faster(encoder.pos_conv)
    for layer in encoder.layers:
        # In half precision torch computes it in fp32 by itself; fairseq copies there and back.
        if getattr(layer, "activation_fn", None) is gelu:
            layer.activation_fn = nn.functional.gelu


def random_spans(
    rows: int, size: int, share: float, length: int, device: torch.device | None = None
) -> Tensor:
    """Random spans of ``length`` that cover about ``share`` of each row: bool (rows, size).

    Every place starts a span with the same probability (spans may overlap and run over the end),
    drawn on the device, from torch's generator, which the trainer seeds at every update.
    """
    # A place is uncovered if none of the `length` places up to it starts a span.
    start = 1 - (1 - min(share, 1.0)) ** (1 / length)
    starts = (torch.rand(rows, 1, size, device=device) < start).float()
    starts = nn.functional.pad(starts, (length - 1, 0))
    return nn.functional.max_pool1d(starts, length, stride=1).squeeze(1) > 0


def _same_but_for_rounding(value: Tensor, stored: Tensor) -> bool:
    """Whether ``value`` is ``stored``, or what is left of it in half precision."""
    return any(
        torch.equal(value, stored.to(rounded).to(value.dtype))
        for rounded in (stored.dtype, torch.float16, torch.bfloat16)
    )
