"""With which options a model is loaded for translation."""

import math
from dataclasses import dataclass

import torch

from cress_svcd.errors import ConfigError
from cress_svcd.translation.segmentation import Segmentation
from cress_svcd.translation.threads import require_threads

BATCH_SECONDS = 60.0


@dataclass(frozen=True)
class TranslatorOptions:
    """How to translate.

    Args:
        device: cpu, cuda, cuda:1; default: a GPU if there is one.
        beam, lenpen, max_len_b: beam size, length penalty and most tokens of a translation, as of
            fairseq-generate.
        threads: of torch, in this whole process; default: as they are.
        backend: of packed layers, see ``kernels.choose``; default: the best that there is.
        fp16: compute in half precision.
        batch_seconds: speech in a batch; 0: each segment alone.
        segmentation: how recordings are cut; None: they are not.
        decoder: static (steps captured as CUDA graphs) or eager, see
            ``inference.generator.choose_decoder``.
        no_repeat_ngram_size: no so many tokens in a row come twice in a translation; 0: they may,
            though a translation that repeats itself is decoded again without.
        word_times: find when each word of a recording is said (``Translation.words``).
        transcripts: find what was said (``Translation.transcript``) by the CTC head.
        translations: find translations; without, transcripts alone.
        target_lang: which target language, of a model of several; EVERY: chosen later, by
            ``Translator.for_language``.
    Raises:
        ConfigError: a value that nothing can be translated with.
    """

    device: str | torch.device | None = None
    beam: int = 5
    lenpen: float = 1.0
    max_len_b: int = 200
    threads: int | None = None
    backend: str | None = None
    fp16: bool = False
    batch_seconds: float = BATCH_SECONDS
    segmentation: Segmentation | None = Segmentation()
    decoder: str | None = None
    no_repeat_ngram_size: int = 0
    word_times: bool = False
    transcripts: bool = False
    translations: bool = True
    target_lang: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("beam", 1), ("max_len_b", 1), ("no_repeat_ngram_size", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name} is {value}, expected {least} or more")
        if not math.isfinite(self.lenpen):
            raise ConfigError(f"lenpen is {self.lenpen}, expected a finite number")
        if not 0 <= self.batch_seconds < math.inf:
            raise ConfigError(f"batch_seconds is {self.batch_seconds}, expected 0 or more")
        if self.threads is None:  # as an environment may have set them
            require_threads(torch.get_num_threads(), "torch's number of threads")
        else:
            require_threads(self.threads, "threads")


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; by default a GPU if there is one.

    Raises:
        ConfigError: it is not known, or not there.
    """
    there = torch.cuda.is_available()
    if name is None:
        return torch.device("cuda" if there else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {str(name)!r} is not known; expected cpu, cuda or cuda:1")
    if device.type == "cuda" and not there:
        raise ConfigError(f"device {name}: torch finds no GPU here; take cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not 0 <= (device.index or 0) < count:
        last = f" to {device.type}:{count - 1}" if count > 1 else ""
        raise ConfigError(
            f"device {name}: there is no such one; expected {device.type}, or {device.type}:0{last}"
        )
    return device
