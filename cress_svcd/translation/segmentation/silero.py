"""Hearing speech by Silero's voice-activity model: the package ``silero-vad``, extra ``vad``.

It tells speech from music and noise.  Its weights are in the package; they are loaded from there
without importing it, which would ask for torchaudio and set torch's threads.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.errors import ConfigError
from cress_svcd.translation.segmentation.base import Segmenter
from cress_svcd.translation.segmentation.divide import Frames
from cress_svcd.translation.segmentation.options import Segmentation
from cress_svcd.translation.segmentation.windows import FINER, Counted, at_model_rate, finer

PACKAGE, WEIGHTS = "silero_vad", "data/silero_vad.jit"
FRAME = 512  # samples of a frame: 32 ms


def make(options: Segmentation, model: Any = None) -> Segmenter:
    return SileroSegmenter(options)


class SileroSegmenter(Segmenter):
    def __init__(self, options: Segmentation):
        super().__init__(options)
        path = find_weights()
        try:
            self.model = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise ConfigError(
                f"{path}: cannot be loaded ({str(error).splitlines()[0]}); install it again: pip "
                "install --force-reinstall silero-vad"
            ) from None

    @torch.inference_mode()
    def listen(self, blocks: Iterable[np.ndarray], rate: int) -> Frames:
        counted = Counted(blocks)
        self.model.reset_states()
        found = [
            self.model(torch.from_numpy(frame), SAMPLE_RATE).item()
            for frame in in_frames(at_model_rate(counted, rate))
        ]
        probabilities = finer(np.array(found, np.float32))
        return Frames(probabilities, FRAME * rate / SAMPLE_RATE / FINER, counted.samples)


def find_weights() -> Path:
    """The file of the model in the installed package.

    Raises:
        ConfigError: it is not there.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / WEIGHTS
        if path.is_file():
            return path
    raise ConfigError(
        "segmenter silero: the package silero-vad is not installed: pip install cress_svcd[vad], "
        "or take --segmenter energy"
    )


def in_frames(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """FRAME samples at a time, zeros after the last ones."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // FRAME * FRAME
        yield from rest[:whole].reshape(-1, FRAME)
        rest = rest[whole:]
    if len(rest):
        yield np.pad(rest, (0, FRAME - len(rest)))
