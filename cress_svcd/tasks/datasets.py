"""The datasets of the task: a split's manifests or binary text, for each mode of a training."""

import logging
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from fairseq.data import ConcatDataset, FairseqDataset, LanguagePairDataset
from fairseq.data.audio.multi_modality_dataset import ModalityDatasetItem
from fairseq.tasks.translation import TranslationTask, load_langpair_dataset
from sacrebleu.metrics import BLEU

from cress_svcd.data.audio_shards import is_sharded, warn_of_shards
from cress_svcd.data.augmentation.transforms import AudioTransforms
from cress_svcd.data.config import DataConfig, load_dictionary
from cress_svcd.data.corpus.binary_text import check_binary_pairs
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.cut_variation import CutVariation, with_joined
from cress_svcd.data.dataset import (
    GPU_LENGTH_MULTIPLE,
    EncodedSentences,
    OneModeBatches,
    Places,
    SpeechTranslationDataset,
    TextTranslationDataset,
    check_language,
    text_dataset,
)
from cress_svcd.data.feature_cache import FeatureCache
from cress_svcd.data.target_languages import choose_rows, repeats
from cress_svcd.errors import ConfigError
from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT
from cress_svcd.tasks.options import EXTERNAL, SPEECH, TEXT, SpeechAndTextTranslationConfig

if TYPE_CHECKING:
    import pandas  # its import takes a tenth of a second, and translating needs none of it

logger = logging.getLogger(__name__)

# What one frame of HuBERT's features sees: shorter segments are lengthened by silence.
SHORTEST_SEGMENT = 400


class DataTask(TranslationTask):
    """fairseq's task with the datasets of speech and text.

    Attributes:
        data_cfg: the configuration of the data folder.
        hubert_digest, cached_encoder, cached_layer: of the encoder whose features --feature-cache
            holds; None without it.
        languages: target language -> index of its tag, of data of several; else empty.
    """

    cfg: SpeechAndTextTranslationConfig
    data_cfg: DataConfig
    languages: dict[str, int]
    hubert_digest: str | None = None
    cached_encoder: str | None = None
    cached_layer: str | None = None

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
            if training and mode != SPEECH:
                dataset.batch_shapes = self.cfg.batch_shapes
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

    def _limits_of_shapes(self) -> tuple:
        """Samples and tokens of the longest speech that training takes."""
        # A checkpoint's options of some time ago have no max_tokens.
        return capped(self._size_limits(SPEECH, True), getattr(self.cfg, "max_tokens", None))

    def _load_mode(self, split: str, mode: str, training: bool) -> FairseqDataset:
        if mode == EXTERNAL:
            return self._load_external(split)
        return self._load_manifests(split, mode, training)

    def _read_manifests(self, split: str) -> tuple["pandas.DataFrame", list[tuple]]:
        """The segments of ``split``, and the manifests with the ids that they hold."""
        import pandas

        frames, manifests = [], []
        for name in split.split(","):
            path = self.data_cfg.root / f"{name}.tsv"
            if not path.is_file():
                found = sorted(file.stem for file in self.data_cfg.root.glob("*.tsv"))
                raise ConfigError(
                    f"{path}: no such manifest; this data folder has {', '.join(found) or 'none'}"
                )
            frame = read_manifest(path)
            check_language(frame, "src_lang", self.cfg.source_lang, str(path))
            if self.languages:
                frame = choose_rows(frame, list(self.languages), self.cfg.target_lang, path)
            else:
                check_language(frame, "tgt_lang", self.cfg.target_lang, str(path))
            frames.append(frame)
            manifests.append((path, frame["id"], frame.index))
        return pandas.concat(frames, ignore_index=True), manifests

    def _load_manifests(self, split: str, mode: str, training: bool) -> FairseqDataset:
        frame, manifests = self._read_manifests(split)
        neighbours, join_segments = True, 0.0
        if mode == SPEECH and training:
            neighbours, join_segments = self._neighbours(frame["audio"])
            given = len(frame)
            frame = with_joined(frame, join_segments, self.data_cfg.absolute_audio_root)
            if len(frame) > given:
                joined = manifests[-1][0].parent / f"{split}, joined"
                manifests.append((joined, frame["id"][given:]))
        languages = frame["tgt_lang"]
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
        if not training and self.cfg.eval_bleu and self.cfg.best_checkpoint_metric == "bleu":
            report_without_4grams(frame["tgt_text"], split)
        if mode == SPEECH:
            report_short(frame, split)
        if mode == TEXT:
            text = text_dataset(sources, targets, self.src_dict, self.tgt_dict, shuffle=training)
            self._tag(text, languages, targets.sizes, training)
            return text
        features = self._cached_features(split, frame, training, join_segments)
        cuts = self._cuts(features) if training else None
        transforms = self._transforms(features) if training else None
        shapes = self.cfg.batch_shapes if training else 0
        speech = SpeechTranslationDataset(
            frame["audio"],
            frame["n_frames"],
            targets,
            sources,
            self.tgt_dict,
            audio_root=self.data_cfg.absolute_audio_root,
            normalize=self.data_cfg.normalize,
            shuffle=training,
            features=features,
            length_multiple=self.length_multiple,
            places=Places(manifests),
            cuts=cuts,
            longest=self._longest(features) if cuts or transforms else None,
            batch_shapes=shapes,
            neighbours=neighbours,
            transforms=transforms,
            limits=self._limits_of_shapes() if shapes else (None, None),
        )
        self._tag(speech, languages, frame["n_frames"], training)
        return speech

    def _tag(self, dataset, languages, sizes, training: bool) -> None:
        """Let the translations of ``dataset`` begin with the tags of their languages, and training
        see the languages in the shares that --sampling-alpha asks for."""
        if not self.languages:
            return
        dataset.starts = np.array([self.languages[name] for name in languages], dtype=np.int64)
        if training:
            alpha = getattr(self.cfg, "sampling_alpha", None)  # not in older checkpoints
            if alpha is None:
                alpha = float(self.data_cfg.sampling_alpha)
            dataset.counts = repeats(languages, sizes, alpha, self.cfg.seed)

    def _transforms(self, features: FeatureCache | None) -> AudioTransforms | None:
        """How training's speech is made to sound otherwise.

        Raises:
            ConfigError: there is no speech to be changed, but its features.
        """
        transforms = AudioTransforms.parse(self.cfg.audio_transforms or "", self.cfg.seed)
        if transforms and features is not None:
            raise ConfigError(
                f"--audio-transforms {self.cfg.audio_transforms} changes audio in every epoch, and "
                f"{self.cfg.feature_cache} holds features of the audio as it is: leave out one of "
                "the two"
            )
        return transforms

    def _neighbours(self, audio: "pandas.Series") -> tuple[bool, float]:
        """Whether varied cuts let in neighbouring speech, and the share of joined segments."""
        cfg = self.cfg
        wanted = cfg.vary_cuts or cfg.join_segments
        if not (wanted and is_sharded(self.data_cfg.config, audio)):
            return True, cfg.join_segments
        warn_of_shards(self.data_cfg.root)
        return False, 0.0

    def _longest(self, features: FeatureCache | None) -> int:
        """Samples that no segment exceeds by what its varied cut adds: more would be left out."""
        if features is not None:
            return features.longest
        # A checkpoint's options of some time ago have no max_tokens.
        limits = self.cfg.max_audio_positions, getattr(self.cfg, "max_tokens", None)
        return min(filter(None, limits))

    def _cuts(self, features: FeatureCache | None) -> CutVariation | None:
        """How training's cuts are varied; cached features say how theirs were."""
        if features is not None:
            return features.cuts
        share = self.cfg.vary_cuts
        return CutVariation(share, self.cfg.seed) if share else None

    @property
    def length_multiple(self) -> int:
        """Of the samples of a batch."""
        if self.cfg.audio_length_multiple is not None:
            return max(1, self.cfg.audio_length_multiple)
        return GPU_LENGTH_MULTIPLE if torch.cuda.is_available() and not self.cfg.cpu else 1

    def _cached_features(
        self, split: str, frame: "pandas.DataFrame", training: bool, join_segments: float
    ) -> FeatureCache | None:
        folder = self.cfg.feature_cache
        if not folder:
            return None
        if not FeatureCache.exists(folder, split):
            logger.warning("%s: no features of %s, audio is read", folder, split)
            return None
        cache = FeatureCache(folder, split, frame, join_segments)
        if cache.about.get("hubert") != self.hubert_digest:
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
        self._check_cuts(cache, split, frame, training)
        return cache

    def _check_cuts(
        self, cache: FeatureCache, split: str, frame: "pandas.DataFrame", training: bool
    ) -> None:
        """Raise ConfigError for features of other cuts than those that audio would be read with."""
        folder, cuts = self.cfg.feature_cache, cache.cuts
        varied, wanted = cuts.share if cuts else 0.0, self.cfg.vary_cuts if training else 0.0
        if varied != wanted:
            reader = "this training" if training else "validation"
            raise ConfigError(
                f"{folder}: the features of {split} were made with --vary-cuts {varied:g}, and "
                f"{reader} wants {wanted:g}; give it the same, or make them again with 'cress-svcd "
                "extract-features' and training's --vary-cuts and --join-segments"
            )
        if cuts is None:
            return
        lengths, longest = frame["n_frames"].to_numpy(), self._longest(None)
        kept = lengths <= longest  # longer ones are left out
        for variant in range(cache.variants):
            made, now = (cuts.plan(variant, lengths, most) for most in (cache.longest, longest))
            if ((made.before != now.before) | (made.after != now.after))[kept].any():
                raise ConfigError(
                    f"{folder}: the cuts of {split} were varied up to {cache.longest} samples, and "
                    f"this training takes segments up to {longest}: make the features again with "
                    f"'cress-svcd extract-features --max-audio-positions {longest}', or change "
                    "--max-audio-positions and --max-tokens of this training"
                )

    def _encode(self, sentences, what: str) -> EncodedSentences:
        return EncodedSentences(sentences, self._tokenize, self.tgt_dict, what)

    def _tokenize(self, sentence: str) -> str:
        if self.pre_tokenizer is not None:
            sentence = self.pre_tokenizer.encode(sentence)
        return self.bpe.encode(sentence) if self.bpe is not None else sentence

    def _binary_prefix(self, split: str, target: str) -> Path:
        pair = f"{self.cfg.source_lang}-{target}"
        return Path(self.cfg.text_data) / f"{split}.{pair}.{self.cfg.source_lang}"

    def _has_binary(self, split: str) -> bool:
        return bool(self.cfg.text_data) and all(
            Path(f"{self._binary_prefix(split, target)}.idx").is_file() for target in self._targets
        )

    @property
    def _targets(self) -> list[str]:
        """The target languages that are read."""
        return [self.cfg.target_lang] if self.cfg.target_lang else list(self.languages)

    def _load_external(self, split: str) -> TextTranslationDataset:
        training = split == self.cfg.train_subset
        pairs = [self._load_pair(split, target, training) for target in self._targets]
        # One after the other; each sentence's language says how its translation begins.
        text = TextTranslationDataset(
            ConcatDataset([pair.src for pair in pairs]),
            np.concatenate([pair.src_sizes for pair in pairs]),
            self.src_dict,
            ConcatDataset([pair.tgt for pair in pairs]),
            np.concatenate([pair.tgt_sizes for pair in pairs]),
            self.tgt_dict,
            left_pad_source=False,
            left_pad_target=False,
            shuffle=training,
        )
        languages = np.repeat(self._targets, [len(pair) for pair in pairs])
        self._tag(text, languages, text.tgt_sizes, training)
        return text

    def _load_pair(self, split: str, target: str, training: bool) -> LanguagePairDataset:
        folder = Path(self.cfg.text_data)
        if not Path(f"{self._binary_prefix(split, target)}.idx").is_file():
            raise ConfigError(
                f"{self._binary_prefix(split, target)}.idx: no such file; --text-data expects "
                "fairseq's binary sentence pairs there (prepare-mustc --text-data, or "
                "fairseq-preprocess with this dictionary)"
            )
        for language in (self.cfg.source_lang, target):
            path = folder / f"dict.{language}.txt"
            if path.is_file() and load_dictionary(path) != self.tgt_dict:
                raise ConfigError(
                    f"{path}: another dictionary than {self.data_cfg.dictionary_path}; binarise "
                    "the text with the vocabulary of the speech data"
                )
        check_binary_pairs(folder, split, (self.cfg.source_lang, target))
        try:
            return load_langpair_dataset(
                str(folder),
                split,
                self.cfg.source_lang,
                self.src_dict,
                target,
                self.tgt_dict,
                combine=False,
                dataset_impl=self.cfg.dataset_impl,
                upsample_primary=1,
                left_pad_source=False,
                left_pad_target=False,
                max_source_positions=self.cfg.max_source_positions,
                max_target_positions=self.cfg.max_target_positions,
                shuffle=training,
            )
        except (AssertionError, ValueError, LookupError, EOFError, struct.error) as error:
            raise ConfigError(
                f"{self._binary_prefix(split, target)}.idx: cannot be read "
                f"({type(error).__name__}): make the text again (prepare-mustc --text-data, or "
                "fairseq-preprocess)"
            ) from error


def report_without_4grams(texts: "pandas.Series", split: str) -> None:
    """Log if checkpoints cannot be compared by BLEU, as none of the references has four tokens."""
    if not BLEU().corpus_score(list(texts), [list(texts)]).totals[3]:
        logger.warning(
            "%s: no reference has four tokens: BLEU is 0 for a perfect translation, too, and above "
            "it for some that are too long; compare checkpoints by st_nll_loss "
            "(--best-checkpoint-metric)",
            split,
        )


def capped(limits: tuple, max_tokens: int | None) -> tuple:
    """Limits of the sizes of examples, which also have to fit a batch of ``max_tokens``."""
    if not max_tokens:
        return limits
    return tuple(max_tokens if limit is None else min(limit, max_tokens) for limit in limits)


def report_short(frame: "pandas.DataFrame", split: str) -> None:
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
