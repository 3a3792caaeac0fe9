"""Noise of any colour."""

import numpy as np


def coloured_noise(samples: int, random: np.random.Generator, steepest: float = 0.5) -> np.ndarray:
    """Noise of unit power, float32 of shape (samples,), from white to some colour.

    Args:
        steepest: its amplitude falls with the frequency to a power of 0 to this one; 0.5 is pink
            noise, 1 brown.
    """
    spectrum = np.fft.rfft(random.standard_normal(samples))
    spectrum *= np.maximum(1, np.arange(len(spectrum))) ** (-random.uniform(0, steepest))
    noise = np.fft.irfft(spectrum, samples)
    return (noise / max(1e-12, float(noise.std()))).astype(np.float32)
