"""What is to be spoken, and how; ``--help`` needs it without what speaks."""

import re
from dataclasses import dataclass

from cress_svcd.errors import ConfigError

ENCODINGS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS")}

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z0-9]+)*")


@dataclass(frozen=True)
class SpeechOptions:
    """What is to be spoken, and how; every field influences the release.

    voices, test_voices: as ``synthesisers.resolve`` returns them; the second for all splits but
        ``train``.
    rate: words a minute; pitch: 0 to 99, 50 is the voice's own; gain_db: level of a speaker.
        Each a (least, greatest) pair that speakers are drawn from.
    noise_snr_db: white noise that many decibels below the speech; None for no noise.
    speaker_per: ``talk`` (one speaker a file) or ``segment``.
    phones: also write the synthesiser's phones.
    """

    source_lang: str
    target_lang: str
    voices: tuple[str, ...]
    test_voices: tuple[str, ...]
    rate: tuple[int, int] = (140, 190)
    pitch: tuple[int, int] = (35, 65)
    gain_db: tuple[float, float] = (-9.0, 0.0)
    noise_snr_db: float | None = None
    speaker_per: str = "talk"
    segments_per_file: int = 20
    audio_format: str = "wav"
    seed: int = 1
    phones: bool = False

    def check(self) -> None:
        """Raise ConfigError for a value that makes no sense, naming the option."""
        for option, language in (
            ("--source-lang", self.source_lang),
            ("--tgt-lang", self.target_lang),
        ):
            if not _LANGUAGE.fullmatch(language):
                raise ConfigError(f"{option} {language!r}: expected a language code such as 'de'")
        if self.source_lang == self.target_lang:
            raise ConfigError(
                f"--tgt-lang {self.target_lang!r} is the source language too; the two text files "
                "of a split would have the same name"
            )
        _check_range("--rate", self.rate, 80, 450)
        _check_range("--pitch", self.pitch, 0, 99)
        _check_range("--gain", self.gain_db, -40, 0)
        if self.noise_snr_db is not None:
            _check_range("--noise", (self.noise_snr_db, self.noise_snr_db), -10, 100)
        if self.segments_per_file < 1:
            raise ConfigError(f"--segments-per-file {self.segments_per_file}: expected at least 1")
        if self.audio_format not in ENCODINGS:
            raise ConfigError(f"--format {self.audio_format!r}: expected one of {list(ENCODINGS)}")
        others = [voice for voice in (*self.voices, *self.test_voices) if ":" in voice]
        if self.phones and others:
            raise ConfigError(
                f"--phones: expected voices of espeak-ng alone, which tells its phones; "
                f"{others[0]} does not"
            )
        if self.speaker_per not in ("talk", "segment"):
            raise ConfigError(f"--speaker-per {self.speaker_per!r}: expected 'talk' or 'segment'")


def _check_range(option: str, pair: tuple[float, float], least: float, greatest: float) -> None:
    if not least <= pair[0] <= pair[1] <= greatest:
        raise ConfigError(
            f"{option} {pair[0]} {pair[1]}: expected values from {least} to {greatest}, "
            "the lesser first"
        )
