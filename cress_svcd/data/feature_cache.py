"""Features of a speech encoder, or of its convolutions, on disk; read in place of audio.

A folder holds for each split ``SPLIT.npy`` (all frames one after the other, (frames, dimension),
float16), ``SPLIT.ends.npy`` (where each segment's frames end) and ``SPLIT.json`` (what they were
made from); and ``SPLIT-variant1.*``, … where the cuts were varied.  They are
mapped into memory, not loaded: workers share the pages.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cress_svcd.atomic_files import replacing, write_json
from cress_svcd.data.cut_variation import CutVariation
from cress_svcd.errors import ConfigError

if TYPE_CHECKING:
    import pandas  # its import takes a tenth of a second, and translating needs none of it


def segments_digest(frame: "pandas.DataFrame") -> str:
    """Identity of a manifest's segments and their order."""
    text = "\n".join(f"{name}\t{audio}" for name, audio in zip(frame["id"], frame["audio"]))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def file_digest(path: str | os.PathLike) -> str:
    """Identity of a checkpoint file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class FeatureCache:
    """The features of one split; indexing gives (frames, dimension) in float32.

    Where the cuts of the segments were varied there are several variants, of which one is read at a
    time (``choose``).

    Args:
        folder: written by :func:`writing_features`.
        split: name of the manifest.
        frame: the manifest itself.
    Raises:
        ConfigError: it is damaged, or of other segments.
    """

    def __init__(self, folder: str | os.PathLike, split: str, frame: "pandas.DataFrame"):
        self._folder, self._split = Path(folder), split
        digest = segments_digest(frame)
        for variant in reversed(range(self._load(0, digest, len(frame)).get("variants", 1))):
            self.about = self._load(variant, digest, len(frame))

    @property
    def variants(self) -> int:
        """How many there are."""
        return self.about.get("variants", 1)

    def choose(self, variant: int) -> None:
        """Read this one from now on."""
        self._path = self._folder / f"{variant_name(self._split, variant)}.npy"
        self._ends = np.load(self._path.with_suffix(".ends.npy"))
        self._frames = np.load(self._path, mmap_mode="r")

    def _load(self, variant: int, digest: str, segments: int) -> dict:
        """Choose a variant, with all that can be wrong told; returns what it was made from."""
        path = self._folder / f"{variant_name(self._split, variant)}.npy"
        try:
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            self.choose(variant)
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}: cannot be read ({error}); make it again with "
                "'cress-svcd extract-features'"
            ) from None
        if about["segments"] != digest or len(self._ends) != segments:
            raise ConfigError(
                f"{path}: made from other segments than the manifest's of now; make it again "
                "with 'cress-svcd extract-features'"
            )
        return about

    @property
    def cuts(self) -> CutVariation | None:
        """How the cuts of the segments were varied for these features."""
        cuts = self.about.get("cuts")
        return CutVariation(cuts["share"], cuts["seed"]) if cuts else None

    @staticmethod
    def exists(folder: str | os.PathLike, split: str) -> bool:
        return (Path(folder) / f"{split}.json").is_file()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._ends[index - 1] if index else 0
        return np.asarray(self._frames[start : self._ends[index]], dtype=np.float32)

    def __getstate__(self) -> dict:
        # A memory map would travel to spawned workers by value.
        return {**self.__dict__, "_frames": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._frames = np.load(self._path, mmap_mode="r")


def variant_name(split: str, variant: int) -> str:
    """What the files of a split's features are called, for each variant of its cuts."""
    return f"{split}-variant{variant}" if variant else split


@contextlib.contextmanager
def writing_features(
    folder: str | os.PathLike, split: str, dimension: int, about: dict
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write the features of a split, all or nothing.

    Gives a function that takes the (frames, dimension) features of one segment, to be called in the
    manifest's order.

    Args:
        about: what is noted in ``SPLIT.json``, with the key ``segments``.
    """
    folder = Path(folder)
    about_file = folder / f"{split}.json"
    about_file.unlink(missing_ok=True)  # written last: without it the cache does not exist
    ends: list[int] = []
    with replacing(folder / f"{split}.npy") as temporary, temporary.open("wb") as file:
        # The header is written again when the number of frames is known; it has room for that.
        write_header(file, 0, dimension)

        def add(features: np.ndarray) -> None:
            file.write(np.ascontiguousarray(features, dtype=np.float16).tobytes())
            ends.append((ends[-1] if ends else 0) + len(features))

        yield add
        total = ends[-1] if ends else 0
        file.seek(0)
        write_header(file, total, dimension)
    with replacing(folder / f"{split}.ends.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.array(ends, dtype=np.int64))
    write_json(about_file, {**about, "frames": total, "dimension": dimension})


def write_header(file, frames: int, dimension: int) -> None:
    """The header of an .npy file of float16; numpy leaves room in it for any number of frames."""
    description = {"descr": "<f2", "fortran_order": False, "shape": (frames, dimension)}
    np.lib.format.write_array_header_1_0(file, description)
