"""The options of ``hubert_transformer``."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II


@dataclass
class HubertTransformerConfig(FairseqDataclass):
    """Options of the model; the Transformer's have fairseq's names and meanings."""

    hubert_model_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "HuBERT checkpoint for the speech encoder (hubert_base_ls960.pt, the output of "
            "'cress-svcd pretrain-hubert', or a folder as Hugging Face stores HuBERT). Its "
            "dimensions are read from it. Needed to train with speech; not needed to train on text "
            "alone, nor to generate, since a trained checkpoint carries the speech encoder"
        },
    )
    hubert_description: str = field(
        default="",
        metadata={"help": "filled in by training and stored in the checkpoint; not to be set"},
    )
    freeze_hubert: bool = field(default=False, metadata={"help": "do not train the speech encoder"})
    freeze_hubert_convolutions: bool = field(
        default=False,
        metadata={
            "help": "of the speech encoder train the transformer only: its convolutions, which "
            "take much of a step and learn little in fine-tuning, stay as they are"
        },
    )
    hubert_dropout: float = field(
        default=0.1, metadata={"help": "dropout in HuBERT's transformer while it is trained"}
    )
    hubert_layerdrop: float = field(
        default=0.0,
        metadata={
            "help": "probability of skipping a HuBERT layer in training; above 0 it leaves "
            "parameters without gradient and makes a resumed run differ from an uninterrupted one"
        },
    )
    hubert_mask_prob: float = field(
        default=0.0,
        metadata={
            "help": "share of the feature frames that are masked in training (as SpecAugment masks "
            "time), in spans of --hubert-mask-length"
        },
    )
    hubert_mask_length: int = field(
        default=10, metadata={"help": "length of a masked span in frames of 20 ms"}
    )
    hubert_mask_channel_prob: float = field(
        default=0.0,
        metadata={"help": "share of the feature channels that are masked in training"},
    )
    hubert_mask_channel_length: int = field(
        default=10, metadata={"help": "length of a masked span of channels"}
    )
    load_pretrained_mt_encoder_decoder_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "translation checkpoint (of this model trained on text, or of a fairseq "
            "Transformer with the same dictionary) from which text encoder, decoder and "
            "embeddings start"
        },
    )
    freeze_decoder_updates: int = field(
        default=0,
        metadata={
            "help": "leave the decoder and the embeddings as they were loaded for so many updates: "
            "the encoder of speech first learns to write what a decoder of text can read, and the "
            "decoder forgets nothing meanwhile"
        },
    )
    conv_kernel_sizes: str = field(
        default="5,5",
        metadata={
            "help": "kernel sizes of the subsampler's convolutions, odd, comma separated; each "
            "halves the frame rate (two of them: 50 → 12.5 frames a second)"
        },
    )
    conv_channels: int = field(
        default=1024, metadata={"help": "channels inside the subsampler (halved by its GLU)"}
    )
    ctc_head: bool = field(
        default=False,
        metadata={
            "help": "add a projection of the encoder's speech states to the source vocabulary, "
            "for --ctc-weight of the criterion"
        },
    )
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(
        default="relu", metadata={"help": "activation function"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})
    attention_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability of attention weights"}
    )
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability after the activation in the FFN"}
    )
    encoder_embed_dim: int = field(default=512, metadata={"help": "encoder width"})
    encoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "encoder FFN width"})
    encoder_layers: int = field(default=6, metadata={"help": "encoder layers"})
    encoder_attention_heads: int = field(default=8, metadata={"help": "encoder heads"})
    encoder_normalize_before: bool = field(
        default=False,
        metadata={
            "help": "layer norm before each encoder block (pre-norm): what hubert_transformer does "
            "anyway; for the archs whose name ends in postln"
        },
    )
    encoder_learned_pos: bool = field(
        default=False, metadata={"help": "learned positions in the encoder"}
    )
    decoder_embed_dim: int = field(default=512, metadata={"help": "decoder width"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "decoder FFN width"})
    decoder_layers: int = field(default=6, metadata={"help": "decoder layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "decoder heads"})
    decoder_normalize_before: bool = field(
        default=False,
        metadata={"help": "layer norm before each decoder block; see --encoder-normalize-before"},
    )
    decoder_learned_pos: bool = field(
        default=False, metadata={"help": "learned positions in the decoder"}
    )
    layernorm_embedding: bool = field(
        default=False, metadata={"help": "layer norm on the embeddings"}
    )
    no_scale_embedding: bool = field(
        default=False, metadata={"help": "do not scale embeddings by the root of their width"}
    )
    separate_embeddings: bool = field(
        default=False,
        metadata={
            "help": "separate embeddings for the source and the target; by default one table "
            "serves source, target and output projection, as MuST-C's joint vocabulary allows"
        },
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations to save memory"}
    )
    max_source_positions: int = II("task.max_source_positions")
    max_target_positions: int = II("task.max_target_positions")
