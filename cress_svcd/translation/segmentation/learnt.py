"""Hearing segments as the corpus has them, by the translation model's own speech encoder.

A small head on the encoder's features says of each frame how probable it is that the corpus has a
segment there, as SHAS does (Tsiamas et al., 2022).  ``cress-svcd train-segmenter`` trains it
(``learnt_training.py``), and the checkpoint carries it under the key SEGMENTER::

    version    1
    tensors    name -> tensor, of the head
    numbers    dim, width, threshold, pause_seconds, min_seconds, normalize (0 or 1)
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cress_svcd.data.audio import SAMPLE_RATE, is_silent, standardize
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.translation.segmentation import CHECKPOINT_KEY
from cress_svcd.translation.segmentation.base import Segmenter
from cress_svcd.translation.segmentation.divide import Frames
from cress_svcd.translation.segmentation.options import Segmentation
from cress_svcd.translation.segmentation.windows import (
    FINER,
    Counted,
    at_model_rate,
    finer,
    overlapping,
)

SEGMENTER = CHECKPOINT_KEY
VERSION = 1
NUMBERS = ("dim", "width", "threshold", "pause_seconds", "min_seconds", "normalize")
WINDOW_SECONDS, OVERLAP_SECONDS = 20, 4
DILATIONS = (1, 2, 4, 8)


def make(options: Segmentation, model: Any = None) -> Segmenter:
    state = getattr(model, SEGMENTER, None)
    if state is None:
        raise ConfigError(
            "segmenter learnt: the model carries none: 'cress-svcd train-segmenter MODEL DATA -o "
            "FILE' trains it, or take --segmenter energy"
        )
    return LearntSegmenter(options, state, model)


class Head(nn.Module):
    """Encoder's features (batch, frames, dim) -> logits (batch, frames)."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)
            for dilation in DILATIONS
        )
        self.output = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.project(self.norm(features)).transpose(1, 2)
        for convolution in self.convolutions:
            x = x + nn.functional.gelu(convolution(x))
        logits: Tensor = self.output(x.transpose(1, 2))
        return logits.squeeze(-1)


class LearntSegmenter(Segmenter):
    """The corpus's segments hold their margins already: none are added."""

    BEFORE, AFTER = 0.0, 0.0

    def __init__(self, options: Segmentation, state: dict[str, Any], model: Any):
        super().__init__(options)
        self.encoder = encoder_of(model)
        self.head, numbers = read_head(state, self.encoder.output_dim)
        self.normalize = bool(numbers["normalize"])
        self.PAUSE, self.MIN = numbers["pause_seconds"], numbers["min_seconds"]
        self.THRESHOLD = numbers["threshold"]

    def listen(self, blocks: Iterable[np.ndarray], rate: int) -> Frames:
        counted = Counted(blocks)
        stride = frame_stride(self.encoder)
        size, overlap = (
            seconds * SAMPLE_RATE // stride * stride
            for seconds in (WINDOW_SECONDS, OVERLAP_SECONDS)
        )
        found: list[np.ndarray] = []
        sound = at_model_rate(counted, rate)
        for window, before, last in overlapping(sound, size, overlap):
            probabilities = self._probabilities(window, -(-len(window) // stride))
            half = overlap // stride // 2
            first = half if before else 0
            end = len(probabilities) if last else len(probabilities) - (overlap // stride - half)
            found.append(probabilities[first:end])
        heard = np.concatenate(found) if found else np.zeros(0, np.float32)
        hop = stride * rate / SAMPLE_RATE / FINER
        return Frames(finer(heard), hop, counted.samples)

    @torch.inference_mode()
    def _probabilities(self, window: np.ndarray, count: int) -> np.ndarray:
        """Of each of ``count`` frames; the last ones may lie beyond the encoder's."""
        if is_silent(window):  # which an encoder that normalises cannot tell from anything
            return np.zeros(count, np.float32)
        wave = standardize(window) if self.normalize else window
        features = encode(self.encoder, torch.from_numpy(np.ascontiguousarray(wave))[None])
        probabilities = torch.sigmoid(self.head(features))[0].numpy()[:count]
        return np.pad(probabilities, (0, count - len(probabilities)), mode="edge")


def encoder_of(model: Any) -> Any:
    """The speech encoder of a translation model; ConfigError if there is none."""
    encoder = getattr(model.encoder, "hubert", None)
    if encoder is None:
        raise ConfigError("segmenter learnt: the model has no speech encoder")
    return encoder


def frame_stride(encoder: Any) -> int:
    """Samples from one frame of the encoder to the next."""
    return int(np.prod([stride for _, _, stride in encoder.convolutions]))


@torch.no_grad()
def encode(encoder: Any, waves: Tensor) -> Tensor:
    """Features (batch, frames, dim) of waveforms (batch, samples), float32 on the CPU."""
    device = encoder.layer_norm.weight.device
    lengths = torch.full((len(waves),), waves.size(1), device=device)
    features: Tensor = encoder(waves.to(device), lengths)[0]
    return features.float().cpu()


def read_head(state: Any, dim: int) -> tuple[Head, dict[str, float]]:
    """The head that a checkpoint carries, and its numbers.

    Raises:
        CheckpointError: it is damaged, newer, or of another encoder.
    """
    try:
        version, numbers = state["version"], {name: state["numbers"][name] for name in NUMBERS}
        if version != VERSION or numbers["dim"] != dim:
            raise CheckpointError(
                f"the segmenter in the checkpoint is of version {version} and for features of "
                f"{numbers['dim']}; expected version {VERSION} and {dim}: train it again with "
                "'cress-svcd train-segmenter'"
            )
        head = Head(int(numbers["dim"]), int(numbers["width"]))
        head.load_state_dict(state["tensors"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"the segmenter in the checkpoint cannot be read ({type(error).__name__}): train it "
            "again with 'cress-svcd train-segmenter'"
        ) from None
    return head.requires_grad_(False).eval(), numbers
