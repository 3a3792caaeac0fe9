"""Whole recordings, cut into the segments that are translated."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cress_svcd.data.audio import (
    SAMPLE_RATE,
    AudioSpec,
    audio_info,
    mono_waveform,
    read_audio,
    resample,
    whole_rate,
)
from cress_svcd.translation.segmentation import Segmentation, Span, cut_by_either, find_segments
from cress_svcd.translation.segmentation.base import Segmenter

if TYPE_CHECKING:
    from torch import Tensor

Audio: TypeAlias = "str | os.PathLike[str] | np.ndarray | Tensor"
"""A file of any length, or a waveform: see :func:`cress_svcd.data.audio.mono_waveform`."""

BLOCK_SECONDS = 10


@dataclass(frozen=True)
class Segment:
    """A part of a recording: its samples at 16 kHz, and where it lies in seconds.

    prefix: tokens that its translation must begin with.
    """

    wave: np.ndarray
    start: float
    end: float
    recording: Any = None
    prefix: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.wave) / SAMPLE_RATE


def read_segments(
    audio: Audio,
    sampling_rate: int | None = None,
    segmentation: Segmentation | Segmenter | None = Segmentation(),
    recording: Any = None,
) -> Iterator[Segment]:
    """The parts of a recording in which something is said, one read after the other.

    Args:
        audio: a file of any length, or a waveform: see :func:`mono_waveform`.
        sampling_rate: of a waveform (default: 16,000); a file says its own.
        segmentation: how to cut, or what cuts; None: the recording is one segment, whatever is
            in it.
        recording: handed on in the segments.
    Raises:
        AudioError: the recording cannot be used.
    """
    if isinstance(audio, str | os.PathLike):
        if sampling_rate is not None:
            raise ValueError("a file tells its own sampling rate: give none")
        path = os.fspath(audio)
        rate = audio_info(path).sample_rate
        spans = find_segments(path, segmentation) if segmentation else [Span(0, -1)]
        waves = (read_audio(AudioSpec(path, span.offset, span.frames)) for span in spans)
    else:
        rate = SAMPLE_RATE if sampling_rate is None else whole_rate(sampling_rate)
        whole = mono_waveform(_as_array(audio), rate, rate)
        spans = [Span(0, len(whole))]
        if segmentation:
            size = max(1, round(BLOCK_SECONDS * rate))
            spans = cut_by_either(lambda: _blocks(whole, size), rate, segmentation)
        waves = (resample(whole[span.offset : span.offset + span.frames], rate) for span in spans)
    for span, wave in zip(spans, waves):
        seconds = span.frames / rate if span.frames >= 0 else len(wave) / SAMPLE_RATE
        start = span.offset / rate
        yield Segment(wave, start, start + seconds, recording)


def _as_array(waveform: "np.ndarray | Tensor") -> np.ndarray:
    if isinstance(waveform, np.ndarray):
        return waveform
    half = waveform.is_floating_point() and waveform.itemsize == 2
    # numpy has no bfloat16.
    return (waveform.float() if half else waveform).detach().cpu().numpy()


def _blocks(wave: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """A waveform as if it was read from a file: segmenters take several times a block's memory."""
    for start in range(0, len(wave), size):
        yield wave[start : start + size]
