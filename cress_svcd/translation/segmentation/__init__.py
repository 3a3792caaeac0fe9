"""Cutting recordings into the segments that are translated.

    find_segments("talk.flac", Segmentation(segmenter="silero"))

A segmenter says of each frame how probable speech is in it; ``divide.py`` makes segments of that.
To add one: a file NAME.py here with a function ``make(options, model)`` that returns a
:class:`~cress_svcd.translation.segmentation.base.Segmenter`, and a line in SEGMENTERS.

``--help`` imports this module, and is not to wait for numpy and libraries of sound.
"""

import importlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cress_svcd.errors import ConfigError
from cress_svcd.translation.segmentation.options import AUTO, Segmentation, Span

if TYPE_CHECKING:
    import numpy as np

    from cress_svcd.translation.segmentation.base import Segmenter

__all__ = [
    "AUTO",
    "CARRIED",
    "CHECKPOINT_KEY",
    "SEGMENTERS",
    "Segmentation",
    "Span",
    "cut",
    "cut_by_either",
    "find_segments",
    "make_segmenter",
]

logger = logging.getLogger(__name__)

SEGMENTERS = {
    "energy": "by loudness above the noise; any sound counts",
    "silero": "by a voice-activity model, which tells speech from music: pip install "
    "cress_svcd[vad]",
    "learnt": "as the corpus has its segments, by 'cress-svcd train-segmenter'",
}
"""Name of a module here -> what it goes by."""

DEFAULT, CARRIED = "energy", "learnt"
# Under this name a checkpoint carries, and a model has, what the learnt segmenter is.
CHECKPOINT_KEY = "segmenter"


def make_segmenter(options: Segmentation, model: Any = None) -> "Segmenter":
    """The segmenter that ``options`` name.

    Args:
        model: the translation model, whose encoder and segmenter are used by what needs them.
    Raises:
        ConfigError: there is none of this name, or it cannot work here.
    """
    name = options.segmenter
    if name == AUTO and getattr(model, CHECKPOINT_KEY, None) is not None:
        segmenter = _make(CARRIED, options, model)
        segmenter.second = _make(DEFAULT, options, model)
        return segmenter
    return _make(DEFAULT if name == AUTO else name, options, model)


def _make(name: str, options: Segmentation, model: Any) -> "Segmenter":
    if name not in SEGMENTERS:
        raise ConfigError(
            f"segmenter {name!r} is not known; expected {', '.join((AUTO, *SEGMENTERS))}"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    segmenter: Segmenter = module.make(options, model)
    return segmenter


def find_segments(
    path: str | os.PathLike[str], how: "Segmentation | Segmenter" = Segmentation()
) -> list[Span]:
    """Where something is said in a file; see :func:`cut`.

    Raises:
        AudioError: the file is missing, damaged, no audio, or holds NaN.
    """
    from cress_svcd.data.audio import audio_info, read_blocks

    info = audio_info(path)
    return cut_by_either(lambda: read_blocks(path), info.sample_rate, how, os.fspath(path))


def cut(
    blocks: "Iterable[np.ndarray]", rate: int, how: "Segmentation | Segmenter" = Segmentation()
) -> list[Span]:
    """Where something is said in a recording that comes in blocks.

    Args:
        blocks: float32 samples of one channel, block after block.
        rate: samples a second.
        how: options, or what was made of them with a model.
    Returns:
        see :meth:`Segmenter.cut`.
    """
    segmenter = make_segmenter(how) if isinstance(how, Segmentation) else how
    return segmenter.cut(blocks, rate)


def cut_by_either(
    blocks: "Callable[[], Iterable[np.ndarray]]",
    rate: int,
    how: "Segmentation | Segmenter",
    name: str = "the recording",
) -> list[Span]:
    """As :func:`cut`; where the segmenter hears nothing at all, its second one is asked.

    The learnt segmenter knows the voices and the rooms of its corpus alone.

    Args:
        blocks: gives the blocks from the beginning.
        name: of the recording, for messages.
    """
    segmenter = make_segmenter(how) if isinstance(how, Segmentation) else how
    spans = segmenter.cut(blocks(), rate)
    if spans or segmenter.second is None:
        return spans
    spans = segmenter.second.cut(blocks(), rate)
    if spans:
        logger.warning(
            "%s: the model's segmenter hears no speech in it; cut by its loudness instead "
            "(--segmenter learnt leaves it out)",
            name,
        )
    return spans
