"""Speech and text translation: HuBERT, a convolutional subsampler, and a Transformer.

Speech:  waveform → HuBERT → subsampler (÷4 in time) ┐
                                                     ├→ Transformer encoder → decoder → text
Text:    tokens → embedding                          ┘

The Transformer encoder and decoder are fairseq's own and are shared by both modalities; which one
a batch holds follows from its type (waveforms are floating point, tokens are integers).
"""

import logging

import torch
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderDecoderModel, register_model
from fairseq.models.speech_to_text.modules.convolution import Conv1dSubsampler
from fairseq.models.transformer import (
    Embedding,
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
)
from torch import Tensor, nn

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.attention import ReorderingDecoder
from cress_svcd.models.checkpoints import read_checkpoint, require_dictionary, shorten, transfer
from cress_svcd.models.hubert_checkpoint import HubertDescription, read_hubert
from cress_svcd.models.hubert_encoder import HubertEncoder
from cress_svcd.models.hubert_transformer_config import HubertTransformerConfig

logger = logging.getLogger(__name__)


class MaskedSubsampler(Conv1dSubsampler):
    """fairseq's convolutional subsampler with exact zeros beyond each utterance's end.

    Between its convolutions fairseq leaves there whatever the padding gave, which a kernel wider
    than 1 carries into the last valid frames: the result would depend on the batch.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, kernels: list[int]):
        if not kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ConfigError(
                f"--conv-kernel-sizes: {kernels} given, expected odd numbers such as 5,5"
            )
        super().__init__(in_channels, mid_channels, out_channels, kernels)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, frames, channels) → shorter ones, ``lengths`` halved for each
        convolution."""
        x = features.transpose(1, 2)
        for conv in self.conv_layers:
            frames = torch.arange(x.size(2), device=x.device)
            padding = frames >= lengths.unsqueeze(1)
            # Contiguous: cuDNN has no fast strided convolution for the transposed layout.
            x = conv(x.masked_fill(padding.unsqueeze(1), 0).contiguous())
            x = nn.functional.glu(x, dim=1)
            lengths = torch.div(lengths - 1, 2, rounding_mode="floor") + 1
        return x.transpose(1, 2), lengths


class SpeechTextEncoder(TransformerEncoderBase):
    """fairseq's Transformer encoder over tokens or over speech.

    Speech comes in as waveforms (batch, samples), and its subsampled HuBERT features take the place
    of the token embeddings.
    """

    masks_always = False

    def __init__(
        self,
        cfg: TransformerConfig,
        dictionary: Dictionary,
        embed_tokens: nn.Embedding,
        hubert: HubertEncoder | None = None,
        subsampler: MaskedSubsampler | None = None,
        ctc_head: bool = False,
    ):
        super().__init__(cfg, dictionary, embed_tokens)
        self.hubert = hubert
        self.subsampler = subsampler
        self.ctc_head = nn.Linear(embed_tokens.embedding_dim, len(dictionary)) if ctc_head else None

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        """Encode waveforms (batch, samples), cached features (batch, frames, channels) or
        tokens (batch, length).

        ``src_lengths`` (samples or tokens of each, B) may be missing for tokens only.  Returns
        fairseq's encoder output.
        """
        if not src_tokens.is_floating_point():
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        if self.hubert is None:
            raise ConfigError(
                "this model was trained on text only and has no speech encoder: give it text "
                "(--text-input), or train it with --hubert-model-path"
            )
        if src_tokens.dim() == 3:
            features, padding_mask = self.hubert.from_cached(src_tokens, src_lengths)
        else:
            features, padding_mask = self.hubert(src_tokens, src_lengths)
        x, lengths = self.subsampler(features, (~padding_mask).sum(dim=1))
        # Positions and padding are counted from tokens: any but padding where there is speech.
        frames = torch.arange(x.size(1), device=x.device)
        places = torch.where(
            frames < lengths.unsqueeze(1), self.dictionary.eos(), self.dictionary.pad()
        )
        return super().forward(places, lengths, return_all_hiddens, token_embeddings=x)

    def forward_scriptable(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        """fairseq's; in training the layers always get the padding mask, and with ``masks_always``.

        fairseq gives it only where there is padding: to know, the host waits for the GPU at every
        batch.
        """
        if not self.training and not self.masks_always:
            return super().forward_scriptable(
                src_tokens, src_lengths, return_all_hiddens, token_embeddings
            )
        padding = src_tokens.eq(self.padding_idx)
        x, embedded = self.forward_embedding(src_tokens, token_embeddings)
        states = [x.masked_fill(padding.unsqueeze(-1), 0).transpose(0, 1)]
        for layer in self.layers:
            states.append(layer(states[-1], encoder_padding_mask=padding))
        return {
            "encoder_out": [states[-1] if self.layer_norm is None else self.layer_norm(states[-1])],
            "encoder_padding_mask": [padding],
            "encoder_embedding": [embedded],
            "encoder_states": states if return_all_hiddens else [],
            "src_tokens": [],
            "src_lengths": [(~padding).sum(dim=1, keepdim=True, dtype=torch.int32)],
        }

    def ctc_log_probs(self, encoder_out: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
        """Log-probabilities (frames, batch, vocabulary) of source tokens; the frames of each
        utterance."""
        logits = self.ctc_head(encoder_out["encoder_out"][0])
        lengths = (~encoder_out["encoder_padding_mask"][0]).sum(dim=1)
        return utils.log_softmax(logits, dim=-1), lengths


@register_model("hubert_transformer", dataclass=HubertTransformerConfig)
class HubertTransformer(FairseqEncoderDecoderModel):
    """HuBERT, subsampler, shared encoder, decoder; layer norm before each block."""

    normalize_before = True
    freeze_decoder_updates = 0
    decoder_is_frozen = False

    @classmethod
    def complete_config(cls, cfg: HubertTransformerConfig) -> None:
        """Write the speech encoder's description into ``cfg``, so that checkpoints carry it."""
        if cfg.hubert_model_path and not cfg.hubert_description:
            cfg.hubert_description = read_hubert(cfg.hubert_model_path)[0].to_json()

    @classmethod
    def transformer_config(cls, cfg: HubertTransformerConfig) -> TransformerConfig:
        """fairseq's configuration of encoder and decoder."""
        transformer = TransformerConfig.from_namespace(cfg)
        transformer.share_all_embeddings = not cfg.separate_embeddings
        transformer.share_decoder_input_output_embed = True
        for side in (transformer.encoder, transformer.decoder):
            side.normalize_before = cls.normalize_before or side.normalize_before
        transformer.decoder.input_dim = transformer.decoder.embed_dim
        transformer.decoder.output_dim = transformer.decoder.embed_dim
        return transformer

    @classmethod
    def build_model(cls, cfg: HubertTransformerConfig, task) -> "HubertTransformer":
        source, target = task.src_dict, task.tgt_dict
        encoder_embedding = Embedding(len(source), cfg.encoder_embed_dim, source.pad())
        decoder_embedding = encoder_embedding
        if cfg.separate_embeddings:
            decoder_embedding = Embedding(len(target), cfg.decoder_embed_dim, target.pad())
        elif cfg.encoder_embed_dim != cfg.decoder_embed_dim:
            raise ConfigError(
                f"--encoder-embed-dim {cfg.encoder_embed_dim} and --decoder-embed-dim "
                f"{cfg.decoder_embed_dim} differ: one embedding cannot serve both; make them "
                "equal or give --separate-embeddings"
            )
        encoder = cls.build_encoder(cfg, source, encoder_embedding)
        decoder = cls.build_decoder(cfg, target, decoder_embedding)
        model = cls(encoder, decoder)
        # Checkpoints of before have no such option.
        model.freeze_decoder_updates = getattr(cfg, "freeze_decoder_updates", 0) or 0
        if model.freeze_decoder_updates:
            require_gradients_by_parameter(task.cfg)
        return model

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq before each update's forward pass, with the updates made so far."""
        super().set_num_updates(num_updates)
        if self.freeze_decoder_updates:
            self.decoder_is_frozen = num_updates < self.freeze_decoder_updates
            self.decoder.requires_grad_(not self.decoder_is_frozen)

    @classmethod
    def build_encoder(
        cls, cfg: HubertTransformerConfig, dictionary: Dictionary, embed_tokens: nn.Embedding
    ) -> SpeechTextEncoder:
        hubert, subsampler = cls.build_speech_front_end(cfg)
        return SpeechTextEncoder(
            cls.transformer_config(cfg), dictionary, embed_tokens, hubert, subsampler, cfg.ctc_head
        )

    @classmethod
    def build_decoder(
        cls, cfg: HubertTransformerConfig, dictionary: Dictionary, embed_tokens: nn.Embedding
    ) -> TransformerDecoderBase:
        return ReorderingDecoder(cls.transformer_config(cfg), dictionary, embed_tokens)

    @classmethod
    def build_speech_front_end(
        cls, cfg: HubertTransformerConfig
    ) -> tuple[HubertEncoder | None, MaskedSubsampler | None]:
        """HuBERT and subsampler as ``cfg.hubert_description`` says; none without one."""
        if not cfg.hubert_description:
            return None, None
        overrides = {
            "dropout": cfg.hubert_dropout,
            "encoder_layerdrop": cfg.hubert_layerdrop,
            "mask_prob": cfg.hubert_mask_prob,
            "mask_length": cfg.hubert_mask_length,
            "mask_channel_prob": cfg.hubert_mask_channel_prob,
            "mask_channel_length": cfg.hubert_mask_channel_length,
        }
        description = HubertDescription.from_json(cfg.hubert_description)
        hubert = HubertEncoder(
            description, overrides, cfg.freeze_hubert, cfg.freeze_hubert_convolutions
        )
        try:
            kernels = [int(size) for size in cfg.conv_kernel_sizes.split(",")]
        except ValueError:
            raise ConfigError(
                f"--conv-kernel-sizes: {cfg.conv_kernel_sizes!r} given, expected odd numbers "
                "such as 5,5"
            ) from None
        subsampler = MaskedSubsampler(
            hubert.output_dim, cfg.conv_channels, cfg.encoder_embed_dim, kernels
        )
        return hubert, subsampler

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        text_tokens: Tensor | None = None,
        text_lengths: Tensor | None = None,
    ) -> tuple[Tensor, dict]:
        """Translate speech or text, teacher-forced.

        Args:
            src_tokens: waveforms (batch, samples) or tokens (batch, length).
            src_lengths: samples or tokens of each (batch).
            prev_output_tokens: decoder input (batch, length).
            text_tokens, text_lengths: the transcripts of the speech, to be translated as well.
        Returns:
            logits (batch, length, vocabulary), and a dictionary: ``encoder_out``; ``ctc`` ((frames,
            batch, vocabulary) log-probabilities and frames) for speech if the model has a CTC head;
            ``text_output``, the same pair for the transcripts if they are given; and what fairseq's
            decoder adds.
        """
        encoder_out = self.encoder(src_tokens, src_lengths=src_lengths)
        logits, extra = self.decoder(prev_output_tokens, encoder_out=encoder_out)
        extra["encoder_out"] = encoder_out
        if self.encoder.ctc_head is not None and src_tokens.is_floating_point():
            extra["ctc"] = self.encoder.ctc_log_probs(encoder_out)
        if text_tokens is not None:
            text_out = self.encoder(text_tokens, src_lengths=text_lengths)
            extra["text_output"] = self.decoder(prev_output_tokens, encoder_out=text_out)
        return logits, extra

    def load_pretrained(self, cfg: HubertTransformerConfig, dictionary_digest: str) -> None:
        """Start from the checkpoints that ``cfg`` names.

        Args:
            cfg: options of the model.
            dictionary_digest: of the task's dictionary, to be compared with the one that the
                translation checkpoint was trained with.
        Raises:
            CheckpointError: a file is damaged or does not fit.
        """
        if cfg.hubert_model_path:
            _, state = read_hubert(cfg.hubert_model_path)
            self.encoder.hubert.load_pretrained(state, cfg.hubert_model_path)
        if cfg.load_pretrained_mt_encoder_decoder_from:
            load_translation_model(
                self, cfg.load_pretrained_mt_encoder_decoder_from, dictionary_digest
            )

    def max_positions(self) -> None:
        """The task knows the limits: they differ between speech and text."""
        return


@register_model("hubert_transformer_postln", dataclass=HubertTransformerConfig)
class HubertTransformerPostLN(HubertTransformer):
    """The same with layer norm after each block."""

    normalize_before = False


@register_model("hubert_transformer_pruning_layer", dataclass=HubertTransformerConfig)
class HubertTransformerPruningLayer(HubertTransformer):
    """``hubert_transformer`` under the name that the method's description gives it."""


@register_model("hubert_transformer_pruning_layer_postln", dataclass=HubertTransformerConfig)
class HubertTransformerPruningLayerPostLN(HubertTransformerPostLN):
    """``hubert_transformer_postln`` under the name that the method's description gives it."""


def require_gradients_by_parameter(cfg) -> None:
    """Refuse a distributed training that must know beforehand which parameters have gradients.

    ``cfg`` are the task's options.  Raises ConfigError.
    """
    if cfg.distributed_world_size > 1 and cfg.ddp_backend not in ("legacy_ddp", "no_c10d"):
        raise ConfigError(
            f"--freeze-decoder-updates: with --ddp-backend {cfg.ddp_backend} all parameters need "
            "gradients from the first update on; give --ddp-backend legacy_ddp"
        )


# What a translation checkpoint has no say in, and the buffers that fairseq recomputes.
SPEECH_PARTS = ("encoder.hubert.", "encoder.subsampler.", "encoder.ctc_head.")
BUFFERS = (
    "encoder.version",
    "decoder.version",
    "encoder.embed_positions._float_tensor",
    "decoder.embed_positions._float_tensor",
)


def load_translation_model(model: nn.Module, path: str, dictionary_digest: str) -> None:
    """Take text encoder, decoder and embeddings of ``model`` from the checkpoint at ``path``.

    Raises:
        CheckpointError: damaged; trained with another dictionary; other shapes; or text-side
            tensors left over on either side, that is, another number of layers or other options.
    """
    state = read_checkpoint(path)
    if "model" not in state:
        raise CheckpointError(
            f"{path}: no 'model' in it (found: {shorten(sorted(map(str, state)))}); expected a "
            "checkpoint of fairseq-train"
        )
    require_dictionary(state, path, dictionary_digest)

    def is_text_side(name: str) -> bool:
        return not name.startswith(SPEECH_PARTS) and name not in BUFFERS

    offered = {name: tensor for name, tensor in state["model"].items() if is_text_side(name)}
    report = transfer(model, offered, path)
    report.missing = [name for name in report.missing if is_text_side(name)]
    report.log(f"translation model from {path}")
    if report.missing or report.unused:
        raise CheckpointError(
            f"{path}: it does not fit this model; missing in the file: "
            f"{shorten(report.missing) or 'nothing'}; unknown to the model: "
            f"{shorten(report.unused) or 'nothing'}. Give both trainings the same "
            "--encoder-layers, --decoder-layers, --layernorm-embedding and pre- or post-norm arch."
        )
