"""Translations of whole recordings against the segments of a manifest.

Each recording's translation is divided among its reference segments
(:mod:`cress_svcd.evaluation.realignment`), then BLEU and chrF are those of any other translation;
the subtitles are compared as they are (:mod:`cress_svcd.evaluation.subtitle_score`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cress_svcd.atomic_files import is_number, read_json, read_yaml
from cress_svcd.data.audio import SAMPLE_RATE, parse_audio_spec, spelt_as_there
from cress_svcd.data.audio_shards import is_sharded
from cress_svcd.data.corpus.manifest import estimated_rates, read_manifest
from cress_svcd.data.corpus.prepared import audio_folder, with_names_as_written
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.bleu_chrf import measure, without_4grams
from cress_svcd.evaluation.outputs import require_references, score_output
from cress_svcd.evaluation.realignment import UNSPACED, realign, require_extra, signature
from cress_svcd.evaluation.recording_translations import RecordingTranslation
from cress_svcd.evaluation.subtitle_score import as_subtitles, measure_subtitles


@dataclass(frozen=True)
class Reference:
    """A segment of a recording; ``row`` counts those of the manifest, times are in seconds."""

    row: int
    id: str
    source: str
    text: str
    start: float
    end: float


@dataclass
class Recording:
    """A recording of a manifest, with its segments in the order of time."""

    path: str
    references: list[Reference] = field(default_factory=list)
    language: str = ""


def read_recordings(manifest: Path) -> list[Recording]:
    """The recordings of a manifest, in the order in which it first names them.

    Raises:
        ManifestError, ConfigError: it cannot be used, has no reference, is of several target
            languages, or its segments were packed by shard-audio.
    """
    frame = read_manifest(manifest)
    config = _config_of(manifest)
    languages = sorted(set(frame["tgt_lang"]))
    if config.get("tgt_langs") and len(languages) > 1:
        raise ConfigError(
            f"{manifest}: is of {', '.join(languages)}; score one language at a time, as in "
            f"{manifest.stem}_{languages[0]}.tsv"
        )
    if is_sharded(config, frame["audio"]):
        raise ConfigError(
            f"{manifest}: its audio was packed by shard-audio, segment behind segment, which makes "
            "no recordings; give the manifest of the folder that it was made of"
        )
    require_references(frame["tgt_text"], manifest)
    specs = [parse_audio_spec(audio) for audio in frame["audio"]]
    rates = estimated_rates(specs, frame["n_frames"])
    recordings: dict[str, Recording] = {}
    for row, (spec, values) in enumerate(zip(specs, frame.itertuples(index=False))):
        start = spec.offset / rates[spec.path]
        end = start + values.n_frames / SAMPLE_RATE
        recording = recordings.setdefault(spec.path, Recording(spec.path, [], values.tgt_lang))
        recording.references.append(
            Reference(row, values.id, values.src_text, values.tgt_text, start, end)
        )
    for recording in recordings.values():
        recording.references.sort(key=lambda reference: reference.start)
    return list(recordings.values())


def audio_files(manifest: Path, recordings: Sequence[Recording]) -> list[str]:
    """Paths of the recordings' files: below ``audio_root`` of the config.yaml next to the manifest,
    or below the manifest's own folder."""
    root = audio_folder(manifest.parent, _config_of(manifest))
    return [spelt_as_there(os.path.join(root, recording.path)) for recording in recordings]


def language_of_several(manifest: Path, recordings: Sequence[Recording]) -> str | None:
    """The target language of a manifest's recordings, where its data has several; else None."""
    return recordings[0].language if _config_of(manifest).get("tgt_langs") else None


def _config_of(manifest: Path) -> dict:
    """The config next to a manifest; empty without one."""
    path = manifest.parent / "config.yaml"
    if not path.is_file():
        return {}
    return with_names_as_written(path, read_yaml(path, "the config of 'cress-svcd prepare-mustc'"))


def with_distinct_names(recordings: Sequence[Recording]) -> list[list[Recording]]:
    """The recordings in groups; within one no two have the same name without folder and suffix."""
    counts: dict[str, int] = {}
    groups: list[list[Recording]] = []
    for recording in recordings:
        name = Path(recording.path).stem
        number = counts.get(name, 0)
        counts[name] = number + 1
        if number == len(groups):
            groups.append([])
        groups[number].append(recording)
    return groups


def require_extras() -> None:
    """Raises ConfigError if a package that scores of recordings need is not installed."""
    require_extra("mweralign", "mweralign")
    require_extra("suber", "subtitle-edit-rate")


def score_recordings(
    recordings: Sequence[Recording],
    translations: Mapping[str, RecordingTranslation],
    tokenize: str = "13a",
) -> dict:
    """Scores of whole recordings, with their re-aligned sentences.

    Args:
        recordings: all of them; one without a translation counts as translated to nothing.
        translations: by ``Recording.path``.
        tokenize: sacreBLEU tokenizer.
    Returns:
        see :func:`cress_svcd.evaluation.bleu_chrf.measure` and
        :func:`cress_svcd.evaluation.subtitle_score.measure_subtitles`; ``recordings``, how many;
        ``missing``, those without a translation, and ``silent``, those without a word in it;
        ``translations`` as of :func:`cress_svcd.evaluation.outputs.score_output`.
    Raises:
        ConfigError: mweralign or subtitle-edit-rate is not installed.
    """
    language = recordings[0].language
    rows: dict[int, dict] = {}
    pairs = []
    for recording in recordings:
        translation = translations.get(recording.path, RecordingTranslation())
        segments = recording.references
        texts = [segment.text for segment in segments]
        parts = realign(translation.text, texts, language in UNSPACED)
        for segment, part in zip(segments, parts, strict=True):
            rows[segment.row] = {
                "id": segment.id,
                "source": segment.source,
                "reference": segment.text,
                "hypothesis": part,
            }
        pairs.append(
            (
                translation.cues,
                as_subtitles((each.start, each.end, each.text) for each in segments),
            )
        )
    sentences = [rows[row] for row in sorted(rows)]
    return {
        **measure(
            [each["hypothesis"] for each in sentences],
            [each["reference"] for each in sentences],
            tokenize,
        ),
        **measure_subtitles(pairs, language),
        "alignment": signature(language in UNSPACED),
        "recordings": len(recordings),
        "missing": [each.path for each in recordings if each.path not in translations],
        "silent": [
            each.path
            for each in recordings
            if each.path in translations and not translations[each.path].text.strip()
        ],
        "translations": sentences,
    }


def read_exact(path: Path, manifest: Path, tokenize: str) -> dict:
    """BLEU and chrF of the manifest's own segments: from an output of fairseq-generate, or the JSON
    that 'cress-svcd score' wrote about one.

    Raises:
        ConfigError: it is neither, or of other segments.
    """
    if path.suffix.lower() != ".json":
        return score_output(path, manifest, tokenize)
    scores = read_json(path)
    keys = ("bleu", "chrf", "sentences", "bleu_signature")
    if (
        not isinstance(scores, dict)
        or not all(key in scores for key in keys)
        or not all(is_number(scores[key]) for key in keys[:2])
    ):
        raise ConfigError(
            f"{path}: no {', '.join(keys)} in it; expected the JSON of 'cress-svcd score' of one "
            "output, or an output of fairseq-generate"
        )
    return scores


def compare_with_exact(scores: dict, exact: dict, path: Path) -> dict:
    """Which share of the scores of their exact cuts whole recordings keep.

    Args:
        scores, exact: as of :func:`score_recordings` and :func:`read_exact`.
        path: exact was read from.
    Returns:
        ``exact`` with its ``output``, ``bleu`` and ``chrf``; ``share`` of ``bleu`` and ``chrf``,
        1 for all, None of 0.
    Raises:
        ConfigError: the two were not measured alike.
    """
    for key in ("sentences", "bleu_signature"):
        if scores[key] != exact[key]:
            raise ConfigError(
                f"{path}: {key} {exact[key]}, but the recordings have {scores[key]}; score the "
                "same split with the same options"
            )
    keys = ("bleu", "chrf")
    return {
        "exact": {"output": str(path), **{key: exact[key] for key in keys}},
        "share": {key: round(scores[key] / exact[key], 4) if exact[key] else None for key in keys},
    }


def format_scores(scores: dict) -> str:
    """The lines for people, also for scores of segments."""
    lines = [
        f"BLEU {scores['bleu']:.2f}   chrF2 {scores['chrf']:.2f}   "
        f"length ratio {scores['length_ratio']:.3f}   sentences {scores['sentences']}"
    ]
    if warning := without_4grams(scores):
        lines.append(warning)
    signatures = [scores["bleu_signature"], scores["chrf_signature"]]
    if "recordings" in scores:
        lines[0] += f"   recordings {scores['recordings']}"
        lines.append(f"SubER {scores['suber']:.2f}   SubER-cased {scores['suber_cased']:.2f}")
        signatures += [scores["alignment"], scores["suber_signature"]]
    if "share" in scores:
        kept = [
            f"{share:.1%} of the {name} ({scores['exact'][key]:.2f})"
            for key, name in (("bleu", "BLEU"), ("chrf", "chrF2"))
            if (share := scores["share"][key]) is not None
        ]
        lines.append(f"{' and '.join(kept) or 'none'} of exact cuts, {scores['exact']['output']}")
    return "\n  ".join([*lines, *signatures])
