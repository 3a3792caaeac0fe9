"""Speech translation, text translation on the same pairs, and external text, in one task."""

import functools
import logging
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary, encoders
from fairseq.logging import metrics
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import register_task
from fairseq.tasks.translation import EVAL_BLEU_ORDER
from omegaconf import OmegaConf, open_dict
from sacrebleu.metrics import BLEU
from torch import distributed

from cress_svcd.data.audio import audio_info, parse_audio_spec, resampled_length
from cress_svcd.data.config import DataConfig, dictionary_digest, load_dictionary
from cress_svcd.data.dataset import SpeechTranslationDataset, TextTranslationDataset
from cress_svcd.data.target_languages import require_one, tag_indices
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.inference.generator import CudaGraphGenerator
from cress_svcd.inference.install import install
from cress_svcd.inference.packed_model import build_packed
from cress_svcd.inference.packed_structure import read_description
from cress_svcd.models.hubert_checkpoint import hubert_digest
from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT
from cress_svcd.quantization.calibration import fit_model, start_from_inputs
from cress_svcd.tasks.batching import BatchingTask
from cress_svcd.tasks.options import SPEECH, SpeechAndTextTranslationConfig
from cress_svcd.training.calibration import calibrate, is_resumed
from cress_svcd.training.matmul_precision import keep_prepared, set_matmul_precision
from cress_svcd.training.selection import train_only

logger = logging.getLogger(__name__)


def processes(cfg: SpeechAndTextTranslationConfig) -> int:
    """How many train together; those of torchrun are counted only after the options are read."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return cfg.distributed_world_size


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


def _built(build, data_cfg: DataConfig, key: str):
    """fairseq's tokenizer that a key of the configuration describes.

    Raises:
        ConfigError: there is none of that description.
    """
    try:
        return build(Namespace(**getattr(data_cfg, key)))
    except Exception as error:  # a name that is not registered, options of another type, …
        raise ConfigError(
            f"{data_cfg.path}: key {key}: {data_cfg.config.get(key)!r:.80} cannot be used "
            f"({type(error).__name__}); expected what prepare-mustc writes"
        ) from error


@register_task("speech_and_text_translation", dataclass=SpeechAndTextTranslationConfig)
class SpeechAndTextTranslationTask(BatchingTask):
    """Translates speech and text with one model and one dictionary.

    A training batch holds one mode: ``st`` (speech; with its transcript under ``source_text`` where
    text translation or CTC wants it), ``mt`` (transcripts only) or ``ext_mt`` (external text).
    Where an epoch mixes them, ``sample["mode"]`` tells which.
    """

    def __init__(self, cfg, dictionary: Dictionary, data_cfg: DataConfig):
        super().__init__(cfg, dictionary, dictionary)
        self.data_cfg = data_cfg
        self.languages = tag_indices(dictionary, data_cfg.tgt_langs, data_cfg.dictionary_path)
        self.bpe = _built(encoders.build_bpe, data_cfg, "bpe_tokenizer")
        self.pre_tokenizer = _built(encoders.build_tokenizer, data_cfg, "pre_tokenizer")
        self.sequence_generator = None
        self.state.merge_state_dict({"dictionary_digest": dictionary_digest(dictionary)})

    @classmethod
    def setup_task(cls, cfg: SpeechAndTextTranslationConfig, **kwargs):
        data_cfg = DataConfig(Path(cfg.data) / cfg.config_yaml)
        dictionary = load_dictionary(data_cfg.dictionary_path)
        logger.info("dictionary: %d types", len(dictionary))
        with open_dict(cfg):
            cfg.source_lang = cfg.source_lang or data_cfg.config.get("src_lang", "en")
            cfg.target_lang = cfg.target_lang or data_cfg.config.get("tgt_lang")
        if data_cfg.tgt_langs and cfg.target_lang:
            require_one(cfg.target_lang, data_cfg.tgt_langs, str(data_cfg.path))
        elif not cfg.target_lang and not data_cfg.tgt_langs:
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
        if not from_checkpoint and self.cfg.quant_train_only:
            train_only(model, self.cfg.quant_train_only)
        return model

    def _calibrate(self, model, cfg) -> None:
        if is_resumed(self.cfg.save_dir, self.cfg.restore_file):
            return  # the checkpoint's scales take the place of fitted ones
        keep_prepared()
        split = self.cfg.train_subset
        self.load_dataset(split)
        start = getattr(cfg, "finetuned_st_model", None)
        fit = start_from_inputs if str(self.cfg.quant_calibrate_by) == "inputs" else fit_model
        count, cpu = self.cfg.quant_calibrate, self.cfg.cpu
        calibrate(model, start, self, self.dataset(split), count, cpu, fit)

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
        self.hubert_digest = hubert_digest(cfg.hubert_model_path)
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

    def begin_epoch(self, epoch, model) -> None:
        """Called by fairseq's training alone: what translates stays in float32."""
        set_matmul_precision(self.cfg.matmul_precision)
        super().begin_epoch(epoch, model)

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """As fairseq's; the criterion gets the update's number, a schedule's state is logged."""
        self.begin_step(model, criterion, update_num)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def begin_step(self, model, criterion, update_num: int) -> None:
        """Put model and criterion into the state of this update."""
        model.set_num_updates(update_num)
        if hasattr(criterion, "set_num_updates"):
            criterion.set_num_updates(update_num)
        stage = getattr(model, "quantization_stage", None)
        if stage is not None:
            metrics.log_scalar("quant_mix", stage.mix, weight=0, round=3)

    def step_state(self, model, criterion) -> tuple:
        """What a step depends on besides tensors: with other values it is another computation."""
        stage = getattr(model, "quantization_stage", None)
        if stage is not None and 0 < stage.mix < 1:
            stage = ("mixed", stage.ternary)  # by how much, the layers read from a tensor
        return stage, getattr(model, "decoder_is_frozen", False), criterion.step_state

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
        """As fairseq's, after giving the optimizer the update's number."""
        inner = getattr(optimizer, "fp32_optimizer", optimizer)
        if hasattr(inner, "set_num_updates"):
            inner.set_num_updates(update_num)
        super().optimizer_step(optimizer, model, update_num)

    # Generation

    def build_generator(self, models, args, seq_gen_cls=None, *arguments, **options):
        """As fairseq's, with decoder steps as CUDA graphs on CUDA; see ``inference.generator``."""
        if seq_gen_cls is None and not getattr(args, "print_alignment", None):
            seq_gen_cls = CudaGraphGenerator
        if self.languages and not arguments:
            # A model that has hardly been trained may write one.
            options["extra_gen_cls_kwargs"] = {
                **(options.get("extra_gen_cls_kwargs") or {}),
                "symbols_to_strip_from_output": set(self.languages.values()),
            }
        return super().build_generator(models, args, seq_gen_cls, *arguments, **options)

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """As fairseq's; where a batch says with which tokens translations begin, with these."""
        starts = sample.get("start_tokens")
        if starts is None:
            return super().inference_step(generator, models, sample, prefix_tokens, constraints)
        with torch.no_grad():
            return generator.generate(
                models,
                sample,
                prefix_tokens=prefix_tokens,
                constraints=constraints,
                bos_token=starts.repeat_interleave(generator.beam_size),
            )

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

    def begin_with_tag(self, dataset, language: str | None = None) -> None:
        """Have all that ``dataset`` holds translated to one language, by default the task's.

        Raises:
            ConfigError: there are several, and it is none of them.
        """
        if self.languages:
            language = language or self.cfg.target_lang
            require_one(language, list(self.languages), "the model")
            dataset.starts = np.full(len(dataset), self.languages[language])

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None, **kwargs):
        dataset = self._dataset_for_inference(src_tokens, src_lengths, constraints)
        self.begin_with_tag(dataset)
        return dataset

    def _dataset_for_inference(self, src_tokens, src_lengths, constraints):
        if self.evaluates_text:
            return TextTranslationDataset(
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
