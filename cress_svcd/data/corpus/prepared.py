"""What the commands need to know of a prepared folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cress_svcd.atomic_files import read_yaml
from cress_svcd.data.corpus.text import read_lines
from cress_svcd.errors import ConfigError


def read_config(data: Path) -> dict:
    """The config of prepared data.

    Raises:
        ConfigError: it is missing, lacks a key that is needed here, or has no text for a name.
    """
    path = data / "config.yaml"
    expected = "the output of prepare-mustc"
    config = with_names_as_written(path, read_yaml(path, expected))
    tokenizer = config.get("bpe_tokenizer")
    values = {**config, **(tokenizer if isinstance(tokenizer, dict) else {})}
    languages = "tgt_langs" if config.get("tgt_langs") else "tgt_lang"
    for key in ("vocab_filename", "bpe_tokenizer", "sentencepiece_model", languages):
        if values.get(key) is None:
            raise ConfigError(f"{path}: no key {key}; expected {expected}")
    return config


_NAMES = ("vocab_filename", "audio_root", "src_lang", "tgt_lang")


def with_names_as_written(path: Path, config: dict) -> dict:
    """The config that was read from ``path``, with names as text: to YAML, Norwegian is false.

    Raises:
        ConfigError: a list or a mapping stands where a name belongs.
    """
    text = yaml.load("\n".join(read_lines(path, ConfigError)), yaml.BaseLoader)
    config = _as_written(path, config, text, _NAMES)
    if config.get("tgt_langs") is not None:
        config["tgt_langs"] = _languages(path, text["tgt_langs"])
    if isinstance(config.get("bpe_tokenizer"), dict):
        written = text["bpe_tokenizer"]
        tokenizer = _as_written(path, config["bpe_tokenizer"], written, ("sentencepiece_model",))
        config["bpe_tokenizer"] = tokenizer
    return config


def _languages(path: Path, names: Any) -> list[str]:
    """The target languages of a corpus of several."""
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and name for name in names)
        or not 1 < len(names) == len(set(names))
    ):
        raise ConfigError(
            f"{path}: key tgt_langs: {names!r:.80}; expected a list of two languages or more, "
            "each once, as [de, ro]"
        )
    return names


def _as_written(path: Path, values: dict, text: dict, names: Sequence[str]) -> dict:
    as_written: dict[str, Any] = {}
    for key in names:
        if values.get(key) is None or isinstance(values[key], str):
            continue
        if not isinstance(text[key], str):
            raise ConfigError(f"{path}: key {key}: {values[key]!r:.80}; expected a name")
        as_written[key] = text[key]
    return values | as_written


def target_languages(config: dict, chosen: str | None = None) -> list[str]:
    """The target languages of prepared data, or the one of them that was chosen.

    Raises:
        ConfigError: it is not one of them.
    """
    languages = config.get("tgt_langs") or [config["tgt_lang"]]
    if chosen is not None and chosen not in languages:
        raise ConfigError(f"--tgt-lang {chosen}: the data is of {', '.join(languages)}")
    return [chosen] if chosen is not None else list(languages)


def audio_folder(data: Path, config: dict) -> str:
    """Where relative audio paths start; a relative ``audio_root`` starts at the config."""
    return str((data / (config.get("audio_root") or "")).resolve())
