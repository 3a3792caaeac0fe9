"""Translating from Python: a trained checkpoint, loaded once.

  from cress_svcd.translation.translator import Translator

  translator = Translator.load("runs/st/averaged.pt")
  print(translator.translate("talk.flac").text)

The words are those of fairseq-generate: the same task, generator and post-processing do the work.
"""

import contextlib
import copy
import ctypes
import gc
import logging
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import GenerationConfig
from fairseq.tasks import TASK_REGISTRY
from omegaconf import open_dict
from torch import Tensor

from cress_svcd import kernels
from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.config import find_data
from cress_svcd.data.dataset import (
    GPU_LENGTH_MULTIPLE,
    TextTranslationDataset,
)
from cress_svcd.data.target_languages import require_one
from cress_svcd.errors import CheckpointError, ConfigError, OutputError
from cress_svcd.inference.generator import choose_decoder
from cress_svcd.quantization.packing import use_backend
from cress_svcd.tasks.speech_and_text_translation import SpeechAndTextTranslationTask
from cress_svcd.translation import transcript
from cress_svcd.translation.native import NativeTranslator
from cress_svcd.translation.options import (
    BATCH_SECONDS,
    TranslatorOptions,
    choose_device,
)
from cress_svcd.translation.recording_translator import EVERY, RecordingTranslator
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.result import Translation, Wanted, Word
from cress_svcd.translation.search import Found, NoRepeat, Search
from cress_svcd.translation.segmentation import CHECKPOINT_KEY, Segmentation, make_segmenter
from cress_svcd.translation.waveforms import Waveforms
from cress_svcd.translation.word_times import attention_edges, words_of_tokens

logger = logging.getLogger(__name__)

TEXT_BATCH_TOKENS = 4096
# Batches that are gathered before any is translated: they are padded less if sorted by length.
BUFFERED_BATCHES = 2


def load_model(path: Path, data: Path | None) -> tuple[torch.nn.Module, Any]:
    """Model and task of a checkpoint, on the CPU, by fairseq's own way of loading.

    Raises:
        CheckpointError: missing, damaged, or of another task.
        ConfigError: the vocabulary is missing or does not fit.
    """
    state: Any = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    task_cfg: Any = (state.get("cfg") or {}).get("task") or {}
    name = task_cfg.get("_name")
    kind = TASK_REGISTRY.get(name)
    if kind is None or not issubclass(kind, SpeechAndTextTranslationTask):
        raise CheckpointError(
            f"{path}: is a checkpoint of the task {name}; expected one of "
            "speech_and_text_translation, as fairseq-train saves it"
        )
    own = state.get("vocabulary")  # of a packed model
    with contextlib.ExitStack() as stack:
        if own and not data:
            folder = write_vocabulary(own, stack)
        else:
            folder = find_data(path, task_cfg.get("data", ""), task_cfg["config_yaml"], data)
        with open_dict(task_cfg):
            task_cfg.data = str(folder)
            if own and not data:  # where its files stand next to each other
                task_cfg.config_yaml = Path(task_cfg.config_yaml).name
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    where = path if own and not data else folder
    logger.info("%s: %s, vocabulary from %s", path, state["cfg"]["model"]["_name"], where)
    model = models[0]
    model.segmenter = state.get(CHECKPOINT_KEY)
    return model, task


def write_vocabulary(files: Mapping[str, Tensor], stack: contextlib.ExitStack) -> Path:
    """Write the files that a packed model brings along (name -> bytes) to a folder that is there
    as long as ``stack``.

    Raises:
        OutputError: there is no room for them.
    """
    try:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, content in files.items():
            (folder / Path(name).name).write_bytes(content.numpy().tobytes())
    except OSError as error:
        raise OutputError(
            f"the vocabulary of a packed model cannot be written to the folder of temporary files "
            f"({error.strerror}): TMPDIR names another"
        ) from error
    return folder


def return_memory() -> None:
    """Give the memory that loading took beyond the model back to the system.

    The tensors of the file wait for the garbage collector, and what is freed for glibc to be asked.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Translator(RecordingTranslator):
    """A trained model, ready to translate; made by :meth:`load`."""

    def __init__(
        self,
        model: torch.nn.Module,
        task: SpeechAndTextTranslationTask,
        generation: GenerationConfig,
        device: torch.device,
        batch_seconds: float = BATCH_SECONDS,
        segmentation: Segmentation | None = Segmentation(),
        backend: str | None = None,
        decoder: str | None = None,
        wanted: Wanted = Wanted(),
        target_lang: str | None = None,
    ):
        """See :meth:`load`."""
        choose_decoder(device, decoder)  # a wrong name is an error here, not at the first batch
        self.target_lang = target_lang
        self.model, self.task, self.device = model, task, device
        self.source_language = str(task.cfg.source_lang)
        self.languages = list(task.languages) or [str(task.cfg.target_lang)]
        self.batch_seconds = batch_seconds
        self.segmentation = make_segmenter(segmentation, model) if segmentation else None
        model.to(device).eval()
        choose_backend(model, backend, device)
        prepare: Any = model
        prepare.prepare_for_inference_(Namespace(generation=generation))
        self.generator = task.build_generator([model], generation)
        self.generator.model.decoder = decoder
        if generation.no_repeat_ngram_size > 0:
            self.generator.repeat_ngram_blocker = NoRepeat(generation.no_repeat_ngram_size)
        self.search = Search(model, task, self.generator, device)
        self.wanted = wanted
        if wanted.labels:
            self.require_transcripts()

    @overload
    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        data: str | os.PathLike[str] | None = None,
        *values: Any,
        engine: Literal["torch"] = "torch",
        **options: Any,
    ) -> "Translator": ...

    @overload
    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        data: str | os.PathLike[str] | None = None,
        *values: Any,
        engine: Literal["native"],
        **options: Any,
    ) -> NativeTranslator: ...

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        data: str | os.PathLike[str] | None = None,
        *values: Any,
        engine: str = "torch",
        **options: Any,
    ) -> "Translator | NativeTranslator":
        """Load a checkpoint of fairseq-train or of our commands.

        Args:
            path: the checkpoint.
            data: folder with its config.yaml, dictionary and sentencepiece model; default: where it
                was trained, then the checkpoint's own folder, those above it and their folders
                ``data``, see :func:`cress_svcd.data.config.find_data`.  A packed model has its own.
            values, options: of :class:`TranslatorOptions`, in their order or by their names.
            engine: torch, or native: the engine in C, which takes a file of ``cress-svcd export``.
        Raises:
            CheckpointError, ConfigError: the checkpoint or an option cannot be used.
        """
        chosen = TranslatorOptions(*values, **options)
        if engine == "native":
            return NativeTranslator.load(path, data=data, **vars(chosen))
        if engine != "torch":
            raise ConfigError(f"engine {engine!r} is not known; expected torch or native")
        device = choose_device(chosen.device)
        kernels.choose(device, chosen.backend)  # wrong names should not wait for the model
        choose_decoder(device, chosen.decoder)
        if chosen.threads is not None:
            torch.set_num_threads(chosen.threads)
        model, task = load_model(Path(path), Path(data) if data else None)
        language = chosen.target_lang or task.cfg.target_lang
        languages = list(task.languages) or [task.cfg.target_lang]
        if chosen.translations and chosen.target_lang != EVERY:
            require_one(language, languages, str(path))
        if chosen.fp16:
            model.half()
        generation = GenerationConfig(
            beam=chosen.beam,
            lenpen=chosen.lenpen,
            max_len_b=chosen.max_len_b,
            no_repeat_ngram_size=chosen.no_repeat_ngram_size,
        )
        translator = cls(
            model,
            task,
            generation,
            device,
            chosen.batch_seconds,
            chosen.segmentation,
            chosen.backend,
            chosen.decoder,
            Wanted(chosen.translations, chosen.word_times, chosen.transcripts),
            language,
        )
        return_memory()
        return translator

    def for_language(self, language: str) -> "Translator":
        require_one(language, self.languages, "the model")
        other = copy.copy(self)
        other.target_lang = language
        return other

    @property
    def has_speech_encoder(self) -> bool:
        """Whether the model has a speech encoder; else it translates text only."""
        return getattr(self.model.encoder, "hubert", None) is not None

    def require_speech(self) -> None:
        """Raise ConfigError if the model was trained on text only."""
        if not self.has_speech_encoder:
            raise ConfigError(
                "this model was trained on text only and has no speech encoder: give it text "
                "(--text, in Python translate_text), or take a model of --st-training"
            )

    def require_text(self) -> None:
        """Raise ConfigError if the model was trained on speech only: of text it makes fluent
        nonsense."""
        cfg = self.task.cfg
        if self.has_speech_encoder and not (cfg.mt_finetune or cfg.ext_mt_training):
            raise ConfigError(
                "this model was trained on speech only, and would translate text into nonsense: "
                "give it recordings, or take a model that was trained on text too (--mt-finetune "
                "or --ext-mt-training)"
            )

    def require_transcripts(self) -> None:
        """Raise ConfigError if the model has no CTC head."""
        self.require_speech()
        if getattr(self.model.encoder, "ctc_head", None) is None:
            raise ConfigError(
                "this model has no CTC head, which transcripts come from (--transcript): take one "
                "that was trained with --ctc-head and --ctc-weight; if it is packed, pack it with "
                "--keep-ctc-head"
            )

    def token_number(self, token: str) -> int:
        return int(self.task.tgt_dict.index(token))

    def text_of(self, tokens: Sequence[str]) -> str:
        return self.search.text_of(" ".join(tokens))

    def report(self) -> str:
        return self.search.report()

    def translate_segments(
        self, segments: Iterable[Segment], wanted: Wanted | None = None
    ) -> Iterator[tuple[Segment, Translation]]:
        """Translate segments in their order, reading ahead what the batching buffer holds.

        Args:
            wanted: what to find of these; None: as the translator was loaded.
        """
        self.require_speech()
        wanted = self.wanted if wanted is None else wanted
        buffer: list[Segment] = []
        seconds = 0.0
        for segment in segments:
            buffer.append(segment)
            seconds += segment.seconds
            if seconds >= BUFFERED_BATCHES * self.batch_seconds:
                yield from self._translate_buffer(buffer, wanted)
                buffer, seconds = [], 0.0
        yield from self._translate_buffer(buffer, wanted)

    def _translate_buffer(
        self, buffer: list[Segment], wanted: Wanted
    ) -> Iterator[tuple[Segment, Translation]]:
        waves = Waveforms(
            buffer,
            self.task.tgt_dict,
            self.task.data_cfg.normalize,
            GPU_LENGTH_MULTIPLE if self.device.type == "cuda" else 1,
        )
        self.task.begin_with_tag(waves, self.target_lang)
        budget = round(self.batch_seconds * SAMPLE_RATE)
        for segment, found in zip(buffer, self.search.run(waves, budget, wanted)):
            yield segment, self._of_segment(segment, found)

    def _of_segment(self, segment: Segment, found: Found) -> Translation:
        words: tuple[Word, ...] = ()
        attended: tuple[float, ...] = ()
        if found.attention is not None and found.tokens:
            shares = (found.attention.argmax(axis=1) + 0.5) / found.attention.shape[1]
            attended = tuple((segment.start + shares * segment.seconds).tolist())
            edges = attention_edges(found.attention, segment.wave, SAMPLE_RATE)
            words = self._timed(segment, found.text, found.tokens, edges)
        heard, heard_words = None, words[:0]
        if found.labels is not None:
            tokens, edges = self._heard(found.labels)
            heard = self.search.text_of(" ".join(tokens))
            heard_words = self._timed(segment, heard, tokens, edges)
        return Translation(
            found.text,
            found.score,
            found.tokens,
            segment.start,
            segment.end,
            words=words,
            decoded_again=found.decoded_again,
            transcript=heard,
            transcript_words=heard_words,
            attended=attended,
        )

    def _heard(self, labels: np.ndarray) -> tuple[list[str], np.ndarray]:
        """The tokens in the labels of frames, and where they begin and end, as shares of all."""
        dictionary = self.task.src_dict
        silent = {dictionary.pad(), dictionary.eos(), dictionary.bos()}
        merged = transcript.merge_labels(labels, self.task.source_blank)
        heard = [token for token in merged if token.label not in silent]
        edges = transcript.token_edges(heard, len(labels)) / max(1, len(labels))
        return [dictionary[token.label] for token in heard], edges

    def _timed(
        self, segment: Segment, text: str, tokens: Sequence[str], edges: np.ndarray
    ) -> tuple[Word, ...]:
        """The words of a text with their times in the recording; see ``words_of_tokens``."""
        return words_of_tokens(
            text, tokens, self.search.text_of, edges, segment.wave, SAMPLE_RATE, segment.start
        )

    def translate_text(self, sentences: Iterable[str]) -> list[Translation]:
        """Translate sentences of the source language; an empty one stays empty.

        Raises:
            ConfigError: the model was trained on speech only.
        """
        self.require_text()
        sentences = [" ".join(sentence.split()) for sentence in sentences]
        present = [number for number, sentence in enumerate(sentences) if sentence]
        tokens = [self._encode(sentences[number]) for number in present]
        dataset = TextTranslationDataset(
            tokens,
            [len(sentence) for sentence in tokens],
            self.task.src_dict,
            tgt_dict=self.task.tgt_dict,
            left_pad_source=False,
        )
        self.task.begin_with_tag(dataset, self.target_lang)
        results = [Translation("", 0.0, ())] * len(sentences)
        for number, found in zip(present, self.search.run(dataset, TEXT_BATCH_TOKENS)):
            results[number] = Translation(
                found.text, found.score, found.tokens, decoded_again=found.decoded_again
            )
        return results

    def _encode(self, sentence: str) -> Tensor:
        """Indices of a sentence's tokens, end of sentence included."""
        if self.task.pre_tokenizer is not None:
            sentence = self.task.pre_tokenizer.encode(sentence)
        if self.task.bpe is not None:
            sentence = self.task.bpe.encode(sentence)
        return self.task.src_dict.encode_line(
            sentence, add_if_not_exist=False, append_eos=True
        ).long()

    def translate_collated(self, batch: dict[str, Any]) -> dict[int, Found]:
        """Text, score and tokens of the best hypotheses of a dataset's batch, by their ids."""
        return self.search.translate(batch)


def choose_backend(model: torch.nn.Module, name: str | None, device: torch.device) -> None:
    """Let the packed layers of a model on ``device`` compute with the back end ``name``.

    Raises:
        ConfigError: it is not known, or cannot be used here.
    """
    chosen = kernels.choose(device, name)
    layers = use_backend(model, name)
    if layers:
        logger.info("%d packed layers, back end %s", len(layers), chosen)
    elif name not in (None, "auto"):
        logger.warning("backend %s: the model has no packed layers that would use it", name)
