"""What the commands need to know of a prepared folder."""

from pathlib import Path

from cress_svcd.atomic_files import read_yaml
from cress_svcd.errors import ConfigError


def read_config(data: Path) -> dict:
    """The config of prepared data.

    Raises:
        ConfigError: it is missing, or lacks a key that is needed here.
    """
    path = data / "config.yaml"
    expected = "the output of prepare-mustc"
    config = read_yaml(path, expected)
    tokenizer = config.get("bpe_tokenizer")
    values = {**config, **(tokenizer if isinstance(tokenizer, dict) else {})}
    for key in ("vocab_filename", "bpe_tokenizer", "sentencepiece_model", "tgt_lang"):
        if values.get(key) is None:
            raise ConfigError(f"{path}: no key {key}; expected {expected}")
    return config


def audio_folder(data: Path, config: dict) -> str:
    """Where relative audio paths start; a relative ``audio_root`` starts at the config."""
    return str((data / (config.get("audio_root") or "")).resolve())
