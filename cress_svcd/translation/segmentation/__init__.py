"""Cutting recordings into the segments that are translated.

    find_segments("talk.flac", Segmentation(segmenter="silero"))

A segmenter says of each frame how probable speech is in it; ``divide.py`` makes segments of that.
To add one: a file NAME.py here with a function ``make(options, model)`` that returns a
:class:`~cress_svcd.translation.segmentation.base.Segmenter`, and a line in SEGMENTERS.
"""

import importlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from cress_svcd.data.audio import audio_info, read_blocks
from cress_svcd.errors import ConfigError
from cress_svcd.translation.segmentation.base import Segmenter
from cress_svcd.translation.segmentation.options import AUTO, Segmentation, Span

__all__ = [
    "AUTO",
    "SEGMENTERS",
    "Segmentation",
    "Segmenter",
    "Span",
    "cut",
    "find_segments",
    "make_segmenter",
]

SEGMENTERS = {
    "energy": "by loudness above the noise; any sound counts",
}
"""Name of a module here -> what it goes by."""

DEFAULT = "energy"


def make_segmenter(options: Segmentation, model: Any = None) -> Segmenter:
    """The segmenter that ``options`` name.

    Args:
        model: the translation model, whose encoder and segmenter are used by what needs them.
    Raises:
        ConfigError: there is none of this name, or it cannot work here.
    """
    name = DEFAULT if options.segmenter == AUTO else options.segmenter
    if name not in SEGMENTERS:
        raise ConfigError(
            f"segmenter {name!r} is not known; expected {', '.join((AUTO, *SEGMENTERS))}"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    segmenter: Segmenter = module.make(options, model)
    return segmenter


def find_segments(
    path: str | os.PathLike[str], how: Segmentation | Segmenter = Segmentation()
) -> list[Span]:
    """Where something is said in a file; see :func:`cut`.

    Raises:
        AudioError: the file is missing, damaged, no audio, or holds NaN.
    """
    info = audio_info(path)
    return cut(read_blocks(path), info.sample_rate, how)


def cut(
    blocks: Iterable[np.ndarray], rate: int, how: Segmentation | Segmenter = Segmentation()
) -> list[Span]:
    """Where something is said in a recording that comes in blocks.

    Args:
        blocks: float32 samples of one channel, block after block.
        rate: samples a second.
        how: options, or what was made of them with a model.
    Returns:
        see :meth:`Segmenter.cut`.
    """
    segmenter = how if isinstance(how, Segmenter) else make_segmenter(how)
    return segmenter.cut(blocks, rate)
