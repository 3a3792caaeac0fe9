"""The interface of ``native/include/cress.h`` by ctypes.

Calls release Python's lock, so that threads translate at the same time.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path

from cress_runtime.errors import CressError

LIBRARY = Path(__file__).with_name("libcress.so")
MESSAGE_BYTES = 512
Samples = POINTER(c_float)


class Options(ctypes.Structure):
    """``struct cress_options``."""

    _fields_ = [
        ("beam", c_int),
        ("length_penalty", c_float),
        ("max_length", c_int),
        ("best", c_int),
        ("threads", c_int),
        ("isa", c_char_p),
        ("no_repeat", c_int),
        ("word_times", c_int),
        ("whole", c_int),
        ("max_seconds", c_double),
        ("min_seconds", c_double),
        ("pause_seconds", c_double),
        ("threshold_db", c_double),
        ("segmenter", c_char_p),
        ("language", c_char_p),
    ]


KINDS = {c_int: "a whole number", c_char_p: "a name"}
MOST = 2**31 - 1  # c_int would wrap around


def set_option(options: Options, name: str, value: object) -> None:
    """Set a field; where ctypes would take a number for an address, too, names are required.

    Raises:
        CressError: the value is of another kind.
    """
    kind = {field[0]: field[1] for field in Options._fields_}[name]
    try:
        if kind is c_char_p:
            value = value if value is None else str.encode(value)  # type: ignore[arg-type]
        elif kind is c_int and abs(value) > MOST:  # type: ignore[arg-type]
            raise TypeError
        setattr(options, name, value)
    except (TypeError, UnicodeEncodeError):
        expected = KINDS.get(kind, "a number")
        raise CressError(f"{name}: found {value!r}, expected {expected}") from None


# Name -> what it returns, and takes.
FUNCTIONS = {
    "cress_default_options": (None, POINTER(Options)),
    "cress_model_load": (c_int, c_char_p, POINTER(c_void_p), c_char_p, c_size_t),
    "cress_model_free": (None, c_void_p),
    "cress_translator_create": (
        c_int,
        c_void_p,
        POINTER(Options),
        POINTER(c_void_p),
        c_char_p,
        c_size_t,
    ),
    "cress_translator_free": (None, c_void_p),
    "cress_begin": (c_int, c_void_p, c_int),
    "cress_feed": (c_int, c_void_p, Samples, c_size_t),
    "cress_finish": (c_int, c_void_p),
    "cress_next": (c_int, c_void_p),
    "cress_segments": (c_int, c_void_p),
    "cress_span": (c_int, c_void_p, c_int, POINTER(c_int64), POINTER(c_int64)),
    "cress_cut_by_loudness": (c_int, c_void_p),
    "cress_seconds": (c_double, c_void_p),
    "cress_start": (c_double, c_void_p),
    "cress_end": (c_double, c_void_p),
    "cress_decoded_again": (c_int, c_void_p),
    "cress_word_count": (c_int, c_void_p),
    "cress_word": (c_char_p, c_void_p, c_int, POINTER(c_double), POINTER(c_double)),
    "cress_subtitles": (c_char_p, c_void_p, c_char_p),
    "cress_error": (c_char_p, c_void_p),
    "cress_count": (c_int, c_void_p),
    "cress_text": (c_char_p, c_void_p, c_int),
    "cress_score": (c_double, c_void_p, c_int),
    "cress_tokens": (POINTER(c_int32), c_void_p, c_int, POINTER(c_int)),
    "cress_token": (c_void_p, c_void_p, c_int32, POINTER(c_size_t)),
    "cress_mix": (
        c_int,
        Samples,
        c_size_t,
        c_int,
        c_int,
        POINTER(Samples),
        c_char_p,
        c_size_t,
    ),
    "cress_free_samples": (None, Samples),
}


@functools.cache
def libcress() -> ctypes.CDLL:
    """The library, loaded once.

    Raises:
        CressError: it is not there, or of another kind of machine.
    """
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise CressError(
            f"{error}; the wheel of this kind of machine has it: pip install ./native/python"
        ) from None
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
