"""The espeak-ng speech synthesiser, called through ctypes: text in, samples and phones out.

The library and its data come from the ``espeakng_loader`` wheel; nothing is played, for the audio
is only ever handed to a callback.  Two properties of the library shape this module:

* It keeps state between utterances (position in its pitch-flutter table, noise generator, gain
  control), so the same sentence comes out with other samples, even another length, depending on
  what was spoken before.  ``Espeak`` therefore loads a fresh copy of the library and unloads it
  again: an utterance then depends on its arguments alone.  That costs 0.3 ms on top of about 3 ms
  of speaking a sentence.
* It is not thread-safe, writes to the C library's stderr and may change the locale: let it live
  in worker processes.

Declarations follow ``speak_lib.h`` and ``espeak_ng.h`` of espeak-ng 1.52.
"""

import ctypes
import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cress_svcd.errors import CressError

PAUSE = "_"

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_EVENT_LIST_TERMINATED = 0
_EVENT_PHONEME = 7
_RATE, _VOLUME, _PITCH = 1, 2, 3
_BUFFER_MS = 500

# Percent of the library's normal volume.  At 100 its loudest voices run into its own gain
# control, which distorts; the level of the finished speech is set on floats afterwards.
_HEADROOM_VOLUME = 70

# The library keeps its data path in 160 bytes and silently cuts a longer one off.
_LONGEST_DATA_PATH = 120

_STRESS_MARKS = "',%="


class SpeechError(CressError):
    """Text cannot be spoken: the synthesiser, a voice, the text or the place for the result."""


class EventId(ctypes.Union):
    """``espeak_EVENT.id``: 8 bytes, a number, a string elsewhere, or a phoneme's name."""

    _fields_ = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        # c_ubyte, for a c_char array would end at the first zero and hide a full 8-byte name.
        ("string", ctypes.c_ubyte * 8),
    ]


class Event(ctypes.Structure):
    """``espeak_EVENT``: something that happens at a sample of the speech."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", EventId),
    ]


class VoiceInfo(ctypes.Structure):
    """``espeak_VOICE``: one entry of the list of voices."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        # Not c_char_p: several zero-terminated names, each after a priority byte.
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event)
)

_PROTOTYPES = {
    "espeak_Initialize": (
        ctypes.c_int,
        [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int],
    ),
    "espeak_Terminate": (ctypes.c_int, []),
    "espeak_Info": (ctypes.c_char_p, [ctypes.POINTER(ctypes.c_char_p)]),
    "espeak_ListVoices": (
        ctypes.POINTER(ctypes.POINTER(VoiceInfo)),
        [ctypes.POINTER(VoiceInfo)],
    ),
    "espeak_SetVoiceByName": (ctypes.c_int, [ctypes.c_char_p]),
    "espeak_SetParameter": (ctypes.c_int, [ctypes.c_int, ctypes.c_int, ctypes.c_int]),
    "espeak_SetSynthCallback": (None, [_SynthCallback]),
    "espeak_Synth": (
        ctypes.c_int,
        [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.POINTER(ctypes.c_uint),
            ctypes.c_void_p,
        ],
    ),
    "espeak_ng_SetRandSeed": (ctypes.c_int, [ctypes.c_long]),
}


@dataclass(frozen=True)
class Utterance:
    """What the synthesiser made of one text.

    samples: int16, shape (n,), at ``sample_rate`` Hz.
    phones: (sample, name) in order; names are the synthesiser's own, without stress marks, and
        ``PAUSE`` for every kind of silence.
    complete: false if speaking was cut off at the longest duration allowed.
    """

    samples: np.ndarray
    sample_rate: int
    phones: tuple[tuple[int, str], ...]
    complete: bool


@dataclass(frozen=True)
class Catalogue:
    """What the installed synthesiser offers.

    voices: lower-case name, file name or language code -> the library's identifier.
    variants: names that may follow a voice after a plus sign (``f3`` in ``en-us+f3``).
    """

    version: str
    voices: dict[str, str]
    variants: tuple[str, ...]

    def resolve(self, voice: str) -> str:
        """The name by which the library knows ``voice`` (``en-us``, ``en-us+f3``, ``ro+m1``).

        The library itself takes an unknown variant for none, hence the check here.
        """
        base, plus, variant = voice.partition("+")
        identifier = self.voices.get(base.strip().lower())
        if identifier is None:
            raise SpeechError(_unknown("voice", voice, base.lower(), self.voices))
        if not plus:
            return identifier
        by_lower_case = {name.lower(): name for name in self.variants}
        name = variant if variant in self.variants else by_lower_case.get(variant.lower())
        if name is None:
            raise SpeechError(_unknown("voice variant", voice, variant, self.variants))
        return f"{identifier}+{name}"


class Espeak:
    """A fresh copy of the library, as a context manager; speak one utterance with it.

    A second utterance of the same instance depends on the first (see the module's docstring).

    data_path: the folder ``espeak-ng-data``; default: the wheel's.
    Raises SpeechError if library or data are missing, RuntimeError if something else in this
    process holds the library loaded.
    """

    def __init__(self, data_path: str | os.PathLike | None = None) -> None:
        library_path, wheel_data = _wheel_paths()
        self._data_path = Path(data_path or wheel_data)
        self._library_path = library_path
        self._data_descriptor: int | None = None
        self.sample_rate = 0

    def __enter__(self) -> "Espeak":
        self._library = _load(self._library_path)
        try:
            self.sample_rate = self._initialize()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._library.espeak_Terminate()
        self._release()

    def _initialize(self) -> int:
        sample_rate = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS,
            _BUFFER_MS,
            os.fsencode(self._reachable_data_path()),
            # Always with events, so that asking for phones cannot change the audio.
            _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT,
        )
        if sample_rate <= 0:
            raise SpeechError(
                f"{self._data_path}: espeak-ng finds no data there; reinstall it with "
                "'pip install --force-reinstall espeakng-loader'"
            )
        return sample_rate

    def _reachable_data_path(self) -> str:
        """The data path, through a file descriptor where it is too long for the library."""
        path = os.path.abspath(self._data_path)
        if len(os.fsencode(path)) <= _LONGEST_DATA_PATH or not os.path.isdir("/proc/self/fd"):
            return path
        if not os.path.isdir(path):
            return path
        self._data_descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._data_descriptor}"

    def _release(self) -> None:
        _unload(self._library)
        if self._data_descriptor is not None:
            os.close(self._data_descriptor)

    def catalogue(self) -> Catalogue:
        """The voices and variants that are installed."""
        version = self._library.espeak_Info(None).decode("utf-8", "replace").split()[0]
        variants = sorted(path.name for path in (self._data_path / "voices" / "!v").iterdir())
        return Catalogue(version, _voice_names(self._library), tuple(variants))

    def speak(
        self, text: str, voice: str, rate: int, pitch: int, seed: int, longest_seconds: float
    ) -> Utterance:
        """Speak ``text``, which must hold no control characters.

        voice: as ``Catalogue.resolve`` returns it.
        rate: words a minute, 80 to 450.
        pitch: 0 to 99, 50 is the voice's own.
        seed: of breath and friction noise, 0 to 2**31 - 1.
        longest_seconds: speaking stops there (some odd inputs make the library babble on).
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechError(f"voice {voice!r}: espeak-ng cannot load it")
        for parameter, value in ((_RATE, rate), (_VOLUME, _HEADROOM_VOLUME), (_PITCH, pitch)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(seed)
        _C_LIBRARY.srand(seed)
        return self._synthesize(text, int(longest_seconds * self.sample_rate))

    def _synthesize(self, text: str, longest: int) -> Utterance:
        blocks: list[bytes] = []
        phones: list[tuple[int, str]] = []
        spoken = 0

        def receive(wave, n_samples, events) -> int:
            nonlocal spoken
            if wave and n_samples > 0:
                blocks.append(ctypes.string_at(wave, 2 * n_samples))
                spoken += n_samples
            phones.extend(_phones(events))
            return int(spoken > longest)

        callback = _SynthCallback(receive)
        self._library.espeak_SetSynthCallback(callback)
        data = text.encode("utf-8")
        status = self._library.espeak_Synth(
            data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        # The library keeps the pointer; leave it none that dies with this call.
        self._library.espeak_SetSynthCallback(_SynthCallback())
        if status != 0:
            raise SpeechError(f"espeak-ng fails with status {status} on {text!r}")
        samples = np.frombuffer(b"".join(blocks), dtype=np.int16)
        return Utterance(samples, self.sample_rate, tuple(phones), spoken <= longest)


def read_catalogue() -> Catalogue:
    """The voices of the installed synthesiser (call it in a worker process)."""
    with Espeak() as engine:
        return engine.catalogue()


def _c_library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.dlclose.argtypes, library.dlclose.restype = [ctypes.c_void_p], ctypes.c_int
    library.srand.argtypes, library.srand.restype = [ctypes.c_uint], None
    return library


_C_LIBRARY = _c_library()


def _wheel_paths() -> tuple[str, str]:
    """Library and data of the ``espeakng_loader`` wheel."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise SpeechError(
            f"the espeak-ng synthesiser is not installed ({error}); "
            "'pip install espeakng-loader' brings it"
        ) from error
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def _load(path: str) -> ctypes.CDLL:
    """Load the library with every prototype declared, never sharing a loaded copy."""
    if _is_loaded(path):
        raise RuntimeError(f"{path} is loaded in this process already: it would not start afresh")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise SpeechError(
            f"{path}: espeak-ng cannot be loaded ({error}); "
            "reinstall it with 'pip install --force-reinstall espeakng-loader'"
        ) from error
    try:
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        _unload(library)
        raise SpeechError(
            f"{path}: too old an espeak-ng ({error}); 'pip install -U espeakng-loader' "
            "brings 1.52 or newer"
        ) from error
    return library


def _is_loaded(path: str) -> bool:
    try:
        handle = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return False
    _unload(handle)
    return True


def _unload(library: ctypes.CDLL) -> None:
    _C_LIBRARY.dlclose(library._handle)


def _phones(events) -> Iterator[tuple[int, str]]:
    """(sample, name) of the phoneme events in a list that ends with a terminating event."""
    index = 0
    while events[index].type != _EVENT_LIST_TERMINATED:
        event = events[index]
        if event.type == _EVENT_PHONEME:
            name = bytes(event.id.string).split(b"\0", 1)[0].decode("utf-8", "replace")
            yield event.sample, plain_phone(name)
        index += 1


def plain_phone(name: str) -> str:
    """A phoneme's name without stress; ``PAUSE`` for pauses and for marks that make no sound.

    Stress is a property of the syllable, and keeping it would nearly double the inventory.
    """
    plain = name.lstrip(_STRESS_MARKS)
    silent = not plain or plain.startswith((PAUSE, "("))
    return PAUSE if silent else plain


def _voice_names(library: ctypes.CDLL) -> dict[str, str]:
    """Every name for a voice -> its identifier.

    File name and identifier come before the display name, and a language code goes to the voice
    that puts it first: ``en-gb`` is the language of five voices and the file name of none.
    """
    names: dict[str, str] = {}
    languages: list[tuple[int, str, str]] = []
    entries = library.espeak_ListVoices(None)
    index = 0
    while entries[index]:
        entry = entries[index].contents
        identifier = entry.identifier.decode()
        names[identifier.lower()] = identifier
        names.setdefault(identifier.rpartition("/")[2].lower(), identifier)
        names.setdefault(entry.name.decode().strip().lower(), identifier)
        for priority, language in _languages(entry.languages):
            languages.append((priority, language.lower(), identifier))
        index += 1
    for _, language, identifier in sorted(languages):
        names.setdefault(language, identifier)
    return names


def _languages(address: int | None) -> Iterator[tuple[int, str]]:
    """(priority, language) from bytes of a priority and a zero-terminated name, up to a zero."""
    while address:
        priority = ctypes.string_at(address, 1)[0]
        if priority == 0:
            return
        name = ctypes.string_at(address + 1)
        yield priority, name.decode()
        address += len(name) + 2


def _unknown(kind: str, asked: str, name: str, known) -> str:
    near = difflib.get_close_matches(name, list(known), n=6, cutoff=0.4)
    hint = f"near names: {', '.join(near)}" if near else f"there are {len(known)} others"
    return f"unknown {kind} {name!r} in {asked!r}; {hint} (a voice is e.g. 'en-us' or 'en-us+f3')"
