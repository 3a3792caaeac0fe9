"""Manifests: tab-separated tables, one segment of speech and its texts a line.

The columns are those of fairseq's speech-to-text data.  There is no quoting: a field cannot contain
tabs or newlines, and only ``\\n`` ends a line (texts may hold other Unicode line separators).
"""

import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cress_svcd.atomic_files import replacing
from cress_svcd.data.audio import SAMPLE_RATE, AudioSpec, parse_audio_spec
from cress_svcd.data.corpus.text import is_visible, read_lines
from cress_svcd.errors import AudioError, ManifestError

if TYPE_CHECKING:
    import pandas  # its import takes a tenth of a second, and translating needs none of it

REQUIRED_COLUMNS = ("id", "audio", "n_frames", "tgt_text")


@dataclasses.dataclass(frozen=True)
class Segment:
    """One row of a manifest.

    ``audio`` is ``path[:offset:frames]`` (samples at the file's own rate); ``n_frames`` counts
    samples at 16 kHz, which is what the model sees.
    """

    id: str
    audio: str
    n_frames: int
    tgt_text: str
    speaker: str = ""
    src_text: str = ""
    src_lang: str = ""
    tgt_lang: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Segment))
# Repeated over and over: kept once in memory.
_REPEATED_COLUMNS = ("speaker", "src_lang", "tgt_lang")

# 64 bits hold all numbers of so many digits.
_MAX_DIGITS = 18
# What was meant for offset and frames, and is no pair of whole numbers: 0.5, 16,000, 1e3, 0x10.
_NUMBER = r"\s*[+-]?(0x[0-9a-f]+|[0-9][0-9.,_' ]*(e[+-]?[0-9]+)?|nan|inf)s?\s*"
_SUFFIX = r"\.(aiff?|au|caf|flac|mp3|npy|oga|ogg|opus|rf64|w64|wav)"
_MISREAD_PLACE = re.compile(
    rf".+:{_NUMBER}:{_NUMBER}|.+{_SUFFIX}:({_NUMBER})?(:({_NUMBER})?)?", re.IGNORECASE | re.DOTALL
)

# Bytes that are not UTF-8, and what they are read as.
_BYTES = "surrogateescape"
_UNDECODED = re.compile("[\udc80-\udcff]")


def read_manifest(path: str | os.PathLike) -> "pandas.DataFrame":
    """Read a manifest: a frame with all of :data:`COLUMNS`, ``n_frames`` as int64, the rest str.

    Columns beyond those are dropped; optional ones that are absent are empty strings, and so are
    texts without a visible character.

    Raises ManifestError, ``path:line: ...``, for a file that is missing, not UTF-8 or empty, for
    missing or doubled columns, rows with too few or too many fields, audio fields that do not
    parse, lengths that are not positive integers, and ids that occur twice.
    """
    import pandas

    lines = _read_table(path)
    header = lines[0].split("\t")
    _check_header(path, header)
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS if name in header}
    picks = [(header.index(name), columns[name].append) for name in columns]
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != len(header):
            raise ManifestError(_wrong_width(path, number, fields, header))
        for index, append in picks:
            append(fields[index])
        if _UNDECODED.search(line):
            _check_undecoded(path, number, header, fields)
    _check_ids(path, columns["id"])
    _check_audio(path, columns["audio"])
    n_frames = _parse_lengths(path, columns["n_frames"])
    for name in _REPEATED_COLUMNS:
        columns[name] = [sys.intern(value) for value in columns.get(name, [""] * len(n_frames))]
    for name in ("src_text", "tgt_text"):
        texts = columns.get(name, [""] * len(n_frames))
        columns[name] = [text if is_visible(text) else "" for text in texts]
    frame = pandas.DataFrame({name: pandas.Series(columns[name], dtype=object) for name in COLUMNS})
    frame["n_frames"] = pandas.Series(n_frames, dtype="int64")
    return frame


def estimated_rates(specs: Sequence[AudioSpec], n_frames: Iterable[int]) -> dict[str, int]:
    """Sampling rate of each recording as its segments show it, without a look into the file.

    A segment's own length counts samples of the file, ``n_frames`` those at 16 kHz, rounded: the
    rate is nearly exact, from one short segment to some tenths of a thousandth.  16 kHz where no
    segment says how long it is.
    """
    sums: dict[str, list[int]] = {}
    for spec, length in zip(specs, n_frames):
        own, common = sums.setdefault(spec.path, [0, 0])
        if spec.frames > 0:
            sums[spec.path] = [own + spec.frames, common + int(length)]
    return {
        path: max(1, round(SAMPLE_RATE * own / common)) if own else SAMPLE_RATE
        for path, (own, common) in sums.items()
    }


def write_manifest(path: str | os.PathLike, rows: Iterable[Segment | Mapping]) -> int:
    """Write rows (Segments or mappings with their keys), all or nothing; return how many.

    Raises ManifestError for a field that would break the table; ``text.clean_text`` mends it.
    """
    count = 0
    with replacing(path) as temporary:
        # Any bytes can be the name of a recording.
        with open(temporary, "w", encoding="utf-8", errors=_BYTES, newline="\n") as file:
            file.write("\t".join(COLUMNS) + "\n")
            for row in rows:
                file.write(_format_row(path, row) + "\n")
                count += 1
    return count


def _format_row(path: str | os.PathLike, row: Segment | Mapping) -> str:
    segment = row if isinstance(row, Segment) else Segment(**row)
    fields = [str(getattr(segment, name)) for name in COLUMNS]
    for name, value in zip(COLUMNS, fields):
        if "\t" in value or "\n" in value or "\r" in value:
            raise ManifestError(
                f"{path}: segment {segment.id!r}, column {name}: {value!r} contains a tab or a "
                f"line break, which a manifest cannot hold; replace them by spaces"
            )
    return "\t".join(fields)


def _read_table(path: str | os.PathLike) -> list[str]:
    lines = read_lines(path, ManifestError, undecodable=_BYTES)
    if len(lines) < 2:
        raise ManifestError(
            f"{path}: {'no segments after the header' if lines else 'empty file'}; expected a "
            f"header line with the columns {' '.join(COLUMNS)} and a line for each segment"
        )
    return lines


def _check_undecoded(
    path: str | os.PathLike, number: int, header: list[str], fields: list[str]
) -> None:
    """Names of files may hold bytes that are not UTF-8; nothing else may."""
    for name, field in zip(header, fields):
        found = _UNDECODED.search(field)
        if found and name != "audio":
            raise ManifestError(
                f"{path}:{number}: not UTF-8 (byte 0x{ord(found[0]) - 0xDC00:02x}) in column "
                f"{name}; convert it to UTF-8"
            )


def _check_header(path: str | os.PathLike, header: list[str]) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        raise ManifestError(
            f"{path}:1: no column {', '.join(missing)}; found {', '.join(header)!r}, expected "
            f"tab-separated {' '.join(COLUMNS)} (the last four optional)"
        )
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise ManifestError(f"{path}:1: column {', '.join(doubled)} occurs twice; remove one")


def _wrong_width(path: str | os.PathLike, number: int, fields: list[str], header: list[str]) -> str:
    start = "\t".join(fields)[:60]
    return (
        f"{path}:{number}: {len(fields)} fields, expected {len(header)} as in the header; a tab or "
        f"a line break inside a text?  The line begins {start!r}"
    )


def _check_ids(path: str | os.PathLike, ids: list[str]) -> None:
    if len(set(ids)) == len(ids) and "" not in ids:
        return
    seen: dict[str, int] = {}
    for number, name in enumerate(ids, start=2):
        if not name:
            raise ManifestError(f"{path}:{number}: empty id; each segment needs one of its own")
        if name in seen:
            raise ManifestError(
                f"{path}:{number}: id {name!r} stands already in line {seen[name]}; "
                f"each segment needs one of its own"
            )
        seen[name] = number


def _check_audio(path: str | os.PathLike, audio: list[str]) -> None:
    for number, text in enumerate(audio, start=2):
        try:
            # Python refuses numbers of thousands of digits with a ValueError.
            spec = parse_audio_spec(text)
        except (AudioError, ValueError) as error:
            raise ManifestError(f"{path}:{number}: column audio: {error}") from None
        whole = spec.path == text and _MISREAD_PLACE.fullmatch(text)
        if whole or max(spec.offset, spec.frames) >= 10**_MAX_DIGITS:
            raise ManifestError(
                f"{path}:{number}: column audio: {text!r:.200}; expected path[:offset:frames], "
                f"both whole numbers of samples at the file's rate"
            )


def _parse_lengths(path: str | os.PathLike, texts: list[str]) -> list[int]:
    lengths = []
    for number, text in enumerate(texts, start=2):
        # int() would also take " 1_0 " and the like.
        digits = text.lstrip("0")
        if not (text.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
            raise ManifestError(
                f"{path}:{number}: column n_frames: {text!r:.80}; expected a positive number of "
                f"samples at 16 kHz"
            )
        lengths.append(int(digits))
    return lengths
