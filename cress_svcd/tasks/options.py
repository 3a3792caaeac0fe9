"""Options of the task, and the modes of its batches."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks.translation import TranslationConfig
from omegaconf import II

from cress_svcd.training.graph_options import GraphTrainingOptions
from cress_svcd.training.matmul_precision import MatmulOptions

# What a batch holds: speech, transcripts in its place, or pairs of external text.
SPEECH, TEXT, EXTERNAL = "st", "mt", "ext_mt"


@dataclass
class SpeechAndTextTranslationConfig(GraphTrainingOptions, MatmulOptions, TranslationConfig):
    """Options of the task.  ``data`` is the folder with the manifests and the config."""

    data: str = field(
        default="", metadata={"help": "folder of prepare-mustc: manifests, vocabulary, config"}
    )
    config_yaml: str = field(
        default="config.yaml", metadata={"help": "configuration file, relative to the data folder"}
    )
    source_lang: Optional[str] = field(
        default=None,
        metadata={"help": "source language; default: src_lang of the config, else en"},
    )
    target_lang: Optional[str] = field(
        default=None,
        metadata={
            "help": "target language; default: tgt_lang of the config; of several (tgt_langs) the "
            "one that is read alone, by default all of them",
            "argparse_alias": "--tgt-lang",
        },
    )
    sampling_alpha: Optional[float] = field(
        default=None,
        metadata={
            "help": "of several target languages: training sees them in shares proportional to "
            "size ** alpha (1 / alpha is the temperature), 1: as they are, 0: equal; the smaller "
            "ones come several times an epoch; default: sampling_alpha of the config, else 1"
        },
    )
    text_data: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder of sentence pairs in fairseq's binary format, for --ext-mt-training "
            "(splits are named as those of speech)"
        },
    )
    st_training: bool = field(
        default=False,
        metadata={"help": "train on speech translation (the default if no training is named)"},
    )
    mt_finetune: bool = field(
        default=False,
        metadata={
            "help": "train on text translation of the same pairs, transcript to translation; with "
            "--st-training in the same batches as the speech"
        },
    )
    ext_mt_training: bool = field(
        default=False,
        metadata={"help": "train on the text pairs of --text-data, in batches of their own"},
    )
    max_tokens_text: Optional[int] = field(
        default=None,
        metadata={
            "help": "tokens in a batch of text; --max-tokens counts samples of audio (16,000 a "
            "second). Default: --max-tokens where nothing but text is read, at most 65,536; else "
            "8192"
        },
    )
    batch_size_text: Optional[int] = field(
        default=None, metadata={"help": "sentences in a batch of text; default: no limit"}
    )
    ext_mt_ratio: float = field(
        default=1.0,
        metadata={"help": "share of the external text batches drawn at random for each epoch"},
    )
    feature_cache: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder of 'cress-svcd extract-features': where it holds a split, training and "
            "validation read features of the frozen speech encoder instead of audio (needs "
            "--freeze-hubert; features of the convolutions need --freeze-hubert-convolutions)"
        },
    )
    vary_cuts: float = field(
        default=0.0,
        metadata={
            "help": "share of the training segments that each epoch cuts otherwise than the corpus "
            "does: edges moved, silence, noise and neighbours let in, loudness and band changed, "
            "as cutting recordings does; 0: none. With --feature-cache: as its features were made "
            "(extract-features --vary-cuts), whose seed then decides"
        },
    )
    join_segments: float = field(
        default=0.0,
        metadata={
            "help": "train also on neighbouring segments of a recording as one: so many of them "
            "for each segment (0.1: a tenth more)"
        },
    )
    audio_transforms: Optional[str] = field(
        default=None,
        metadata={
            "help": "make training's speech sound otherwise in every epoch: NAME or NAME=SHARE of "
            "the segments, comma separated, of speed, room, noise, band, codec, gain, mask; or "
            "all. Not with --feature-cache"
        },
    )
    text_input: bool = field(
        default=False,
        metadata={
            "help": "validate and generate from the transcripts rather than from the speech; "
            "fairseq-interactive then reads sentences rather than audio paths"
        },
    )
    max_audio_positions: int = field(
        default=480_000,
        metadata={
            "help": "longest segment in training, in samples; longer ones are skipped and counted "
            "(validation and generation take any length)"
        },
    )
    audio_length_multiple: Optional[int] = field(
        default=None,
        metadata={
            "help": "pad batches of audio to a multiple of so many samples, which changes no "
            "result: for each new length cuDNN plans HuBERT's convolutions again. Default: 8000 "
            "(half a second) on a GPU, else 1"
        },
    )
    eval_bleu_remove_bpe: Optional[str] = field(
        default="sentencepiece",
        metadata={"help": "tokens are joined in this way before BLEU", "argparse_const": "@@ "},
    )
    quant_calibrate: int = field(
        default=0,
        metadata={
            "help": "training examples on which the scales of a quantised model's layers are "
            "fitted to the full-precision model before the first update (some tens); 0: not"
        },
    )
    quant_calibrate_by: ChoiceEnum(("outputs", "inputs")) = field(
        default="outputs",
        metadata={
            "help": "how: outputs fits g and h of SVCD's layers to the full-precision model's "
            "outputs; inputs gives all methods that can initial values that know how large each "
            "input is (activation-aware, as ASVD)"
        },
    )
    quant_train_only: Optional[str] = field(
        default=None,
        metadata={
            "help": "train the weights of these modules only, and the scales of quantised layers "
            "(selective fine-tuning); comma separated, * is any, -1 the last: "
            "decoder.layers.*.encoder_attn,decoder.layers.-1"
        },
    )
    seed: int = II("common.seed")
    max_tokens: Optional[int] = II("dataset.max_tokens")
    save_dir: str = II("checkpoint.save_dir")
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    disable_validation: bool = II("dataset.disable_validation")
    restore_file: str = II("checkpoint.restore_file")
    cpu: bool = II("common.cpu")
    ddp_backend: str = II("distributed_training.ddp_backend")
    find_unused_parameters: bool = II("distributed_training.find_unused_parameters")
    distributed_world_size: int = II("distributed_training.distributed_world_size")
