"""Translations of recordings, as 'cress-svcd translate' writes them, and whose they are."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cress_svcd.atomic_files import announced_encoding, is_number, parse_json, require_text
from cress_svcd.data.corpus.names import composed
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.subtitle_reading import SUFFIXES, Cue, read_subtitles
from cress_svcd.evaluation.subtitle_score import as_subtitles

JSON_LINES = ".jsonl"
_JSON_KEYS = {"source": "a text", "start": "seconds", "end": "seconds", "text": "a text"}
_LONGEST = 1e8  # seconds: three years
_HALF = re.compile("[\ud800-\udfff]")  # a surrogate alone
_BEGINNING = 4096  # bytes of a file that say what it is
_JSON_OBJECT = re.compile(r'\{\s*"')
_GENERATED = re.compile(r"^[SDTHP]-\d+\t", re.MULTILINE)

Name = tuple[str, ...]
"""Folders and name of a recording, without the suffix: ``("talks", "ted_1")``."""


@dataclass
class RecordingTranslation:
    """What a recording was translated to: its words, and its subtitles."""

    text: str = ""
    cues: list[Cue] = field(default_factory=list)


def name_of(path: str) -> Name:
    """The name of a recording's file, its letters composed: copies of it have them either way."""
    path = composed(path)
    return (*Path(path).parts[:-1], Path(path).stem)


def holds_translations(path: Path) -> bool:
    """Whether ``path`` is a folder or a file of translations; else it is a model.

    Raises:
        ConfigError: there is nothing, or what is neither.
    """
    expected = "expected a model, or what 'cress-svcd translate' wrote: jsonl, srt, vtt or ttml"
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder; {expected}")
    if path.is_dir() or path.suffix.lower() in (JSON_LINES, *SUFFIXES):
        return True
    try:
        with open(path, "rb") as file:
            content = file.read(_BEGINNING)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {expected}") from None
    beginning = content.decode(announced_encoding(content) or "utf-8", "ignore").lstrip()
    if _JSON_OBJECT.match(beginning):
        return True
    if "-->" in beginning or beginning.startswith(("<?xml", "<tt")):
        raise ConfigError(f"{path}: looks like subtitles; give it the suffix .srt, .vtt or .ttml")
    if _GENERATED.search(beginning):
        raise ConfigError(
            f"{path}: is an output of fairseq-generate, of segments; leave --recordings, or give "
            "it to --exact"
        )
    return False


def read_translations(path: Path) -> dict[Name, RecordingTranslation]:
    """Translations that 'cress-svcd translate' wrote: JSON lines or subtitles, a file, or a folder
    of a file for each recording.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    files, names = [path], [Path(path.stem)]
    if path.is_dir():
        suffixes = (JSON_LINES, *SUFFIXES)
        # Hidden ones are other programs', such as macOS's ._talk.srt.
        files = sorted(
            each
            for each in path.rglob("*")
            if each.suffix.lower() in suffixes
            and not any(part.startswith(".") for part in each.relative_to(path).parts)
        )
        names = [file.relative_to(path).with_suffix("") for file in files]
    found: dict[Name, RecordingTranslation] = {}
    for file, own in zip(files, names):
        for name, translation in _read_file(file, own):
            if name in found:
                raise ConfigError(
                    f"{file}: {'/'.join(name)} for the second time; keep one translation of a "
                    "recording, and one format a folder"
                )
            found[name] = translation
    if not found:
        raise ConfigError(
            f"{path}: no translation in it; expected what 'cress-svcd translate' writes with "
            "--output-format jsonl, srt, vtt or ttml"
        )
    return found


def read_subtitled(path: Path) -> RecordingTranslation:
    """The translation of a recording out of its subtitles.

    Raises:
        ConfigError: they cannot be read.
    """
    cues = read_subtitles(path)
    return RecordingTranslation(" ".join(cue.text for cue in cues if cue.lines), cues)


def _read_file(path: Path, name: Path) -> Iterator[tuple[Name, RecordingTranslation]]:
    """Recordings of a file; ``name``: of the one recording of subtitles, or of an empty file."""
    if path.suffix.lower() in SUFFIXES:
        yield name.parts, read_subtitled(path)
        return
    segments: dict[str, list[tuple[float, float, str]]] = {}
    seen: dict[tuple, int] = {}
    for number, record in _read_json_lines(path):
        start, end = float(record["start"]), float(record["end"])
        if not 0 <= start <= end <= _LONGEST:
            raise ConfigError(
                f"{path}:{number}: from {start} to {end} s; expected 0 or more, rising"
            )
        # Others than 'translate' may leave the segment's number out.
        first = seen.setdefault((record["source"], record.get("segment", (start, end))), number)
        if first != number:
            raise ConfigError(
                f"{path}:{number}: {record['source']} has this segment in line {first} already; "
                "keep one translation of a recording"
            )
        segments.setdefault(record["source"], []).append((start, end, record["text"]))
    for source, parts in segments.items():
        parts.sort(key=lambda part: part[0])
        text = " ".join(part[2] for part in parts)
        yield name_of(source), RecordingTranslation(text, as_subtitles(parts))
    if not segments:
        yield name.parts, RecordingTranslation()


def _read_json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    lines = require_text(path).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = parse_json(line, path, number)
        for key, kind in _JSON_KEYS.items():
            found = record.get(key) if isinstance(record, dict) else None
            right = is_number(found) if kind == "seconds" else isinstance(found, str)
            if not right:
                raise ConfigError(
                    f"{path}:{number}: no {key}; expected a line of 'cress-svcd translate "
                    f"--output-format jsonl' with {', '.join(_JSON_KEYS)}"
                )
        if not is_number(record.get("segment", 0)):
            raise ConfigError(f"{path}:{number}: segment is no number; expected 0, 1, …")
        if _HALF.search(record["text"]):
            raise ConfigError(f"{path}:{number}: text has half of a character; expected whole ones")
        yield number, record


def assign(
    found: Mapping[Name, RecordingTranslation], recordings: Sequence[str], where: Path
) -> tuple[dict[str, RecordingTranslation], list[str]]:
    """Find the translation of each recording, by its name without folder and suffix; by folders as
    well, where names occur several times.

    Args:
        found: translations by name.
        recordings: paths of recordings as their manifest has them.
        where: the translations were read, for messages.
    Returns:
        translations by recording, and names that belong to none.
    Raises:
        ConfigError: which recording a translation belongs to is not clear, or all belong to none.
    """
    named: dict[str, list[str]] = {}
    for path in recordings:
        named.setdefault(name_of(path)[-1], []).append(path)
    assigned: dict[str, RecordingTranslation] = {}
    owners: dict[str, str] = {}
    others = []
    for name, translation in found.items():
        shown = "/".join(name)
        shared = {path: _common(name, name_of(path)) for path in named.get(name[-1], [])}
        nearest = [path for path, count in shared.items() if count == max(shared.values())]
        if not nearest:
            others.append(shown)
            continue
        path = nearest[0]
        if len(nearest) > 1:
            raise ConfigError(
                f"{where}: {shown} may be {' or '.join(nearest)}; name recordings with their "
                "folders, as the manifest does"
            )
        if path in assigned:
            raise ConfigError(f"{where}: {owners[path]} and {shown} both may be {path}; keep one")
        assigned[path], owners[path] = translation, shown
    if not assigned:
        raise ConfigError(
            f"{where}: no recording of the manifest in it; it has {others[0]}, and the manifest "
            f"{recordings[0]}"
        )
    return assigned, others


def _common(left: Name, right: Name) -> int:
    """How many parts at the end of two names are the same."""
    count = 0
    for one, other in zip(reversed(left), reversed(right)):
        if one != other:
            break
        count += 1
    return count
