"""Festival: voices of several languages, each a package of the distribution.

``apt-get install festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts`` brings three
English ones; others are ``festvox-…`` as well.  Licences like BSD's.  A program; it takes about
half a second for a sentence.  Voices of HTS (``cmu_us_slt_arctic_hts``) keep their own pace.
"""

import re

import numpy as np

from cress_svcd.data.synthesis.espeak import SpeechError
from cress_svcd.data.synthesis.spoken_files import find_program, run_program, speak_to_file

WORDS_A_MINUTE = 165.0
REMEDY = (
    "'apt-get install festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts' brings it "
    "and three English voices"
)

_NO_SCRIPT = re.compile(r"[^A-Za-z0-9_]")


def version() -> str:
    found = re.search(r"([\d.]+)", run_program([find_program("festival", REMEDY), "--version"]))
    return found[1] if found else "unknown"


def voices() -> tuple[str, ...]:
    program = find_program("festival", REMEDY)
    printed = run_program([program, "--batch", "(print (voice.list))"])
    names = printed.strip().strip("()").split()
    if not names:
        raise SpeechError(f"festival has no voice here; {REMEDY}")
    return tuple(sorted(names))


def speak(text: str, voice: str, speed: float, seed: int) -> tuple[np.ndarray, int]:
    program = find_program("festival", REMEDY)
    if not any(letter.isalnum() for letter in text):
        return np.zeros(0, np.int16), 16_000
    spoken = " ".join(text.replace("’", "'").split()).replace("\\", " ").replace('"', " ")
    name = _NO_SCRIPT.sub("", voice)

    def script(path: str) -> bytes:
        lines = (
            f"(voice_{name})",
            f"(Parameter.set 'Duration_Stretch {1 / speed:.4f})",
            f'(set! utterance (utt.synth (Utterance Text "{spoken}")))',
            f'(utt.save.wave utterance "{path}" \'riff)',
        )
        return "\n".join(lines).encode("latin-1", "ignore")

    return speak_to_file(lambda path: [program, "--pipe"], script)
