"""Reading a corpus in the layout of MuST-C v1, one split at a time.

``en-XX/data/SPLIT/wav`` holds the talks, ``en-XX/data/SPLIT/txt`` three files of which the n-th
row or line belong together: ``SPLIT.yaml`` (where a segment lies in its talk), ``SPLIT.en`` and
``SPLIT.XX`` (what is said, and its translation)::

    - {duration: 3.500000, offset: 16.080000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}

What contradicts itself is an error that names file and line; segments that merely cannot serve
(too short, no text, ...) are dropped and counted.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from cress_svcd.data.corpus.corpus import Utterance, check_tgt_lang
from cress_svcd.data.corpus.fingerprints import file_fingerprint, folder_fingerprint
from cress_svcd.data.corpus.names import composed, existing
from cress_svcd.data.corpus.segment_rows import (
    Row,
    read_row_lines,
    read_rows,
    row_line,
    row_starts,
    segment_ids,
)
from cress_svcd.data.corpus.text import is_visible, read_lines
from cress_svcd.errors import ReleaseError

logger = logging.getLogger(__name__)

SOURCE_LANGUAGE = "en"
SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".npy")


class Place(NamedTuple):
    """The file that holds a row's sound, and whether it holds that segment alone."""

    path: str
    precut: bool


@dataclasses.dataclass(frozen=True)
class Release:
    """A language pair of a release; ``data`` is its folder ``en-XX/data``."""

    data: Path
    tgt_lang: str
    src_lang: str = SOURCE_LANGUAGE

    @classmethod
    def find(cls, root: str | os.PathLike, tgt_lang: str) -> Self:
        """Find ``en-XX/data`` in a folder that holds ``en-XX`` or is it.

        Raises ReleaseError that lists the languages found there.
        """
        # Before its folder is missed, which no mending of the folder would help.
        check_tgt_lang(tgt_lang, SOURCE_LANGUAGE)
        root = existing(root)
        pair = f"{SOURCE_LANGUAGE}-{tgt_lang}"
        if not root.is_dir():
            raise ReleaseError(
                f"{root}: no such folder; expected the unpacked release, holding {pair}/data"
            )
        if (root / pair).is_dir():
            if not (root / pair / "data").is_dir():
                raise ReleaseError(f"{root / pair}: has no folder data; expected {pair}/data/SPLIT")
            return cls(root / pair / "data", tgt_lang)
        if (root / "data").is_dir():
            there = _languages_of_texts(root / "data")
            if root.resolve().name == pair or tgt_lang in there:
                return cls(root / "data", tgt_lang)
        else:
            there = sorted(
                folder.name.removeprefix(f"{SOURCE_LANGUAGE}-")
                for folder in root.glob(f"{SOURCE_LANGUAGE}-*")
                if folder.is_dir()
            )
        found = f"languages found: {' '.join(there)}" if there else "no language found there"
        raise ReleaseError(
            f"{root}: has no {pair} (--tgt-lang {tgt_lang}); {found}; expected {pair}/data/SPLIT"
        )

    def find_splits(self, wanted: Sequence[str] | None = None) -> list[str]:
        """The splits to prepare: ``wanted``, or all of :data:`SPLITS` that exist; layout checked.

        Raises ReleaseError for a split, a text file or an audio folder that is not there.
        """
        there = sorted(folder.name for folder in self.data.iterdir() if folder.is_dir())
        if wanted is None:
            splits = [split for split in SPLITS if split in there]
            ignored = [split for split in there if split not in SPLITS]
            if ignored:
                logger.info("not prepared (name them with --splits): %s", " ".join(ignored))
        else:
            splits = list(dict.fromkeys(wanted))
        missing = [split for split in splits if not existing(self.data / split).is_dir()]
        if missing or not splits:
            raise ReleaseError(
                f"{self.data}: no split {' '.join(missing or SPLITS)}; "
                f"found {' '.join(there) or 'no folder at all'}"
            )
        for split in splits:
            _check_layout(self, split)
        return splits

    @property
    def audio_root(self) -> Path:
        return self.data

    def text_file(self, split: str, suffix: str) -> Path:
        return existing(self.data / split / "txt" / f"{split}.{suffix}")

    def audio_folder(self, split: str) -> Path:
        return existing(self.data / split / "wav")

    def listing(self, split: str) -> Path:
        return self.text_file(split, "yaml")

    def read(self, split: str) -> list[Utterance]:
        """The rows of a split with their texts and files, in the order of the yaml.

        Raises ReleaseError for broken rows, files of different length, and audio that is missing.
        """
        rows, sources, targets = read_split(self, split)
        ids = segment_ids(rows)
        places = locate_audio(self, split, rows, ids)
        starts = row_starts(read_row_lines(self.listing(split)))
        return [
            Utterance(
                id=ids[number],
                recording=composed(row.wav),
                audio=places[number].path,
                source=sources[number],
                target=targets[number],
                line=row_line(number, starts),
                offset=row.offset,
                duration=row.duration,
                speaker=row.speaker,
                precut=places[number].precut,
            )
            for number, row in enumerate(rows)
        ]

    def fingerprint(self, split: str) -> dict[str, Any]:
        names = ("yaml", self.src_lang, self.tgt_lang)
        return {
            "texts": [file_fingerprint(self.text_file(split, name)) for name in names],
            "audio": folder_fingerprint(self.audio_folder(split)),
        }


def _languages_of_texts(data: Path) -> list[str]:
    found = {file.suffix[1:] for file in data.glob("*/txt/*.*") if file.stem == file.parts[-3]}
    return sorted(found - {"yaml", SOURCE_LANGUAGE})


def _check_layout(release: Release, split: str) -> None:
    for suffix in ("yaml", release.src_lang, release.tgt_lang):
        path = release.text_file(split, suffix)
        if not path.is_file():
            there = sorted(file.name for file in path.parent.glob("*"))
            raise ReleaseError(
                f"{path}: missing; {path.parent} holds {' '.join(there) or 'nothing'}; expected "
                f"{split}.yaml, {split}.{release.src_lang} and {split}.{release.tgt_lang}"
            )
    folder = release.audio_folder(split)
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: missing; expected the folder with the audio of {split}")


def read_split(release: Release, split: str) -> tuple[list[Row], list[str], list[str]]:
    """Rows, source lines and target lines of a split, equally many, as they stand in the files.

    Raises ReleaseError for broken rows and for files of different length.
    """
    yaml_file = release.text_file(split, "yaml")
    rows = read_rows(yaml_file)
    texts = []
    for language in (release.src_lang, release.tgt_lang):
        path = release.text_file(split, language)
        lines = read_lines(path, ReleaseError)
        while len(lines) > len(rows) and not is_visible(lines[-1]):
            lines.pop()
        if len(lines) != len(rows):
            raise ReleaseError(
                f"{path}: {len(lines)} lines, but {yaml_file} has {len(rows)} rows; line n must "
                f"belong to row n: fetch the release again or mend the file"
            )
        texts.append(lines)
    return rows, texts[0], texts[1]


class AudioFolder:
    """Finds the audio that a release's yaml names, even if it was moved or converted."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> str | None:
        """Path relative to the folder of the file called ``name``, or None.

        In this order: that very path; that file name in any sub-folder, case and spelling
        (composed or decomposed); the same stem with another audio suffix.  Of several, the one
        that is most like the name.  Raises ReleaseError if several files fit equally well.
        """
        if os.path.isfile(self.folder / name):
            return name
        plain = _folded(Path(name).name)
        return self._only(name, self._by_name.get(plain)) or self._only(
            name, self._by_stem.get(Path(plain).stem)
        )

    def find_segment(self, segment_id: str) -> str | None:
        """Path of the file that holds one segment alone, ``ted_767_12.npy``, or None."""
        return self._only(segment_id, self._by_stem.get(_folded(segment_id)))

    def _only(self, name: str, paths: list[str] | None) -> str | None:
        for like in _LIKENESSES:
            if paths and len(paths) > 1:
                paths = [path for path in paths if like(path) == like(name)] or paths
        if paths and len(paths) > 1:
            raise ReleaseError(
                f"{self.folder}: {name} may be any of {', '.join(sorted(paths)[:3])}; write in the "
                f"yaml the path within this folder"
            )
        return paths[0] if paths else None

    @functools.cached_property
    def _files(self) -> list[str]:
        return [
            os.path.relpath(os.path.join(parent, name), self.folder)
            for parent, _, names in os.walk(self.folder)
            for name in names
            if name.lower().endswith(AUDIO_SUFFIXES)
        ]

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _group(self._files, lambda path: _folded(Path(path).name))

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _group(self._files, lambda path: _folded(Path(path).stem))


def _folded(name: str) -> str:
    """What names that differ in case or spelling only have in common."""
    return composed(composed(name).lower())


# Ways in which a path may be the one that is meant, the surest first.
_LIKENESSES: tuple[Callable[[str], str], ...] = (
    composed,
    _folded,
    os.path.basename,
    lambda path: composed(os.path.basename(path)),
)


def _group(items: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def locate_audio(
    release: Release, split: str, rows: Sequence[Row], ids: Sequence[str]
) -> list[Place]:
    """The file of each row, its path relative to ``release.data``.

    Raises ReleaseError naming the first row whose file is missing, and how many files are.
    """
    folder = AudioFolder(release.audio_folder(split))
    prefix = os.path.relpath(folder.folder, release.data)
    talks: dict[str, str | None] = {}
    places, missing = [], {}
    for number, row in enumerate(rows):
        if row.wav not in talks:
            talks[row.wav] = folder.find(row.wav)
        path = talks[row.wav]
        precut = path is None
        if path is None:
            path = folder.find_segment(ids[number])
        if path is None:
            missing.setdefault(row.wav, number)
            path = ""
        places.append(Place(path if os.path.isabs(path) else f"{prefix}/{path}", precut))
    if missing:
        wav, number = next(iter(missing.items()))
        raise ReleaseError(
            f"{folder.folder}: no {wav} (row {number + 1} of {split}.yaml), nor {ids[number]}.npy "
            f"with that segment alone; {len(missing)} of {len(talks)} audio files are missing: "
            f"fetch the release again"
        )
    return places
