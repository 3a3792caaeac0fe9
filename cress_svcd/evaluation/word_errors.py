"""Word errors of what a speech encoder hears: the transcripts of its CTC head."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import editdistance

from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.corpus.prepared import audio_folder, read_config
from cress_svcd.errors import ConfigError
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.translator import Translator

_APOSTROPHES = str.maketrans("’‘ʼ`´", "'''''")


def spoken_words(text: str) -> list[str]:
    """The words of a text as they are said: without case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", text.casefold().translate(_APOSTROPHES))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    kept = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in plain)
    return [word for word in (word.strip("'") for word in kept.split()) if word]


def word_errors(hypotheses: Sequence[str], references: Sequence[str]) -> dict:
    """Errors over all sentences together.

    Returns:
        ``word_error_rate`` and ``letter_error_rate`` (percent: substitutions, deletions and
        insertions over the words, or the letters and spaces, of the references; 0 is best),
        ``right_segments`` (percent), ``words``.
    """
    wrong, words, wrong_letters, letters, right = 0, 0, 0, 0, 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        heard, said = spoken_words(hypothesis), spoken_words(reference)
        errors = editdistance.eval(heard, said)
        wrong, words, right = wrong + errors, words + len(said), right + (errors == 0)
        wrong_letters += editdistance.eval(" ".join(heard), " ".join(said))
        letters += len(" ".join(said))
    return {
        "word_error_rate": round(100 * wrong / max(words, 1), 2),
        "letter_error_rate": round(100 * wrong_letters / max(letters, 1), 2),
        "right_segments": round(100 * right / max(len(references), 1), 2),
        "words": words,
    }


def score_transcripts(
    model: Path, manifest: Path, data: Path | None = None, **options: Any
) -> dict:
    """What a model's CTC head hears of a manifest's segments, against their ``src_text``.

    Args:
        model: a checkpoint, packed or not.
        manifest: in a folder of prepare-mustc, or with absolute paths.
        data: the model's own folder; default: found, see ``Translator.load``.
        options: of ``Translator.load``.
    Returns:
        as ``word_errors``; ``segments``; and under ``transcripts`` the ``id``, ``transcript`` and
        ``heard`` of each.
    Raises:
        AudioError, CheckpointError, ConfigError, ManifestError: the model cannot be loaded or has
            no CTC head, or a row of the manifest cannot be read or says no transcript.
    """
    frame = read_manifest(manifest)
    texts = list(frame["src_text"])
    for name, text in zip(frame["id"], texts):
        if not spoken_words(text):
            raise ConfigError(
                f"{manifest}: segment {name} has no word in column src_text; expected what is said"
            )
    folder = manifest.parent
    has_config = (folder / "config.yaml").is_file()
    root = audio_folder(folder, read_config(folder)) if has_config else str(folder)
    translator = Translator.load(model, data, translations=False, transcripts=True, **options)
    waves = (read_audio(audio, root) for audio in frame["audio"])
    segments = (Segment(wave, 0.0, len(wave) / SAMPLE_RATE) for wave in waves)
    heard = [found.transcript or "" for _, found in translator.translate_segments(segments)]
    rows = zip(frame["id"], texts, heard)
    return {
        **word_errors(heard, texts),
        "segments": len(texts),
        "transcripts": [
            {"id": name, "transcript": text, "heard": found} for name, text, found in rows
        ],
    }


def format_word_errors(scores: dict) -> str:
    """A line for people."""
    return (
        f"word errors {scores['word_error_rate']:.2f} %   "
        f"letter errors {scores['letter_error_rate']:.2f} %   "
        f"segments without an error {scores['right_segments']:.2f} %   "
        f"words {scores['words']}   segments {scores['segments']}"
    )
