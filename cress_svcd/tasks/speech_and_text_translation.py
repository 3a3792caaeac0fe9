"""Speech translation, text translation on the same pairs, and external text, in one task."""

import functools
import hashlib
import logging
import os
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
import pandas
import torch
from fairseq.data import Dictionary, FairseqDataset, LanguagePairDataset, encoders, iterators
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.multi_modality_dataset import ModalityDatasetItem
from fairseq.logging import metrics
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import register_task
from fairseq.tasks.translation import (
    EVAL_BLEU_ORDER,
    TranslationConfig,
    TranslationTask,
    load_langpair_dataset,
)
from omegaconf import II, OmegaConf, open_dict
from sacrebleu.metrics import BLEU
from torch import distributed

from cress_svcd.atomic_files import read_yaml
from cress_svcd.data.audio import audio_info, parse_audio_spec, resampled_length
from cress_svcd.data.corpus.binary_text import check_binary_pairs
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.corpus.vocabulary import check_dictionary
from cress_svcd.data.dataset import (
    GPU_LENGTH_MULTIPLE,
    EncodedSentences,
    OneModeBatches,
    Places,
    SpeechTranslationDataset,
    check_language,
    text_dataset,
)
from cress_svcd.data.feature_cache import FeatureCache, file_digest
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.inference.generator import CudaGraphGenerator
from cress_svcd.inference.install import install
from cress_svcd.inference.packed_model import build_packed, read_description
from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT
from cress_svcd.training.calibration import calibrate, is_resumed

logger = logging.getLogger(__name__)

SPEECH, TEXT, EXTERNAL = "st", "mt", "ext_mt"
DEFAULT_TEXT_TOKENS = 8192
MOST_TEXT_TOKENS = 65_536
# What fairseq-generate takes where no batch size is given; meant for tokens, too few as samples.
GENERATION_DEFAULT = 12_000
DEFAULT_SPEECH_SAMPLES = 1_600_000
# What one frame of HuBERT's features sees: shorter segments are lengthened by silence.
SHORTEST_SEGMENT = 400


@dataclass
class SpeechAndTextTranslationConfig(TranslationConfig):
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
            "help": "target language; default: tgt_lang of the config",
            "argparse_alias": "--tgt-lang",
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
        metadata={"help": "share of the external text batches that an epoch takes, drawn anew"},
    )
    feature_cache: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder of 'cress-svcd extract-features': where it holds a split, training and "
            "validation read features of the frozen speech encoder instead of audio (needs "
            "--freeze-hubert; features of the convolutions need --freeze-hubert-convolutions)"
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
            "help": "pad batches of audio to a multiple of so many samples, which changes no result: "
            "for each new length cuDNN plans HuBERT's convolutions anew. Default: 8000 (half a "
            "second) on a GPU, else 1"
        },
    )
    eval_bleu_remove_bpe: Optional[str] = field(
        default="sentencepiece",
        metadata={"help": "pieces are joined in this way before BLEU", "argparse_const": "@@ "},
    )
    quant_calibrate: int = field(
        default=0,
        metadata={
            "help": "training examples on which the vectors of a quantised model's layers are "
            "fitted to the full-precision model before the first update (some tens); 0: not"
        },
    )
    save_dir: str = II("checkpoint.save_dir")
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    disable_validation: bool = II("dataset.disable_validation")
    restore_file: str = II("checkpoint.restore_file")
    cpu: bool = II("common.cpu")
    ddp_backend: str = II("distributed_training.ddp_backend")
    find_unused_parameters: bool = II("distributed_training.find_unused_parameters")
    distributed_world_size: int = II("distributed_training.distributed_world_size")


class DataConfig(S2TDataConfig):
    """fairseq's data configuration, with clear errors, as data rather than behaviour."""

    def __init__(self, path: Path):
        read_yaml(
            path, "the config of 'cress-svcd prepare-mustc' in the data folder (or --config-yaml)"
        )
        super().__init__(path)
        self.path = path
        if not self.use_audio_input:
            raise ConfigError(
                f"{path}: key use_audio_input must be true: the model reads waveforms"
            )
        self.check_files()

    def check_files(self) -> None:
        """The files that the config names are there, and belong together."""
        named = {"vocab_filename": self.dictionary_path}
        if self.bpe_tokenizer.get("bpe") == "sentencepiece":
            named["bpe_tokenizer.sentencepiece_model"] = Path(
                self.bpe_tokenizer.get("sentencepiece_model", "")
            )
        for key, file in named.items():
            if not file.is_file():
                raise ConfigError(f"{self.path}: key {key}: {file}: no such file")
        if len(named) == 2:
            check_dictionary(named["bpe_tokenizer.sentencepiece_model"], self.dictionary_path)

    @property
    def dictionary_path(self) -> Path:
        return self.root / self.vocab_filename

    @property
    def bpe_tokenizer(self) -> dict:
        """As configured; a relative ``sentencepiece_model`` starts at the config.

        Upstream prefers a file of that name in the working directory.
        """
        tokenizer = dict(self.config.get("bpe_tokenizer") or {"bpe": None})
        if "sentencepiece_model" in tokenizer:
            tokenizer["sentencepiece_model"] = str(self.root / tokenizer["sentencepiece_model"])
        return tokenizer

    @property
    def normalize(self) -> bool:
        """``standardize_audio``; upstream it is a method, and as a condition always true."""
        return bool(self.config.get("standardize_audio", False))

    @property
    def absolute_audio_root(self) -> str:
        """``audio_root``; a relative one starts at the config."""
        return str((self.root / self.audio_root).resolve()) if self.audio_root else str(self.root)


def load_dictionary(path: Path) -> Dictionary:
    """Raises ConfigError if ``path`` is no fairseq dictionary."""
    try:
        return Dictionary.load(str(path))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{path}: is no fairseq dictionary ({error}); expected 'piece count' in each line"
        ) from None


def report_short(frame: pandas.DataFrame, split: str) -> None:
    """Log how many segments are too short for a single frame of the speech encoder."""
    short = frame["n_frames"] < SHORTEST_SEGMENT
    if short.any():
        logger.warning(
            "%s: %d of %d segments have fewer than %d samples, too few for a frame of the speech "
            "encoder, and are filled up with silence (the first: %s); prepare-mustc --min-frames "
            "drops them",
            split,
            short.sum(),
            len(frame),
            SHORTEST_SEGMENT,
            frame["id"][short.idxmax()],
        )


def processes(cfg: SpeechAndTextTranslationConfig) -> int:
    """How many train together; those of torchrun are counted only after the options are read."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return cfg.distributed_world_size


def dictionary_digest(dictionary: Dictionary) -> str:
    """Short digest of the symbols in their order: the identity of a vocabulary."""
    return hashlib.sha256("\n".join(dictionary.symbols).encode("utf-8")).hexdigest()[:16]


def counted_bleu(meters: dict) -> float:
    """BLEU from the counts of a validation's batches, smoothed as fairseq does it."""
    score = BLEU.compute_bleu(
        correct=meters["_bleu_counts"].sum,
        total=meters["_bleu_totals"].sum,
        sys_len=int(meters["_bleu_sys_len"].sum),
        ref_len=int(meters["_bleu_ref_len"].sum),
        smooth_method="exp",
    )
    return round(score.score, 2)


@register_task("speech_and_text_translation", dataclass=SpeechAndTextTranslationConfig)
class SpeechAndTextTranslationTask(TranslationTask):
    """Translates speech and text with one model and one dictionary.

    A training batch holds one mode: ``st`` (speech; with its transcript under ``source_text`` where
    text translation or CTC wants it), ``mt`` (transcripts only) or ``ext_mt`` (external text).
    Where an epoch mixes them, ``sample["mode"]`` tells which.
    """

    cfg: SpeechAndTextTranslationConfig

    def __init__(self, cfg, dictionary: Dictionary, data_cfg: DataConfig):
        super().__init__(cfg, dictionary, dictionary)
        self.data_cfg = data_cfg
        self.bpe = encoders.build_bpe(Namespace(**data_cfg.bpe_tokenizer))
        self.pre_tokenizer = encoders.build_tokenizer(Namespace(**data_cfg.pre_tokenizer))
        self.sequence_generator = None
        self.hubert_digest = None
        self.cached_encoder: str | None = None
        self.cached_layer: str | None = None
        self.state.merge_state_dict({"dictionary_digest": dictionary_digest(dictionary)})

    @classmethod
    def setup_task(cls, cfg: SpeechAndTextTranslationConfig, **kwargs):
        data_cfg = DataConfig(Path(cfg.data) / cfg.config_yaml)
        dictionary = load_dictionary(data_cfg.dictionary_path)
        logger.info("dictionary: %d types", len(dictionary))
        with open_dict(cfg):
            cfg.source_lang = cfg.source_lang or data_cfg.config.get("src_lang", "en")
            cfg.target_lang = cfg.target_lang or data_cfg.config.get("tgt_lang")
        if not cfg.target_lang:
            raise ConfigError(
                f"{data_cfg.path}: no key tgt_lang, and no --tgt-lang given: name the target "
                "language"
            )
        task = cls(cfg, dictionary, data_cfg)
        task.check_options()
        return task

    def check_options(self) -> None:
        """Combinations that could only fail later, or worse, not fail."""
        cfg = self.cfg
        if cfg.ext_mt_training and not cfg.text_data:
            raise ConfigError("--ext-mt-training needs --text-data FOLDER (binary sentence pairs)")
        if not 0 < cfg.ext_mt_ratio <= 1:
            raise ConfigError(f"--ext-mt-ratio {cfg.ext_mt_ratio}: expected 0 < ratio <= 1")
        if cfg.quant_calibrate < 0:
            raise ConfigError(
                f"--quant-calibrate {cfg.quant_calibrate}: expected a number of examples, or 0"
            )
        if (
            len(self.training_modes) > 1
            and processes(cfg) > 1
            and cfg.ddp_backend in ("c10d", "pytorch_ddp")
            and not cfg.find_unused_parameters
        ):
            raise ConfigError(
                "batches of text do not use the speech encoder, which --ddp-backend pytorch_ddp "
                "takes for a hang: give --ddp-backend legacy_ddp or --find-unused-parameters"
            )

    @property
    def training_modes(self) -> list[str]:
        """Of the training batches."""
        cfg = self.cfg
        modes = [EXTERNAL] if cfg.ext_mt_training else []
        if cfg.st_training or not (cfg.mt_finetune or cfg.ext_mt_training):
            return [SPEECH, *modes]
        return [TEXT, *modes] if cfg.mt_finetune else modes

    @property
    def evaluates_text(self) -> bool:
        """Whether validation and generation take text rather than speech."""
        return self.cfg.text_input or SPEECH not in self.training_modes

    def load_state_dict(self, state_dict: dict) -> None:
        """Accept a checkpoint's task state, unless it was trained with another dictionary."""
        self.check_dictionary(state_dict)
        super().load_state_dict(state_dict)

    def check_dictionary(self, state_dict: dict) -> None:
        """Raise CheckpointError if a checkpoint's task state is of another dictionary.

        One that does not tell its dictionary is let through.
        """
        own = dictionary_digest(self.tgt_dict)
        digest = state_dict.get("dictionary_digest", own)
        if digest != own:
            raise CheckpointError(
                f"the checkpoint was trained with another dictionary (digest {digest}) than "
                f"{self.data_cfg.dictionary_path} (digest {own}): use the data folder that it was "
                "trained with, or prepare this data with its vocabulary "
                "(prepare-mustc --spm-model … --dictionary …)"
            )

    # Datasets

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs) -> None:
        """Load ``split`` (or several, comma separated).

        The training split holds a dataset for each of :attr:`training_modes`.

        Raises:
            ConfigError, ManifestError: a file is missing or wrong.
        """
        training = split == self.cfg.train_subset
        modes = self.training_modes if training else [self._evaluation_mode(split)]
        items = []
        for mode in modes:
            dataset = self._load_mode(split, mode, training)
            # What fairseq calls a positions limit differs between modes; the dataset keeps its own.
            dataset.size_limits = self._size_limits(mode, training)
            items.append((mode, dataset))
            logger.info("%s: %d examples of mode %s", split, len(dataset), mode)
        if len(items) == 1:
            self.datasets[split] = items[0][1]
        else:
            self.datasets[split] = OneModeBatches(
                [ModalityDatasetItem(mode, dataset, dataset.size_limits) for mode, dataset in items]
            )
            self.datasets[split].size_limits = None

    def _evaluation_mode(self, split: str) -> str:
        if not self.evaluates_text:
            return SPEECH
        only_external = self.training_modes == [EXTERNAL] and not self.cfg.text_input
        return EXTERNAL if only_external and self._has_binary(split) else TEXT

    def _size_limits(self, mode: str, training: bool) -> tuple:
        source = self.cfg.max_source_positions
        if mode == SPEECH:
            source = self.cfg.max_audio_positions if training else None
        return source, self.cfg.max_target_positions

    def _load_mode(self, split: str, mode: str, training: bool) -> FairseqDataset:
        if mode == EXTERNAL:
            return self._load_external(split)
        return self._load_manifests(split, mode, training)

    def _load_manifests(self, split: str, mode: str, training: bool) -> FairseqDataset:
        frames, manifests = [], []
        for name in split.split(","):
            path = self.data_cfg.root / f"{name}.tsv"
            if not path.is_file():
                found = sorted(file.stem for file in self.data_cfg.root.glob("*.tsv"))
                raise ConfigError(
                    f"{path}: no such manifest; this data folder has {', '.join(found) or 'none'}"
                )
            frame = read_manifest(path)
            check_language(frame, "tgt_lang", self.cfg.target_lang, str(path))
            check_language(frame, "src_lang", self.cfg.source_lang, str(path))
            frames.append(frame)
            manifests.append((path, frame["id"]))
        frame = pandas.concat(frames, ignore_index=True)
        targets = self._encode(frame["tgt_text"], f"{split}, tgt_text")
        # Generation has no use for transcripts, and they may be in other words than training's.
        wants_sources = mode == TEXT or training or self.cfg.mt_finetune or self.cfg.st_training
        has_sources = bool((frame["src_text"] != "").all())
        if not has_sources and (mode == TEXT or self.cfg.mt_finetune):
            row = int((frame["src_text"] == "").to_numpy().argmax())
            raise ConfigError(
                f"{split}: segment {frame['id'][row]} has no src_text; text translation "
                "(--mt-finetune, --text-input) needs the transcript of every segment"
            )
        sources = None
        if wants_sources and has_sources:
            sources = self._encode(frame["src_text"], f"{split}, src_text")
        if mode == SPEECH:
            report_short(frame, split)
        if mode == TEXT:
            return text_dataset(sources, targets, self.src_dict, self.tgt_dict, shuffle=training)
        return SpeechTranslationDataset(
            frame["audio"],
            frame["n_frames"],
            targets,
            sources,
            self.tgt_dict,
            audio_root=self.data_cfg.absolute_audio_root,
            normalize=self.data_cfg.normalize,
            shuffle=training,
            features=self._cached_features(split, frame),
            length_multiple=self.length_multiple,
            places=Places(manifests),
        )

    @property
    def length_multiple(self) -> int:
        """Of the samples of a batch."""
        if self.cfg.audio_length_multiple is not None:
            return max(1, self.cfg.audio_length_multiple)
        return GPU_LENGTH_MULTIPLE if torch.cuda.is_available() and not self.cfg.cpu else 1

    def _cached_features(self, split: str, frame: pandas.DataFrame) -> FeatureCache | None:
        folder = self.cfg.feature_cache
        if not folder:
            return None
        if not FeatureCache.exists(folder, split):
            logger.warning("%s: no features of %s, audio is read", folder, split)
            return None
        cache = FeatureCache(folder, split, frame)
        if cache.about["hubert"] != self.hubert_digest:
            raise ConfigError(
                f"{folder}: the features of {split} are of another encoder than "
                "--hubert-model-path; make them again with 'cress-svcd extract-features'"
            )
        if (layer := cache.about.get("layer", OUTPUT)) != self.cached_layer:
            raise ConfigError(
                f"{folder}: the features of {split} are of the encoder's {layer}, but this "
                f"training needs those of its {self.cached_layer} (the {OUTPUT} with "
                f"--freeze-hubert, the {CONVOLUTIONS} with --freeze-hubert-convolutions)"
            )
        return cache

    def _encode(self, sentences, what: str) -> EncodedSentences:
        return EncodedSentences(sentences, self._pieces, self.tgt_dict, what)

    def _pieces(self, sentence: str) -> str:
        if self.pre_tokenizer is not None:
            sentence = self.pre_tokenizer.encode(sentence)
        return self.bpe.encode(sentence) if self.bpe is not None else sentence

    def _binary_prefix(self, split: str) -> Path:
        pair = f"{self.cfg.source_lang}-{self.cfg.target_lang}"
        return Path(self.cfg.text_data) / f"{split}.{pair}.{self.cfg.source_lang}"

    def _has_binary(self, split: str) -> bool:
        return bool(self.cfg.text_data) and Path(f"{self._binary_prefix(split)}.idx").is_file()

    def _load_external(self, split: str) -> LanguagePairDataset:
        folder = Path(self.cfg.text_data)
        if not self._has_binary(split):
            raise ConfigError(
                f"{self._binary_prefix(split)}.idx: no such file; --text-data expects fairseq's "
                "binary sentence pairs there (prepare-mustc --text-data, or fairseq-preprocess "
                "with this dictionary)"
            )
        for language in (self.cfg.source_lang, self.cfg.target_lang):
            path = folder / f"dict.{language}.txt"
            if path.is_file() and load_dictionary(path) != self.tgt_dict:
                raise ConfigError(
                    f"{path}: another dictionary than {self.data_cfg.dictionary_path}; binarise "
                    "the text with the vocabulary of the speech data"
                )
        check_binary_pairs(folder, split, (self.cfg.source_lang, self.cfg.target_lang))
        return load_langpair_dataset(
            str(folder),
            split,
            self.cfg.source_lang,
            self.src_dict,
            self.cfg.target_lang,
            self.tgt_dict,
            combine=False,
            dataset_impl=self.cfg.dataset_impl,
            upsample_primary=1,
            left_pad_source=False,
            left_pad_target=False,
            max_source_positions=self.cfg.max_source_positions,
            max_target_positions=self.cfg.max_target_positions,
            shuffle=split == self.cfg.train_subset,
        )

    # Batches

    def max_positions(self) -> None:
        """No limit that holds for speech and text alike; see ``size_limits`` of the datasets."""
        return

    def get_batch_iterator(self, dataset, max_tokens=None, max_sentences=None, epoch=1, **kwargs):
        """Batches of one mode each, speech measured in samples and text in tokens."""
        kwargs.pop("max_positions", None)
        # fairseq wants multiples of 8 and drops what is left over at the end: up to seven
        # sentences of a test set would never be translated, nor the longest ever trained on.
        kwargs["required_batch_size_multiple"] = 1
        if isinstance(dataset, OneModeBatches):
            return self._mixed_iterator(dataset, max_tokens, max_sentences, epoch=epoch, **kwargs)
        limits = getattr(dataset, "size_limits", None)
        evaluated = limits is None or limits[0] is None
        if isinstance(dataset, SpeechTranslationDataset) and evaluated:
            max_tokens, limits = self._speech_of_any_length(dataset, max_tokens), None
        if isinstance(dataset, LanguagePairDataset):
            max_tokens, max_sentences = self._text_batch_size(max_tokens, max_sentences)
        if limits is not None and max_tokens is not None:
            limits = tuple(
                max_tokens if limit is None else min(limit, max_tokens) for limit in limits
            )
        self._refuse_if_none_fits(dataset, dataset, limits)
        reused = dataset in self.dataset_to_epoch_iter
        # fairseq draws the batches once, in the epoch that it starts with, and keeps them: resumed
        # in a later epoch, training would find others than uninterrupted.  So always as in epoch 1.
        iterator = super().get_batch_iterator(
            dataset,
            max_tokens=max_tokens,
            max_sentences=max_sentences,
            max_positions=limits,
            epoch=1,
            **kwargs,
        )
        if not reused:
            iterator.epoch = max(epoch, 1)
        return iterator

    @staticmethod
    def _speech_of_any_length(dataset: SpeechTranslationDataset, max_tokens: int | None):
        """Samples in a batch of validation or generation, where no segment may be left out."""
        if max_tokens is None:
            return None
        if max_tokens == GENERATION_DEFAULT:
            max_tokens = DEFAULT_SPEECH_SAMPLES
        return max(max_tokens, int(dataset.n_frames.max()))

    def _text_batch_size(self, max_tokens: int | None, max_sentences: int | None) -> tuple:
        """Where only text is read, fairseq's own options may give the size of its batches."""
        if self.cfg.max_tokens_text or self.cfg.batch_size_text:
            return self.cfg.max_tokens_text, self.cfg.batch_size_text
        if max_tokens is not None and max_tokens > MOST_TEXT_TOKENS:
            return DEFAULT_TEXT_TOKENS, max_sentences  # it was meant for samples of audio
        return max_tokens, max_sentences

    def _mixed_iterator(
        self,
        dataset: OneModeBatches,
        max_tokens: int | None,
        max_sentences: int | None,
        required_batch_size_multiple: int = 1,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        skip_remainder_batch: bool = False,
        grouped_shuffling: bool = False,
        **_,
    ) -> iterators.GroupedEpochBatchIterator:
        text_tokens = self.cfg.max_tokens_text or DEFAULT_TEXT_TOKENS
        dataset.max_tokens = [
            max_tokens if mode == SPEECH else text_tokens for mode in dataset.id_to_mode
        ]
        dataset.max_sentences = [
            max_sentences if mode == SPEECH else self.cfg.batch_size_text
            for mode in dataset.id_to_mode
        ]
        dataset.max_positions = [
            tuple(min(limit, tokens) if tokens else limit for limit in limits)
            for limits, tokens in zip(dataset.max_positions, dataset.max_tokens)
        ]
        for part, limits in zip(dataset.datasets, dataset.max_positions):
            self._refuse_if_none_fits(dataset, part, limits)
        self._report_left_out(dataset)
        dataset.set_epoch(epoch)
        ratios = [self.cfg.ext_mt_ratio if mode == EXTERNAL else 1 for mode in dataset.id_to_mode]
        samplers = dataset.get_batch_samplers(ratios, required_batch_size_multiple, seed)
        for mode, batches in zip(dataset.id_to_mode, samplers):
            if len(batches) < num_shards:
                raise ConfigError(
                    f"{len(batches)} batches of mode {mode} for {num_shards} processes: some would "
                    "never see it; give smaller batches (--max-tokens, --max-tokens-text), a "
                    "larger --ext-mt-ratio, or fewer processes"
                )
        if grouped_shuffling:
            # Neighbours are of similar length.  Of so many in a row each process takes its own, and
            # all shuffle what they have in the same order.
            samplers = [
                batches[shard_id : len(batches) // num_shards * num_shards : num_shards]
                for batches in samplers
            ]
            num_shards, shard_id = 1, 0
        return iterators.GroupedEpochBatchIterator(
            dataset=dataset,
            collate_fn=dataset.collater,
            batch_samplers=samplers,
            seed=seed,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            skip_remainder_batch=skip_remainder_batch,
        )

    def _refuse_if_none_fits(
        self, dataset: FairseqDataset, part: FairseqDataset, limits: tuple | None
    ) -> None:
        """Raise ConfigError where an epoch of ``part`` (of ``dataset``, a split) has no batch.

        fairseq would only say that the dataset is empty.
        """
        if len(part) and limits is None:
            return
        if len(part) and len(part.filter_indices_by_size(np.arange(len(part)), limits)[0]):
            return
        split = next((name for name, known in self.datasets.items() if known is dataset), "data")
        if not len(part):
            raise ConfigError(f"{split}: holds no sentence pairs; make the text anew")
        speech = isinstance(part, SpeechTranslationDataset)
        what, unit = ("segments", "samples") if speech else ("sentence pairs", "tokens")
        sizes = np.array([part.size(index) for index in range(len(part))])
        longest, shortest = sizes[sizes[:, 0].argmax()], sizes[sizes[:, 0].argmin()]
        options = "--max-audio-positions, --max-tokens" if speech else "--max-tokens-text"
        raise ConfigError(
            f"{split}: none of its {len(part)} {what} is within the limits, {limits[0]} {unit} and "
            f"{limits[1]} tokens of translation; the longest has {longest[0]} and {longest[1]}, "
            f"the shortest {shortest[0]} and {shortest[1]}: raise {options} (or "
            "--max-source-positions, --max-target-positions), or cut them shorter"
        )

    @staticmethod
    def _report_left_out(dataset: OneModeBatches) -> None:
        """fairseq leaves out what is too long here without a word."""
        if dataset.raw_sub_batch_samplers:
            return  # told before: the batches are made only once
        for part, mode, limits in zip(dataset.datasets, dataset.id_to_mode, dataset.max_positions):
            _, left_out = part.filter_indices_by_size(np.arange(len(part)), limits)
            if len(left_out):
                logger.warning(
                    "mode %s: %d of %d samples have invalid sizes and will be skipped, limits %s",
                    mode,
                    len(left_out),
                    len(part),
                    limits,
                )

    # Model

    def build_criterion(self, cfg, from_checkpoint: bool = False):
        """As fairseq's; called where a model is trained or validated, not where it translates.

        Raises:
            ConfigError: checkpoints are to be compared by what no validation would tell.
        """
        own = self.cfg
        if (
            not own.eval_bleu
            and not own.disable_validation
            and own.best_checkpoint_metric == "bleu"
        ):
            raise ConfigError(
                "--best-checkpoint-metric bleu needs --eval-bleu: validation translates and counts "
                "BLEU only then; give it, or compare checkpoints by st_nll_loss"
            )
        return super().build_criterion(cfg, from_checkpoint)

    def build_model(self, cfg, from_checkpoint: bool = False):
        """Build the model; unless it comes from a checkpoint, start it from what ``cfg`` names."""
        architecture = ARCH_MODEL_REGISTRY.get(cfg._name)
        if architecture is None:
            raise ConfigError(
                f"arch {cfg._name!r} is not known; --user-dir names the code that it comes from"
            )
        if not from_checkpoint and hasattr(architecture, "complete_config"):
            architecture.complete_config(cfg)
            self._check_speech_model(cfg)
            self._check_feature_cache(cfg)
        packed = cfg.get("packed") if from_checkpoint and OmegaConf.is_config(cfg) else None
        if packed:
            build = functools.partial(super().build_model, cfg, from_checkpoint)
            model = build_packed(build, read_description(packed))
        else:
            model = super().build_model(cfg, from_checkpoint)
            if from_checkpoint or getattr(cfg, "freeze_hubert", False):
                install(model)
        if not from_checkpoint and hasattr(model, "load_pretrained"):
            model.load_pretrained(cfg, self.dictionary_digest)
            if self.cached_encoder:
                self.feed_cached_features(model)
        self._check_normalization(model)
        if not from_checkpoint and self.cfg.quant_calibrate > 0:
            self._calibrate(model, cfg)
        return model

    def _calibrate(self, model, cfg) -> None:
        if is_resumed(self.cfg.save_dir, self.cfg.restore_file):
            return  # the checkpoint's vectors take the place of fitted ones
        split = self.cfg.train_subset
        self.load_dataset(split)
        start = getattr(cfg, "finetuned_st_model", None)
        calibrate(model, start, self, self.dataset(split), self.cfg.quant_calibrate, self.cfg.cpu)

    @property
    def dictionary_digest(self) -> str:
        """The identity of the vocabulary of this task's data."""
        return dictionary_digest(self.tgt_dict)

    def feed_cached_features(self, model) -> None:
        """Have ``model`` take what --feature-cache holds in place of audio.

        Raises:
            ConfigError: its speech encoder, up to the cached layer, is not the one in there.
        """
        hubert = getattr(model.encoder, "hubert", None)
        if hubert is None or not hubert.same_weights(self.cached_encoder, self.cached_layer):
            raise ConfigError(
                f"--feature-cache: its features come from {self.cached_encoder}, and the model's "
                "speech encoder is another (trained on, or quantised): read the audio instead, or "
                "start from a model that was trained with --freeze-hubert on that encoder"
            )
        hubert.cached_layer = self.cached_layer

    def _check_speech_model(self, cfg) -> None:
        if SPEECH in self.training_modes and not (cfg.hubert_model_path or cfg.hubert_description):
            raise ConfigError(
                "training on speech needs --hubert-model-path FILE (hubert_base_ls960.pt, or the "
                "output of 'cress-svcd pretrain-hubert')"
            )

    def _check_feature_cache(self, cfg) -> None:
        if not self.cfg.feature_cache:
            return
        if not (cfg.hubert_model_path and (cfg.freeze_hubert or cfg.freeze_hubert_convolutions)):
            raise ConfigError(
                "--feature-cache needs --hubert-model-path and --freeze-hubert (or "
                "--freeze-hubert-convolutions): an encoder that is trained does not keep its "
                "features"
            )
        self.cached_layer = OUTPUT if cfg.freeze_hubert else CONVOLUTIONS
        self.hubert_digest = file_digest(cfg.hubert_model_path)
        self.cached_encoder = cfg.hubert_model_path

    def _check_normalization(self, model) -> None:
        hubert = getattr(getattr(model, "encoder", None), "hubert", None)
        if hubert is not None and hubert.description.normalize != self.data_cfg.normalize:
            raise ConfigError(
                f"{self.data_cfg.path}: key standardize_audio is {self.data_cfg.normalize}, but "
                f"the speech encoder was pretrained with normalize={hubert.description.normalize}: "
                "set the key to that"
            )

    # Training

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """As fairseq's; the criterion is told the update's number, a schedule's state is logged."""
        if hasattr(criterion, "set_num_updates"):
            criterion.set_num_updates(update_num)
        result = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        stage = getattr(model, "quantization_stage", None)
        if stage is not None:
            metrics.log_scalar("quant_mix", stage.mix, weight=0, round=3)
        return result

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        """As fairseq's, but the BLEU of empty translations, which a model may begin with, is 0.

        fairseq logs none, and misses it where checkpoints are compared by it.
        """
        super().reduce_metrics(logging_outputs, criterion)
        totals = [log["_bleu_totals_0"] for log in logging_outputs if "_bleu_totals_0" in log]
        if self.cfg.eval_bleu and totals and not any(totals):
            for name in ("_bleu_counts", "_bleu_totals"):
                metrics.log_scalar(name, np.zeros(EVAL_BLEU_ORDER, int))
            metrics.log_scalar("_bleu_sys_len", 0)
            metrics.log_scalar(
                "_bleu_ref_len", sum(log["_bleu_ref_len"] for log in logging_outputs)
            )
            metrics.log_derived("bleu", counted_bleu)

    def optimizer_step(self, optimizer, model, update_num) -> None:
        """As fairseq's, after telling the optimizer the update's number."""
        inner = getattr(optimizer, "fp32_optimizer", optimizer)
        if hasattr(inner, "set_num_updates"):
            inner.set_num_updates(update_num)
        super().optimizer_step(optimizer, model, update_num)

    # Generation

    def build_generator(self, models, args, seq_gen_cls=None, *arguments, **options):
        """As fairseq's, its decoder's steps recorded on CUDA; see ``generation``."""
        if seq_gen_cls is None and not getattr(args, "print_alignment", None):
            seq_gen_cls = CudaGraphGenerator
        return super().build_generator(models, args, seq_gen_cls, *arguments, **options)

    @property
    def source_dictionary(self) -> Dictionary | None:
        """None for speech, so that fairseq-generate does not print waveforms as words."""
        return self.src_dict if self.evaluates_text else None

    @property
    def source_blank(self) -> int:
        """Index of the CTC blank: the beginning-of-sentence symbol, which no transcript holds."""
        return self.src_dict.bos()

    def build_tokenizer(self, args):
        return self.pre_tokenizer

    def build_bpe(self, args):
        return self.bpe

    def get_interactive_tokens_and_lengths(self, lines: list[str], encode_fn):
        """For fairseq-interactive: audio ``path[:offset:frames]`` lines, or sentences."""
        if self.evaluates_text:
            return super().get_interactive_tokens_and_lengths(lines, encode_fn)
        lengths = []
        for line in lines:
            spec = parse_audio_spec(line)
            info = audio_info(spec.path)
            frames = spec.frames if spec.frames >= 0 else info.frames - spec.offset
            lengths.append(resampled_length(frames, info.sample_rate))
        return lines, lengths

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None, **kwargs):
        if self.evaluates_text:
            return LanguagePairDataset(
                src_tokens,
                src_lengths,
                self.src_dict,
                tgt_dict=self.tgt_dict,
                left_pad_source=False,
                constraints=constraints,
            )
        return SpeechTranslationDataset(
            src_tokens,
            np.asarray(src_lengths),
            None,
            None,
            self.tgt_dict,
            audio_root=os.getcwd(),
            normalize=self.data_cfg.normalize,
            length_multiple=self.length_multiple,
        )
