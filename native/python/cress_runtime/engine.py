"""Models and translators of the engine, freed when nobody holds them."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from cress_runtime.errors import AudioError, CressError
from cress_runtime.library import MESSAGE_BYTES, Options, Samples, libcress, set_option
from cress_runtime.result import Hypothesis, Segment, Word

__all__ = ["AudioError", "CressError", "Engine", "Model", "libcress", "mix"]


def text_of(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _free_with(owner: object, free: Any, handle: ctypes.c_void_p) -> None:
    """Free what ``owner`` holds when it goes; not at the program's end, when threads may use it."""
    weakref.finalize(owner, free, handle).atexit = False


class Model:
    """A ``.cress`` file, mapped into memory; any number of threads may use it.

    Raises:
        CressError: it is missing, damaged or of another version.
    """

    def __init__(self, path: str | os.PathLike[str]):
        library, handle = libcress(), ctypes.c_void_p()
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        try:
            name = os.fsencode(path)
        except (TypeError, ValueError) as error:
            raise CressError(f"a model is named by its path, not by {path!r}: {error}") from None
        if b"\0" in name:
            raise CressError(f"{path!r}: a path holds no zero")
        if library.cress_model_load(name, ctypes.byref(handle), message, MESSAGE_BYTES):
            raise CressError(text_of(message.value))
        self.handle = handle
        _free_with(self, library.cress_model_free, handle)

    def token(self, number: int) -> str:
        """An entry of the vocabulary."""
        length = ctypes.c_size_t()
        at = libcress().cress_token(self.handle, number, ctypes.byref(length))
        return text_of(ctypes.string_at(at, length.value)) if at else ""


class Engine:
    """A translator of one recording after the other, in one thread at a time.

    Args:
        options: fields of ``struct cress_options``; the others have their defaults.
    Raises:
        CressError: an option cannot be used.
    """

    def __init__(self, model: Model, options: dict[str, Any]):
        library, handle, values = libcress(), ctypes.c_void_p(), Options()
        library.cress_default_options(ctypes.byref(values))
        for name, value in options.items():
            set_option(values, name, value)
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        if library.cress_translator_create(
            model.handle, ctypes.byref(values), ctypes.byref(handle), message, MESSAGE_BYTES
        ):
            raise CressError(text_of(message.value))
        self.model, self.handle = model, handle  # which its translator points to
        _free_with(self, library.cress_translator_free, handle)

    def _check(self, status: int, kind: type[CressError] = CressError) -> int:
        if status < 0:
            raise kind(text_of(libcress().cress_error(self.handle)))
        return status

    def begin(self, rate: int) -> None:
        """Begin a recording of so many samples a second."""
        self._check(libcress().cress_begin(self.handle, rate), AudioError)

    def feed(self, samples: np.ndarray) -> None:
        """Samples of one channel (count,), full scale 1."""
        block = np.ascontiguousarray(samples, np.float32)
        pointer = block.ctypes.data_as(Samples)
        self._check(libcress().cress_feed(self.handle, pointer, block.size), AudioError)

    def finish(self) -> None:
        """Cut the recording."""
        self._check(libcress().cress_finish(self.handle))

    def spans(self) -> list[tuple[int, int]]:
        """First sample and number of samples of each segment of a finished recording."""
        first, count, found = ctypes.c_int64(), ctypes.c_int64(), []
        for number in range(libcress().cress_segments(self.handle)):
            places = ctypes.byref(first), ctypes.byref(count)
            self._check(libcress().cress_span(self.handle, number, *places))
            found.append((first.value, count.value))
        return found

    def segments(self) -> Iterator[Segment]:
        """Translate one segment of the recording after the other."""
        while self._check(libcress().cress_next(self.handle)):
            yield self._segment()

    def _segment(self) -> Segment:
        library = libcress()
        count = library.cress_count(self.handle)
        return Segment(
            round(library.cress_start(self.handle), 6),
            round(library.cress_end(self.handle), 6),
            tuple(self._hypothesis(number) for number in range(count)),
            tuple(self._words()),
            bool(library.cress_decoded_again(self.handle)),
        )

    def _hypothesis(self, number: int) -> Hypothesis:
        library, count = libcress(), ctypes.c_int()
        tokens = library.cress_tokens(self.handle, number, ctypes.byref(count))
        return Hypothesis(
            text_of(library.cress_text(self.handle, number)),
            library.cress_score(self.handle, number),
            tuple(self.model.token(tokens[place]) for place in range(count.value)),
        )

    def _words(self) -> Iterator[Word]:
        start, end = ctypes.c_double(), ctypes.c_double()
        for number in range(libcress().cress_word_count(self.handle)):
            places = ctypes.byref(start), ctypes.byref(end)
            text = text_of(libcress().cress_word(self.handle, number, *places))
            yield Word(text, round(start.value, 6), round(end.value, 6))

    @property
    def seconds(self) -> float:
        """Of the recording so far."""
        return float(libcress().cress_seconds(self.handle))

    @property
    def cut_by_loudness(self) -> bool:
        """Whether the model's segmenter heard nothing in the recording."""
        return bool(libcress().cress_cut_by_loudness(self.handle))

    def subtitles(self, form: str) -> str:
        """Of the segments so far, as "srt" or "vtt"; needs ``word_times``."""
        found = libcress().cress_subtitles(self.handle, form.encode())
        if found is None:
            self._check(-1)
        return text_of(found)


def mix(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples (frames, channels) as one channel, without those of loud noise.

    Raises:
        AudioError: most of them are NaN or infinite, or there are none.
    """
    block = np.ascontiguousarray(samples, np.float32)
    frames, channels = block.shape
    library, mono = libcress(), Samples()
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    pointer = block.ctypes.data_as(Samples)
    place = ctypes.byref(mono)
    if library.cress_mix(pointer, frames, channels, rate, place, message, MESSAGE_BYTES):
        raise AudioError(text_of(message.value))
    try:
        return np.ctypeslib.as_array(mono, (frames,)).copy()
    finally:
        library.cress_free_samples(mono)
