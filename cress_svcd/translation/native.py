"""Translating by the engine in C (``native/``), without torch.

The engine comes from the wheel ``cress-runtime``.  Recordings are read here, and cut here unless
the model has learnt to; the engine translates one segment after the other.
"""

import contextlib
import copy
import functools
import itertools
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.errors import AudioError, CheckpointError, ConfigError, CressError
from cress_svcd.translation import repetition
from cress_svcd.translation.recording_translator import EVERY, RecordingTranslator
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.result import Translation, Wanted, Word
from cress_svcd.translation.segmentation import AUTO, CARRIED, Segmentation, make_segmenter
from cress_svcd.translation.segmentation.base import Segmenter
from cress_svcd.translation.segmentation.options import Span
from cress_svcd.translation.threads import require_threads

# Options of ``Translator.load`` that the engine has not, and the values that change nothing.
ONLY_OF_TORCH: dict[str, tuple[Any, ...]] = {
    "data": (None,),
    "device": (None, "cpu"),
    "backend": (None, "auto"),
    "fp16": (False,),
    "decoder": (None,),
    "transcripts": (False,),
    "translations": (True,),
}


def runtime() -> Any:
    """The module ``cress_runtime.engine``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from cress_runtime import engine
    except ImportError as error:
        raise ConfigError(
            f"engine native: {error}; install it from a checkout: pip install ./native/python"
        ) from error
    try:
        engine.libcress()
    except engine.CressError as error:
        raise ConfigError(f"engine native: {error}") from error
    return engine


@contextlib.contextmanager
def errors_as(kind: type[CressError]) -> Iterator[None]:
    """Context in which an error of the engine becomes one of ours."""
    try:
        yield
    except runtime().CressError as error:
        raise kind(f"engine native: {error}") from error


class NativeSegmenter(Segmenter):
    """The model's own, computed by the engine.

    Raises:
        ConfigError: it carries none, or an option cannot be used.
    """

    def __init__(
        self, options: Segmentation, model: Any, threads: int, language: str | None = None
    ):
        super().__init__(options)
        self.model = model
        shortest, pause = options.min_seconds, options.pause_seconds
        self.engine_options = {
            "segmenter": CARRIED,
            "threads": threads,
            "language": language,
            "max_seconds": options.max_seconds,
            "min_seconds": -1 if shortest is None else shortest,
            "pause_seconds": -1 if pause is None else pause,
        }
        with errors_as(ConfigError):
            runtime().Engine(model, self.engine_options)

    def cut(self, blocks: Iterable[np.ndarray], rate: int) -> list[Span]:
        with errors_as(AudioError):
            engine = runtime().Engine(self.model, self.engine_options)
            engine.begin(rate)
            for block in blocks:
                engine.feed(block)
            engine.finish()
            return [Span(first, count) for first, count in engine.spans()]


class NativeTranslator(RecordingTranslator):
    """A ``.cress`` file, ready to translate; made by :meth:`load`."""

    continues = False
    batched = False

    def __init__(
        self,
        model: Any,
        options: dict[str, Any],
        segmentation: Segmenter | None,
        source_language: str,
        languages: list[str],
    ):
        self.model, self.options, self.segmentation = model, options, segmentation
        self.source_language, self.languages = source_language, languages
        self.batch_seconds = 0.0
        self.decoded_again = 0

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        beam: int = 5,
        lenpen: float = 1.0,
        max_len_b: int = 200,
        threads: int | None = None,
        batch_seconds: float = 0.0,
        segmentation: Segmentation | None = Segmentation(),
        no_repeat_ngram_size: int = 0,
        word_times: bool = False,
        target_lang: str | None = None,
        **others: Any,
    ) -> "NativeTranslator":
        """Map a file of ``cress-svcd export``.

        Args:
            threads: that compute; default: as many as there are processors.
            batch_seconds: nothing; each segment is translated alone.
            others: as of :class:`TranslatorOptions`; the engine has none of them.
        Raises:
            CheckpointError: the file cannot be used.
            ConfigError: an option cannot be used, or the engine is not installed.
        """
        for name, value in others.items():
            if str(value) not in map(str, ONLY_OF_TORCH[name]):
                raise ConfigError(f"engine native: it has no {name} ({value}); take engine torch")
        engine = runtime()
        threads = processors() if threads is None else threads
        require_threads(threads, "threads")
        try:
            model = engine.Model(path)
        except engine.CressError as error:
            raise CheckpointError(f"engine native: {error}") from error
        source, languages = languages_of(path)
        if target_lang == EVERY:  # for_language says which; until then, any
            target_lang = languages[0] if len(languages) > 1 else None
        options = {
            "beam": beam,
            "length_penalty": lenpen,
            "max_length": max_len_b,
            "threads": threads,
            "no_repeat": no_repeat_ngram_size,
            "word_times": word_times,
            "language": target_lang,
            "whole": True,
            "segmenter": "energy",
        }
        with errors_as(ConfigError):
            engine.Engine(model, options)
        cuts = _segmenter(model, segmentation, threads, target_lang) if segmentation else None
        return cls(model, options, cuts, source, languages)

    def for_language(self, language: str) -> "NativeTranslator":
        if language not in self.languages:
            raise ConfigError(f"engine native: the model has not {language}, but {self.languages}")
        other = copy.copy(self)
        other.options = self.options | {"language": language if len(self.languages) > 1 else None}
        return other

    def require_speech(self) -> None:
        """All models of the engine have a speech encoder."""

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        tokens = itertools.takewhile(bool, map(self.model.token, itertools.count()))
        return {token: number for number, token in enumerate(tokens)}

    def token_number(self, token: str) -> int:
        return self._numbers[token]

    def report(self) -> str:
        return repetition.report(self.decoded_again)

    def require_text(self) -> None:
        """Raise ConfigError: the engine translates speech."""
        raise ConfigError("engine native: it translates speech only; take engine torch for text")

    def translate_segments(
        self, segments: Iterable[Segment], wanted: Wanted | None = None
    ) -> Iterator[tuple[Segment, Translation]]:
        options = self.options
        if wanted is not None:
            if wanted.labels or not wanted.translations:
                raise ConfigError("engine native: it has no transcripts; take engine torch")
            options = options | {"word_times": wanted.attention}
        engine = runtime().Engine(self.model, options)
        for segment in segments:
            if segment.prefix:
                raise ConfigError("engine native: a translation cannot be begun; take engine torch")
            with errors_as(AudioError):
                engine.begin(SAMPLE_RATE)
                engine.feed(segment.wave)
                engine.finish()
                found = next(engine.segments(), None)
            self.decoded_again += bool(found and found.decoded_again)
            yield segment, _translation(segment, found)


def _translation(segment: Segment, found: Any) -> Translation:
    if found is None:
        return Translation("", 0.0, (), segment.start, segment.end)
    words = tuple(
        Word(word.text, round(segment.start + word.start, 3), round(segment.start + word.end, 3))
        for word in found.words
    )
    return Translation(
        found.text,
        found.score,
        found.tokens,
        segment.start,
        segment.end,
        words=words,
        decoded_again=found.decoded_again,
    )


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def languages_of(path: str | os.PathLike[str]) -> tuple[str, list[str]]:
    """The language that is spoken and those of translations, of a file that the engine has read.

    ``inference.cress_file`` describes it.

    Raises:
        CheckpointError: it does not say.
    """
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
            state, plan = (json.loads(header["__metadata__"][key]) for key in ("state", "plan"))
            task = state["cfg"]["task"]
            first, last = header[f"vocabulary/{Path(task['config_yaml']).name}"]["data_offsets"]
            file.seek(8 + size + first)
            config = yaml.safe_load(file.read(last - first))
        source = task["source_lang"] or config.get("src_lang", "en")
        languages = plan.get("languages") or [task["target_lang"] or config["tgt_lang"]]
        return str(source), [str(language) for language in languages]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise CheckpointError(
            f"{path}: its languages cannot be read ({type(error).__name__}: {error}); export the "
            "model again"
        ) from error


def _segmenter(
    model: Any, how: Segmentation, threads: int, language: str | None = None
) -> Segmenter:
    """Raises ConfigError: there is none of this name, or the model carries none."""
    if how.segmenter not in (AUTO, CARRIED):
        return make_segmenter(how)
    try:
        segmenter = NativeSegmenter(how, model, threads, language)
    except ConfigError:
        return make_segmenter(how)  # takes the default, or says what is missing
    if how.segmenter == AUTO:
        segmenter.second = make_segmenter(how)
    return segmenter
