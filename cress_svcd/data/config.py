"""The configuration of a data folder, and its dictionary."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fairseq.data import Dictionary
from fairseq.data.audio.data_cfg import S2TDataConfig

from cress_svcd.atomic_files import read_yaml
from cress_svcd.data.corpus.prepared import audio_folder, with_names_as_written
from cress_svcd.data.corpus.vocabulary import check_dictionary
from cress_svcd.errors import ConfigError


class DataConfig(S2TDataConfig):
    """fairseq's data configuration, with clear errors, as data rather than behaviour."""

    def __init__(self, path: Path):
        # Not by upstream, which reads in the encoding of the locale.
        expected = "the config of 'cress-svcd prepare-mustc' in the data folder (or --config-yaml)"
        config = with_names_as_written(path, read_yaml(path, expected))
        # A key without a value is one that is not there.
        self.config = {key: value for key, value in config.items() if value is not None}
        if not isinstance(self.config.get("bpe_tokenizer", {}), dict):
            raise ConfigError(
                f"{path}: key bpe_tokenizer: {self.config['bpe_tokenizer']!r:.80}; expected keys "
                "and values, as prepare-mustc writes them"
            )
        self.root, self.path = path.parent, path
        if not self.use_audio_input:
            raise ConfigError(
                f"{path}: key use_audio_input must be true: the model reads waveforms"
            )
        self.check_files()

    def check_files(self) -> None:
        """The files that the config names are there, and belong together."""
        named = {"vocab_filename": self.dictionary_path}
        if self.bpe_tokenizer.get("bpe") == "sentencepiece":
            named["bpe_tokenizer.sentencepiece_model"] = Path(
                self.bpe_tokenizer.get("sentencepiece_model", "")
            )
        for key, file in named.items():
            if not file.is_file():
                raise ConfigError(f"{self.path}: key {key}: {file}: no such file")
        if len(named) == 2:
            check_dictionary(named["bpe_tokenizer.sentencepiece_model"], self.dictionary_path)

    @property
    def dictionary_path(self) -> Path:
        return self.root / self.vocab_filename

    @property
    def bpe_tokenizer(self) -> dict:
        """As configured; a relative ``sentencepiece_model`` starts at the config.

        Upstream prefers a file of that name in the working directory.
        """
        tokenizer = dict(self.config.get("bpe_tokenizer") or {"bpe": None})
        if "sentencepiece_model" in tokenizer:
            tokenizer["sentencepiece_model"] = str(self.root / tokenizer["sentencepiece_model"])
        return tokenizer

    @property
    def tgt_langs(self) -> list[str]:
        """Target languages of a corpus of several; empty of one language."""
        return list(self.config.get("tgt_langs", []))

    @property
    def normalize(self) -> bool:
        """``standardize_audio``; upstream it is a method, and as a condition always true."""
        return bool(self.config.get("standardize_audio", False))

    @property
    def absolute_audio_root(self) -> str:
        """``audio_root``; a relative one starts at the config."""
        return audio_folder(self.root, self.config)


def load_dictionary(path: Path) -> Dictionary:
    """Raises ConfigError if ``path`` is no fairseq dictionary."""
    try:
        return Dictionary.load(str(path))
    except Exception as error:  # fairseq raises Exception itself of what is not UTF-8
        reason = next(iter(str(error).strip().splitlines()), "no details")
        raise ConfigError(
            f"{path}: is no fairseq dictionary ({reason:.200}); expected 'token count' in each line"
        ) from None


def dictionary_digest(dictionary: Dictionary) -> str:
    """Short digest of the symbols in their order: the identity of a vocabulary."""
    return hashlib.sha256("\n".join(dictionary.symbols).encode("utf-8")).hexdigest()[:16]


# A checkpoint in runs/st/ belongs to data/ next to runs/.
LEVELS_UP = 2


def find_data(checkpoint: Path, configured: str, config_yaml: str, given: Path | None) -> Path:
    """The folder with the config and the vocabulary of a checkpoint.

    It is ``given``; else the first that has ``config_yaml`` of: where the checkpoint was trained
    (``configured``; a relative one from the working directory, then from the folders below); the
    folder of the checkpoint, those above it up to LEVELS_UP, and ``data`` in each of them.

    Raises:
        ConfigError: there is none.
    """
    folders = [given] if given else list(_data_folders(checkpoint, configured))
    for folder in folders:
        if (folder / config_yaml).is_file():
            return folder
    near = "" if given else f" nor in the {LEVELS_UP} folders above it and their folders data"
    looked = dict.fromkeys([given] if given else [*filter(None, [configured]), checkpoint.parent])
    raise ConfigError(
        f"{checkpoint}: its vocabulary is not found: no {config_yaml} in "
        f"{' nor in '.join(map(str, looked))}{near}; name the folder of prepare-mustc "
        "that it was trained with (--data, in Python data=), or put its config.yaml, dictionary "
        "and sentencepiece model next to the checkpoint"
    )


def _data_folders(checkpoint: Path, configured: str) -> Iterator[Path]:
    # Where the checkpoint is a link, also those around what it leads to.
    starts = dict.fromkeys(path.parent for path in (checkpoint.absolute(), checkpoint.resolve()))
    around = [folder for start in starts for folder in (start, *start.parents)[: LEVELS_UP + 1]]
    if configured:
        yield Path(configured)
        if not Path(configured).is_absolute():
            yield from (folder / configured for folder in around)
    yield from (folder / name for folder in around for name in ("", "data"))
