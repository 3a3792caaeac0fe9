"""Hearing segments as the corpus has them, by the translation model's own speech encoder.

A small head on the encoder's features says of each frame how probable it is that the corpus has a
segment there, as SHAS does (Tsiamas et al., 2022).  ``cress-svcd train-segmenter`` trains it
(``learnt_training.py``), and the checkpoint carries it under the key SEGMENTER::

    version    1
    tensors    name -> tensor, of the head
    numbers    dim, width, threshold, pause_seconds, min_seconds, normalize (0 or 1)
"""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cress_svcd.data.audio import SAMPLE_RATE, is_silent, standardize
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.hubert_checkpoint import frame_stride
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
TOGETHER = 8  # windows that a GPU encodes at once
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
        stride = frame_stride(self.encoder.convolutions)
        size, overlap = (
            seconds * SAMPLE_RATE // stride * stride
            for seconds in (WINDOW_SECONDS, OVERLAP_SECONDS)
        )
        shared = overlap // stride
        found: list[np.ndarray] = []
        windows = overlapping(at_model_rate(counted, rate), size, overlap)
        together = TOGETHER if device_of(self.encoder).type == "cuda" else 1
        while group := list(itertools.islice(windows, together)):
            heard = self._probabilities([window for window, _, _ in group], stride)
            for probabilities, (_, before, last) in zip(heard, group):
                first = shared // 2 if before else 0
                end = len(probabilities) - (0 if last else shared - shared // 2)
                found.append(probabilities[first:end])
        joined = np.concatenate(found) if found else np.zeros(0, np.float32)
        hop = stride * rate / SAMPLE_RATE / FINER
        return Frames(finer(joined), hop, counted.samples)

    @torch.inference_mode()
    def _probabilities(self, windows: list[np.ndarray], stride: int) -> list[np.ndarray]:
        """Of each frame of each window; the last ones may lie beyond the encoder's."""
        found = [np.zeros(-(-len(window) // stride), np.float32) for window in windows]
        # In digital silence an encoder that normalises hears anything.
        heard = [place for place, window in enumerate(windows) if not is_silent(window)]
        for _, places in itertools.groupby(heard, lambda place: len(windows[place])):
            alike = list(places)
            waves = np.stack(
                [standardize(windows[i]) if self.normalize else windows[i] for i in alike]
            )
            features = encode(self.encoder, torch.from_numpy(waves))
            probabilities = torch.sigmoid(self.head.to(features.device)(features)).cpu().numpy()
            for place, one in zip(alike, probabilities):
                count = len(found[place])
                found[place] = np.pad(one[:count], (0, max(0, count - len(one))), mode="edge")
        return found


def encoder_of(model: Any) -> Any:
    """The speech encoder of a translation model; ConfigError if there is none."""
    encoder = getattr(model.encoder, "hubert", None)
    if encoder is None:
        raise ConfigError("segmenter learnt: the model has no speech encoder")
    return encoder


def device_of(encoder: Any) -> torch.device:
    device: torch.device = encoder.layer_norm.weight.device
    return device


@torch.no_grad()
def encode(encoder: Any, waves: Tensor) -> Tensor:
    """Features (batch, frames, dim) of waveforms (batch, samples), float32, where the encoder
    is."""
    device = device_of(encoder)
    lengths = torch.full((len(waves),), waves.size(1), device=device)
    features: Tensor = encoder(waves.to(device), lengths)[0]
    return features.float()


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
