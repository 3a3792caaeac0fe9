"""Programs that speak a text into a WAV file."""

import shutil
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from cress_svcd.data.synthesis.espeak import SpeechError

# No program takes a tenth of that for a sentence.
_SECONDS = 120


def find_program(name: str, remedy: str) -> str:
    """Path of a program. Raises SpeechError with ``remedy`` if it is not there."""
    path = shutil.which(name)
    if path is None:
        raise SpeechError(f"the synthesiser {name} is not installed; {remedy}")
    return path


def run_program(command: list[str], stdin: bytes = b"", status: int = 0) -> str:
    """What a program prints. Raises SpeechError if it ends with another status, or never."""
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SpeechError(f"{command[0]}: cannot be run ({error!s:.200})") from None
    if done.returncode != status:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no details"]
        raise SpeechError(f"{command[0]}: fails with status {done.returncode}: {reason[-1]:.200}")
    return done.stdout.decode("utf-8", "replace")


def speak_to_file(
    command: Callable[[str], list[str]], script: Callable[[str], bytes] = lambda path: b""
) -> tuple[np.ndarray, int]:
    """int16 samples (n,) and their rate, of a file that a program writes; empty if it writes none.

    Args:
        command: path of the file → program and arguments.
        script: path of the file → what the program reads.
    """
    with tempfile.TemporaryDirectory(prefix="speak-") as folder:
        path = Path(folder) / "speech.wav"
        run_program(command(str(path)), script(str(path)))
        if not path.exists():
            return np.zeros(0, np.int16), 16_000
        try:
            samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        except soundfile.LibsndfileError:  # a header alone, where there is nothing to say
            return np.zeros(0, np.int16), 16_000
    return samples[:, 0], rate


def ascii_text(text: str) -> str:
    """A text with accents taken off, for programs that know no others letters."""
    plain = unicodedata.normalize("NFKD", text.replace("’", "'").replace("‘", "'"))
    return " ".join(plain.encode("ascii", "ignore").decode().split())
