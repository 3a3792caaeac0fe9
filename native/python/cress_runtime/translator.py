"""Translating recordings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from cress_runtime.audio import Audio, read
from cress_runtime.engine import Engine, Model
from cress_runtime.errors import CressError
from cress_runtime.result import Segment, Translation

# Fields of cress.h that have another name here, fairseq's.
NAMES = {
    "length_penalty": "lenpen",
    "max_length": "max_len_b",
    "best": "nbest",
    "no_repeat": "no_repeat_ngram_size",
    "language": "target_lang",
}


class Translator:
    """A model, ready to translate.  Threads may use it at the same time: each call has a state of
    its own.

    Args:
        path: a file of ``cress-svcd export``.
        beam: hypotheses in the search.
        lenpen: length penalty.
        max_len_b: most tokens of a segment's translation.
        nbest: hypotheses to keep.
        threads: that compute for a call, with the one that calls.
        no_repeat_ngram_size: let no so many tokens in a row come twice; 0: they may, though a
            translation that repeats itself is decoded again without.
        word_times: find when each word is said; subtitles need it.
        segmentation: whether recordings are cut; else each is one segment.
        segmenter: "energy" by loudness, "learnt" the model's, "auto" the model's if it has one.
        max_seconds: longest segment.
        min_seconds: shorter speech joins its neighbour; None: the segmenter's own.
        pause_seconds: silence that separates segments; None: the segmenter's own.
        threshold_db: for energy: speech begins at most so far above the noise.
        target_lang: language to translate to, of a model of several.
        isa: instructions, such as "avx2" or "portable"; None: the fastest here.
    Raises:
        CressError: the model or an option cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        beam: int = 5,
        lenpen: float = 1.0,
        max_len_b: int = 200,
        nbest: int = 1,
        threads: int = 1,
        no_repeat_ngram_size: int = 0,
        word_times: bool = False,
        segmentation: bool = True,
        segmenter: str = "auto",
        max_seconds: float = 20.0,
        min_seconds: float | None = None,
        pause_seconds: float | None = None,
        threshold_db: float = 10.0,
        target_lang: str | None = None,
        isa: str | None = None,
    ):
        self._model = Model(path)
        self._options = {
            "beam": beam,
            "length_penalty": lenpen,
            "max_length": max_len_b,
            "best": nbest,
            "threads": threads,
            "no_repeat": no_repeat_ngram_size,
            "word_times": word_times,
            "whole": not segmentation,
            "segmenter": segmenter,
            "max_seconds": max_seconds,
            "min_seconds": -1 if min_seconds is None else min_seconds,
            "pause_seconds": -1 if pause_seconds is None else pause_seconds,
            "threshold_db": threshold_db,
            "language": target_lang,
            "isa": isa,
        }
        self._word_times = word_times
        try:
            Engine(self._model, self._options)  # a wrong option is an error here
        except CressError as error:
            field = re.match("[a-z_]*", str(error))[0]  # type: ignore[index]
            raise CressError(NAMES.get(field, field) + str(error)[len(field) :]) from None

    def translate(self, audio: Audio, sampling_rate: int | None = None) -> Translation:
        """Translate a recording.

        Args:
            audio: a file that libsndfile reads (wav, flac, ogg, mp3, ...), by its path or open, or
                samples (frames,) or (frames, channels).
            sampling_rate: of samples; default: 16,000.
        Raises:
            AudioError: the recording cannot be used.
        """
        engine = self._begin(audio, sampling_rate)
        segments = tuple(engine.segments())
        seconds, by_loudness = engine.seconds, engine.cut_by_loudness
        forms = [engine.subtitles(form) for form in ("srt", "vtt") if self._word_times]
        return Translation(segments, seconds, by_loudness, *forms)

    def segments(self, audio: Audio, sampling_rate: int | None = None) -> Iterator[Segment]:
        """As :meth:`translate`, each segment as soon as it is translated."""
        yield from self._begin(audio, sampling_rate).segments()

    def _begin(self, audio: Audio, sampling_rate: int | None) -> Engine:
        engine = Engine(self._model, self._options)
        rate, blocks = read(audio, sampling_rate)
        engine.begin(rate)
        for block in blocks:
            engine.feed(block)
        engine.finish()
        return engine
