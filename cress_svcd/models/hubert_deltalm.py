"""Speech and text translation with HuBERT and DeltaLM.

``hubert_transformer`` whose encoder, shared by speech and text, and decoder are DeltaLM's; or only
its decoder is (``--deltalm-decoder-only``), behind the encoder of ``hubert_transformer``.
The dimensions come from the DeltaLM file and are stored in the checkpoint.
"""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.data import Dictionary
from fairseq.models import register_model
from fairseq.models.transformer import TransformerConfig
from torch import nn

from cress_svcd.data.corpus.vocabulary import LANGUAGE_TAG
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.checkpoints import require_dictionary, shorten, transfer
from cress_svcd.models.deltalm import DeltaLMDecoder, DeltaLMEncoder
from cress_svcd.models.deltalm_checkpoint import (
    PROJECTION,
    RELEASED_HEADS,
    TABLES,
    DeltaLMDescription,
    fit_vocabulary,
    read_deltalm,
)
from cress_svcd.models.hubert_transformer import (
    BUFFERS,
    SPEECH_PARTS,
    HubertTransformer,
    SpeechTextEncoder,
)
from cress_svcd.models.hubert_transformer_config import HubertTransformerConfig

DIMENSIONS = ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")


def _from_file(what: str) -> Optional[int]:
    return field(default=None, metadata={"help": f"{what}; default: DeltaLM's"})


@dataclass
class HubertDeltaLMConfig(HubertTransformerConfig):
    """Options of the model.

    Those of the Transformer have a say for the encoder of ``--deltalm-decoder-only`` alone;
    dropout and the like are everybody's.
    """

    deltalm_model_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "DeltaLM checkpoint to start from: deltalm-base.pt or deltalm-large.pt as "
            "released, one that was fine-tuned in fairseq, or a text training of this model. Its "
            "dimensions are read from it; activation function, positions and layer norms of its "
            "parts are DeltaLM's, whatever the other options say. Not needed to generate"
        },
    )
    deltalm_decoder_only: bool = field(
        default=False,
        metadata={
            "help": "take only the decoder from DeltaLM, and train the Transformer encoder of "
            "hubert_transformer (6 layers unless --encoder-layers says otherwise) before it"
        },
    )
    deltalm_description: str = field(
        default="",
        metadata={"help": "filled in by training and stored in the checkpoint; not to be set"},
    )
    encoder_embed_dim: Optional[int] = _from_file("encoder width")
    encoder_ffn_embed_dim: Optional[int] = _from_file("encoder FFN width")
    encoder_layers: Optional[int] = _from_file("encoder layers")
    encoder_attention_heads: Optional[int] = _from_file(
        "encoder heads; to be given where neither file nor width (768, 1024: as released) says it"
    )
    decoder_embed_dim: Optional[int] = _from_file("decoder width")
    decoder_ffn_embed_dim: Optional[int] = _from_file("decoder FFN width")
    decoder_layers: Optional[int] = _from_file("decoder layers")
    decoder_attention_heads: Optional[int] = _from_file(
        "decoder heads; to be given where neither file nor width (768, 1024: as released) says it"
    )


@register_model("hubert_deltalm", dataclass=HubertDeltaLMConfig)
class HubertDeltaLM(HubertTransformer):
    """HuBERT, subsampler, DeltaLM."""

    normalize_before = False

    @classmethod
    def complete_config(cls, cfg: HubertDeltaLMConfig) -> None:
        """Write the dimensions of HuBERT and DeltaLM into ``cfg``, so that checkpoints carry them.

        Raises:
            CheckpointError: the DeltaLM file is none.
            ConfigError: no such file is named, or an option contradicts it.
        """
        super().complete_config(cfg)
        start = cfg.deltalm_model_path or cfg.load_pretrained_mt_encoder_decoder_from
        if not cfg.deltalm_description:
            if not start:
                raise ConfigError(
                    "hubert_deltalm needs --deltalm-model-path FILE (deltalm-base.pt, or a "
                    "DeltaLM fine-tuned in fairseq)"
                )
            cfg.deltalm_description = read_deltalm(start).description.to_json()
        description = DeltaLMDescription.from_json(cfg.deltalm_description)
        _complete_side(cfg, "decoder", description, start)
        if cfg.deltalm_decoder_only:
            _complete_own_encoder(cfg)
            return
        if description.encoder is None:
            raise ConfigError(
                f"{start}: its encoder is not DeltaLM's, only its decoder: give "
                "--deltalm-decoder-only, or another --deltalm-model-path"
            )
        _complete_side(cfg, "encoder", description, start)
        if not description.shared_embeddings:
            cfg.separate_embeddings = True

    @classmethod
    def deltalm_config(cls, cfg: HubertDeltaLMConfig) -> TransformerConfig:
        """fairseq's configuration of the parts that are DeltaLM's."""
        description = DeltaLMDescription.from_json(cfg.deltalm_description)
        transformer = cls.transformer_config(cfg)
        transformer.activation_fn = "gelu"
        transformer.no_scale_embedding = True
        transformer.layernorm_embedding = description.layernorm_embedding
        transformer.max_target_positions = description.decoder.positions
        if description.encoder is not None:
            transformer.max_source_positions = description.encoder.positions
        for side in (transformer.encoder, transformer.decoder):
            side.learned_pos = True
            side.normalize_before = False
        return transformer

    @classmethod
    def build_encoder(
        cls, cfg: HubertDeltaLMConfig, dictionary: Dictionary, embed_tokens: nn.Embedding
    ) -> SpeechTextEncoder:
        speech = cls.build_speech_front_end(cfg)
        if not cfg.deltalm_decoder_only:
            transformer = cls.deltalm_config(cfg)
            return DeltaLMEncoder(transformer, dictionary, embed_tokens, *speech, cfg.ctc_head)
        transformer = cls.transformer_config(cfg)
        transformer.encoder.normalize_before = True
        return SpeechTextEncoder(transformer, dictionary, embed_tokens, *speech, cfg.ctc_head)

    @classmethod
    def build_decoder(
        cls, cfg: HubertDeltaLMConfig, dictionary: Dictionary, embed_tokens: nn.Embedding
    ) -> DeltaLMDecoder:
        return DeltaLMDecoder(cls.deltalm_config(cfg), dictionary, embed_tokens)

    def load_pretrained(self, cfg: HubertDeltaLMConfig, dictionary_digest: str) -> None:
        """Start from the checkpoints that ``cfg`` names; see the base class."""
        if cfg.deltalm_model_path:
            self._load_deltalm(cfg, dictionary_digest)
        super().load_pretrained(cfg, dictionary_digest)

    def _load_deltalm(self, cfg: HubertDeltaLMConfig, dictionary_digest: str) -> None:
        """Take encoder, decoder and embeddings, or the decoder and its embeddings.

        Raises:
            CheckpointError: another dictionary, or a tensor is left over on either side.
        """
        path = cfg.deltalm_model_path
        file = read_deltalm(path)
        require_dictionary({"task_state": file.task_state}, path, dictionary_digest)
        entries = self.decoder.dictionary.symbols
        tags = sum(entry.startswith(LANGUAGE_TAG.partition("{")[0]) for entry in entries)
        offered = fit_vocabulary(file.state, len(entries), path, tags)
        if cfg.deltalm_decoder_only:
            offered = {name: x for name, x in offered.items() if name.startswith("decoder.")}
        report = transfer(self, offered, path)
        # One tensor under several names is taken if one of them is.
        tied = {PROJECTION} | (set() if cfg.separate_embeddings else set(TABLES))
        report.missing = [
            name
            for name in report.missing
            if name not in {*BUFFERS, *tied} and not name.startswith(SPEECH_PARTS)
        ]
        report.log(f"DeltaLM from {path}")
        missing = report.missing
        if cfg.deltalm_decoder_only:  # the encoder starts from random weights, as was asked for
            missing = [name for name in missing if not name.startswith("encoder.")]
        if missing or report.unused:
            raise CheckpointError(
                f"{path}: its tensors are not those of a DeltaLM; missing: "
                f"{shorten(missing) or 'none'}; unknown: {shorten(report.unused) or 'none'}"
            )


def _complete_side(
    cfg: HubertDeltaLMConfig, side: str, description: DeltaLMDescription, source: str
) -> None:
    """Fill in the dimensions of DeltaLM's encoder or decoder that ``cfg`` leaves open."""
    dimensions = getattr(description, side)
    for name in DIMENSIONS:
        option = f"{side}_{name}"
        given, found = getattr(cfg, option), getattr(dimensions, name)
        if found is None and given is None:  # heads, of which a released file says nothing
            found = RELEASED_HEADS.get(dimensions.embed_dim)
            if found is None:
                raise ConfigError(
                    f"{source}: does not say how many attention heads its {side} has, and "
                    f"{dimensions.embed_dim} wide it is none of the released models "
                    f"({', '.join(map(str, RELEASED_HEADS))}): give --{option.replace('_', '-')} "
                    "as it was trained"
                )
        if None not in (given, found) and given != found:
            raise ConfigError(
                f"--{option.replace('_', '-')} {given}: {source or 'the DeltaLM model'} has "
                f"{found}; leave the option out"
            )
        setattr(cfg, option, given if found is None else found)


def _complete_own_encoder(cfg: HubertDeltaLMConfig) -> None:
    """The Transformer encoder before a DeltaLM decoder: as wide as that, else as asked for."""
    if cfg.encoder_embed_dim not in (None, cfg.decoder_embed_dim):
        raise ConfigError(
            f"--encoder-embed-dim {cfg.encoder_embed_dim}: DeltaLM's decoder expects an encoder "
            f"of its own width, {cfg.decoder_embed_dim}; leave the option out"
        )
    cfg.encoder_embed_dim = cfg.decoder_embed_dim
    fields = HubertTransformerConfig.__dataclass_fields__
    for name in DIMENSIONS:
        option = f"encoder_{name}"
        if getattr(cfg, option) is None:
            setattr(cfg, option, fields[option].default)
