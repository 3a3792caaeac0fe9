"""Noise of any colour."""

import numpy as np


def coloured_noise(samples: int, random: np.random.Generator, steepest: float = 0.5) -> np.ndarray:
    """Noise of unit power, float32 of shape (samples,), from white to some colour.

    Args:
        steepest: its amplitude falls with the frequency to a power of 0 to this one; 0.5 is pink
            noise, 1 brown.
    """
    from scipy import fft  # here, since what translates makes no noise

    # Drawn as a spectrum, of a length that is quick to transform: others take eight times as long.
    size = fft.next_fast_len(samples, real=True)
    spectrum = random.standard_normal((size // 2 + 1, 2), np.float32).view(np.complex64)[:, 0]
    frequency = np.maximum(1, np.arange(len(spectrum), dtype=np.float32))
    spectrum *= frequency ** np.float32(-random.uniform(0, steepest))
    spectrum[0] = 0  # no offset
    noise = fft.irfft(spectrum, size)[:samples]
    return noise / np.float32(max(1e-12, float(noise.std())))
