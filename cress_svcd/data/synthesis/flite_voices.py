"""Flite: five English voices, one of them of a telephone's band.

Installed by the distribution (``apt-get install flite``), voices inside; its licence and theirs are
like BSD's.  A program; it takes 20 to 50 ms for a sentence.
"""

import re

import numpy as np

from cress_svcd.data.synthesis.spoken_files import (
    ascii_text,
    find_program,
    run_program,
    speak_to_file,
)

WORDS_A_MINUTE = 160.0
REMEDY = "'apt-get install flite' brings it with its voices"

# Only tells the time.
_NO_VOICES = {"awb_time"}


def version() -> str:
    printed = run_program([find_program("flite", REMEDY), "--version"], status=1)
    found = re.search(r"flite-([\d.]+)", printed)
    return found[1] if found else "unknown"


def voices() -> tuple[str, ...]:
    printed = run_program([find_program("flite", REMEDY), "-lv"])
    names = printed.partition(":")[2].split()
    return tuple(sorted({*names} - _NO_VOICES))


def speak(text: str, voice: str, speed: float, seed: int) -> tuple[np.ndarray, int]:
    program = find_program("flite", REMEDY)
    plain = ascii_text(text)
    if not any(letter.isalnum() for letter in plain):
        return np.zeros(0, np.int16), 16_000
    return speak_to_file(
        lambda path: [
            program,
            "-voice",
            voice,
            "--setf",
            f"duration_stretch={1 / speed:.4f}",
            "-t",
            plain,
            "-o",
            path,
        ]
    )
