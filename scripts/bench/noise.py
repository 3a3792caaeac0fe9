"""A recording for benchmarks; it imports no torch."""

import numpy as np


def noise(seed: int, seconds: float) -> np.ndarray:
    """A recording, float32."""
    samples = round(seconds * 16_000)
    return np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)
