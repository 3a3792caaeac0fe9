"""The models that a server has, and which one a request means."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cress_svcd.errors import ConfigError
from cress_svcd.serving.problems import Problem
from cress_svcd.translation.recording_translator import RecordingTranslator

# Clients that know one server alone name its model: here it is the first one of the language.
ANY = ("", "auto", "whisper-1")


@dataclass(frozen=True)
class ServedModel:
    """A loaded model, or one target language of a model of several.

    family: name of a model of several; else empty.
    language, source: codes of the languages that it translates to and from, such as de and en.
    size: bytes of its file.
    created: seconds since 1970, when its file was written.
    """

    name: str
    translator: RecordingTranslator
    language: str
    source: str
    size: int
    created: int
    family: str = ""

    def card(self) -> dict[str, Any]:
        """As ``GET /v1/models`` lists it; the protocol's keys, then ours."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "cress-svcd",
            "language": self.language,
            "source_language": self.source,
            "bytes": self.size,
        }


class Models:
    """Models by name; the first is the one that requests without a wish get."""

    def __init__(self, models: Sequence[ServedModel]):
        self.by_name = {model.name: model for model in models}
        self.families: dict[str, list[ServedModel]] = {}
        for model in models:
            if model.family:
                self.families.setdefault(model.family, []).append(model)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.by_name.values())

    def find(self, name: str) -> ServedModel:
        """Raises Problem: there is none of this name."""
        found = self.by_name.get(name)
        if found is None:
            raise Problem(
                404,
                f"the model {name[:80]!r} is not here; expected one of {', '.join(self.by_name)}",
                "model",
                "model_not_found",
            )
        return found

    def choose(self, name: str = "", language: str = "") -> ServedModel:
        """The model that a request means.

        Raises:
            Problem: there is none of this name, or of this language.
        """
        language = language.strip().lower()
        known = name in self.by_name or name in self.families
        anyone = name in ANY and not known
        meant = list(self) if anyone else self.families.get(name) or [self.find(name)]
        fitting = [m for m in meant if not language or m.language.lower() == language]
        if fitting and (anyone or len(fitting) == 1):
            return fitting[0]
        languages = ", ".join(dict.fromkeys(m.language for m in meant))
        if fitting:
            words = f"the model {name} translates to {languages}: choose one by language"
        elif anyone:
            words = f"no model here translates to {language[:20]!r}; expected {languages}"
        else:
            words = (
                f"the model {name} translates to {languages}, not to {language[:20]!r}: name "
                "another model or no language"
            )
        raise Problem(400, words, "language")


def named_paths(values: Sequence[str]) -> list[tuple[str, Path]]:
    """Names and files out of ``PATH`` and ``NAME=PATH``.

    A name is that of the file without suffixes, with its folder's before it where two would be
    the same.

    Raises:
        ConfigError: two models of one name.
    """
    given: list[tuple[str | None, Path]] = []
    for value in values:
        name, equals, path = value.partition("=")
        if equals and re.fullmatch(r"[\w.-]+", name) and not os.path.exists(value):
            given.append((name, Path(path)))
        else:
            given.append((None, Path(value)))
    stems = [name or re.sub(r"\.(pt|cress)$", "", path.name) for name, path in given]
    named = [
        (name or (f"{path.resolve().parent.name}-{stem}" if stems.count(stem) > 1 else stem), path)
        for stem, (name, path) in zip(stems, given)
    ]
    require_distinct([name for name, _ in named])
    return named


def require_distinct(names: Sequence[str]) -> None:
    """Raises ConfigError: two models have the same name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two models are named {twice}: name them, as in NAME=PATH")


def load_models(values: Sequence[str], load: Callable[[Path], RecordingTranslator]) -> Models:
    """Load what ``PATH`` or ``NAME=PATH`` names.

    A model of several target languages is one for each, ``NAME-XX``, of the same weights.

    Args:
        load: makes a translator of a file, for every target language.
    Raises:
        ConfigError, CheckpointError: one cannot be used.
    """
    models: list[ServedModel] = []
    for name, path in named_paths(values):
        translator = load(path)
        translator.require_speech()
        about = os.stat(path)
        several = len(translator.languages) > 1
        for language in translator.languages:
            models.append(
                ServedModel(
                    f"{name}-{language}" if several else name,
                    translator.for_language(language),
                    language,
                    translator.source_language,
                    about.st_size,
                    int(min(about.st_mtime, time.time())),
                    name if several else "",
                )
            )
    families = {model.family for model in models if model.family}
    require_distinct([*families, *(model.name for model in models)])
    return Models(models)
