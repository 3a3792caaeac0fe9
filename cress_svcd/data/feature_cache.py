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


AGAIN = "make it again with 'cress-svcd extract-features'"
# Caches that do not say so were made for segments of at most so many samples.
DEFAULT_LONGEST = 480_000


def cuts_entry(cuts: CutVariation, longest: int, variant: int, variants: int) -> dict:
    """What a cache notes under ``cuts``: how those of its segments were varied.

    Args:
        longest: samples that no segment exceeds by what its varied cut adds.
        variant: of how many ``variants``.
    """
    place = [variant, variants]
    return {"share": cuts.share, "seed": cuts.seed, "variant": place, "longest": longest}


def complete_cuts(about: dict) -> dict | None:
    """What a cache says of its cuts, with what one does not say that was made some time ago."""
    cuts = about.get("cuts")
    return {"longest": DEFAULT_LONGEST, **cuts} if cuts else None


class FeatureCache:
    """The features of one split; indexing gives (frames, dimension) as they are stored, in float16.

    Batches of them stay so until they are on the device: in float32 it was their way there that
    training waited for.

    Where the cuts of the segments were varied there are several variants, of which one is read at a
    time (``choose``).

    Args:
        folder: written by :func:`writing_features`.
        split: name of the manifest.
        frame: the manifest itself.
        join_segments: the share of joined segments that ``frame`` has, for messages.
    Raises:
        ConfigError: it is damaged, or of other segments, or its variants do not belong together.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str,
        frame: "pandas.DataFrame",
        join_segments: float | None = None,
    ):
        self._folder, self._split = Path(folder), split
        self._wanted = segments_digest(frame), len(frame), join_segments
        self.about = self._load(0)
        for variant in range(1, self.variants):
            self._refuse_other(variant, self._load(variant))
        self.choose(0)

    @property
    def variants(self) -> int:
        """How many there are."""
        return self.about.get("variants", 1)

    def choose(self, variant: int) -> None:
        """Read this one from now on."""
        self._path = self._file(variant)
        self._ends = np.load(self._path.with_suffix(".ends.npy"))
        self._frames = np.load(self._path, mmap_mode="r")

    def _file(self, variant: int) -> Path:
        return self._folder / f"{variant_name(self._split, variant)}.npy"

    def _load(self, variant: int) -> dict:
        """Choose a variant, with all that can be wrong reported; returns what it was made from."""
        path = self._file(variant)
        digest, segments, join_segments = self._wanted
        try:
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            _check_about(about)
            self.choose(variant)
            _check_arrays(self._frames, self._ends)
            if len(self._frames) != (self._ends[-1] if len(self._ends) else 0):
                raise ValueError("its frames are not those of its segments")
        except Exception as error:  # numpy raises a dozen kinds at a damaged header
            raise ConfigError(f"{path}: cannot be read ({error}); {AGAIN}") from None
        made = about.get("join_segments")
        if None not in (made, join_segments) and made != join_segments:
            raise ConfigError(
                f"{path}: made with --join-segments {made:g}, and {join_segments:g} is wanted: "
                f"give both the same, or {AGAIN}"
            )
        if about["segments"] != digest or len(self._ends) != segments:
            raise ConfigError(
                f"{path}: made from other segments than the manifest's of now, or with another "
                f"--join-segments; {AGAIN}"
            )
        return about

    def _refuse_other(self, variant: int, about: dict) -> None:
        """Raise ConfigError for a variant that was not made together with the first one."""
        first, other = _identity(self.about), _identity(about)
        for name, value in first.items():
            if None not in (value, other[name]) and value != other[name]:
                raise ConfigError(
                    f"{self._file(variant)}: is of another extraction than "
                    f"{self._file(0).name} (its {name} is {other[name]}, there {value}); {AGAIN}, "
                    "all variants at once"
                )

    @property
    def cuts(self) -> CutVariation | None:
        """How the cuts of the segments were varied for these features."""
        cuts = self.about.get("cuts")
        return CutVariation(cuts["share"], cuts["seed"]) if cuts else None

    @property
    def longest(self) -> int:
        """Samples that no segment exceeds by what its varied cut adds."""
        return (complete_cuts(self.about) or {}).get("longest", DEFAULT_LONGEST)

    @staticmethod
    def exists(folder: str | os.PathLike, split: str) -> bool:
        return (Path(folder) / f"{split}.json").is_file()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._ends[index - 1] if index else 0
        return np.array(self._frames[start : self._ends[index]])

    def __getstate__(self) -> dict:
        # A memory map would travel to spawned workers by value.
        return {**self.__dict__, "_frames": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._frames = np.load(self._path, mmap_mode="r")


def _check_arrays(frames: np.ndarray, ends: np.ndarray) -> None:
    """Raise ValueError unless these are frames by dimensions, and ends that rise."""
    if frames.ndim != 2 or frames.dtype.kind != "f":
        raise ValueError(f"it holds {frames.dtype} of the shape {frames.shape}")
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or (np.diff(ends, prepend=0) < 0).any():
        raise ValueError("its ends of segments are no numbers that rise")


def _check_about(about: object) -> None:
    """Raise ValueError for what no extraction notes."""
    if not (isinstance(about, dict) and isinstance(about.get("segments"), str)):
        raise ValueError("its json does not say what it was made from")
    variants, cuts = about.get("variants", 1), about.get("cuts")
    if type(variants) is not int or variants < 1:
        raise ValueError(f"its json has {variants!r:.80} for variants, expected 1 or more")
    numbers = [cuts.get("share"), cuts.get("seed")] if isinstance(cuts, dict) else [None]
    if cuts and not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"its json has {cuts!r:.80} for cuts, expected share and seed")


def _identity(about: dict) -> dict:
    """What the variants of a split have in common; None: not noted."""
    cuts = complete_cuts(about) or {}
    place = cuts.get("variant")  # a number alone in those of some time ago
    count = place[1] if isinstance(place, list) and len(place) == 2 else None
    return {
        "encoder": about.get("hubert"),
        "layer": about.get("layer"),
        "--vary-cuts": cuts.get("share", 0),
        "seed": cuts.get("seed"),
        "longest segment": cuts.get("longest"),
        "number of variants": about.get("variants", count),
    }


def variant_name(split: str, variant: int) -> str:
    """What the files of a split's features are called, for each variant of its cuts."""
    return f"{split}-variant{variant}" if variant else split


def remove_features(folder: str | os.PathLike, split: str) -> None:
    """Take a split's features, or a variant's, out of use: without the json there are none."""
    (Path(folder) / f"{split}.json").unlink(missing_ok=True)


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
    remove_features(folder, split)  # the json is written last
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
