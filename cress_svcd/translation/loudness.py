"""Speech that is far too quiet or too loud, brought to where corpora have it.

HuBERT's convolutions are normalised over an utterance, but for a small constant that keeps silence
silent: speech 30 dB below a corpus's drowns in it.  Speech within the range of corpora stays as it
is, so that a corpus's own segments are translated as ``fairseq-generate`` translates them.
"""

import numpy as np

from cress_svcd.data.audio import is_silent

USUAL_DB = -26.0  # full scale is 0; MuST-C's talks and what is read aloud lie some dB around it
LOWEST_DB, HIGHEST_DB = -40.0, -12.0


def at_usual_loudness(wave: np.ndarray) -> np.ndarray:
    """A waveform (samples,) scaled to USUAL_DB where it lies beyond the range of corpora."""
    level = 20 * np.log10(max(1e-12, float(np.sqrt(np.mean(np.square(wave))))))
    if LOWEST_DB <= level <= HIGHEST_DB or is_silent(wave):
        return wave
    return wave * np.float32(10 ** ((USUAL_DB - level) / 20))
