"""From a corpus to a folder that training can start from: manifests, vocabulary, text, config.

The work is done in stages, each recorded in ``summary.json`` with a digest of what it was made
from.  A stage whose digest and files are still the same is not done again.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cress_svcd.atomic_files import replacing, write_json, write_text
from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.data.corpus.binary_text import binarize_pairs, text_data_files, write_dictionaries
from cress_svcd.data.corpus.corpora import CORPORA, DEFAULT_CORPUS
from cress_svcd.data.corpus.manifest import Segment, read_manifest, write_manifest
from cress_svcd.data.corpus.prepare_options import PrepareOptions
from cress_svcd.data.corpus.several_languages import LanguagePairs
from cress_svcd.data.corpus.vocabulary import (
    SPECIAL_TOKENS,
    add_entries,
    check_dictionary,
    copy_dictionary,
    load_sentencepiece,
    tag_of,
    train_sentencepiece,
    write_dictionary,
)
from cress_svcd.errors import ConfigError
from cress_svcd.recipes.resumable import Record, Records, Step, digest

logger = logging.getLogger(__name__)

SUMMARY_FILE = "summary.json"
CONFIG_FILE = "config.yaml"
TRAINING_SPLIT = "train"

# To be raised when the same corpus and options give other files than before.
_VERSION = 1
# Writing failed for reasons that the user can mend; any other OSError is a bug of ours.
_USERS_OS_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EMFILE,
)


class Summary(Records):
    """``summary.json``: the result of each finished stage, and a stamp to tell if it still holds.

    A stage is a path of keys, ``splits/train``, where its result stands.  The file is written after
    each stage, so a run that was killed goes on after its last finished one.
    """

    def __init__(self, path: Path, corpus: LanguagePairs, force: bool):
        self.path = path
        self.data: dict[str, Any] = {}
        if path.exists() and not force:
            self._load(corpus)
        self.data |= {
            "version": _VERSION,
            "release": str(corpus.audio_root.resolve()),
            "src_lang": corpus.src_lang,
            "tgt_lang": corpus.tgt_lang,
        }
        self.data.setdefault("stamps", {})

    def _load(self, corpus: LanguagePairs) -> None:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["version"] != _VERSION:
                problem = f"version {data['version']}"
            elif data["tgt_lang"] != corpus.tgt_lang:
                problem = f"it is about {data['tgt_lang']}"
            else:
                data["stamps"].keys()
                self.data = data
                return
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problem = f"{type(error).__name__}: {error}"
        logger.warning("%s is of no use (%s): everything is prepared again", self.path, problem)

    def stage(
        self, name: str, inputs: Any, outputs: Sequence[Path], work: Callable[[], Any]
    ) -> Any:
        """The result of ``work()``, or that of an earlier run on the same inputs.

        ``inputs`` is anything that JSON can hold; ``outputs`` are the files that ``work`` writes.
        """
        return self.run(Step(name, digest([_VERSION, inputs], characters=64), outputs), work)

    def stamp(self, name: str) -> dict | None:
        return self.data["stamps"].get(name)

    def get(self, name: str) -> Any:
        node = self.data
        for key in name.split("/"):
            node = node.get(key, {})
        return node

    def save(self) -> None:
        write_json(self.path, self.data)

    def read(self, name: str) -> Record | None:
        stamp = self.stamp(name)
        if not isinstance(stamp, dict) or not {"inputs", "outputs"} <= stamp.keys():
            return None
        return Record(stamp["inputs"], result=self.get(name), outputs=stamp["outputs"])

    def write(self, name: str, record: Record) -> None:
        *parents, key = name.split("/")
        node = self.data
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = record.result
        self.data["stamps"][name] = {"inputs": record.inputs, "outputs": record.outputs}
        self.save()

    def begin(self, step: Step) -> None:
        if self.data["stamps"].pop(step.name, None):
            self.save()

    def describe_outputs(self, outputs: Sequence[Path]) -> dict[str, int | None]:
        """Sizes of the files, by their places from here."""
        return {
            os.path.relpath(path, self.path.parent): path.stat().st_size if path.exists() else None
            for path in outputs
        }


def prepare(root: str | os.PathLike, out: str | os.PathLike, options: PrepareOptions) -> dict:
    """Prepare a corpus for training in the folder ``out``; return what ``summary.json`` holds.

    Raises ReleaseError for a corpus that is incomplete or contradicts itself, ConfigError for
    options that do not fit each other or the data, and for a folder that cannot be written to.
    """
    out = Path(out)
    _check_options(out, options)
    corpus = LanguagePairs.find(root, options.corpus, options.tgt_lang)
    splits = corpus.find_splits(options.splits)
    with _explaining_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        summary = Summary(out / SUMMARY_FILE, corpus, options.force)
        _check_vocabulary_source(summary, splits, options)
        for split in splits:
            _prepare_manifest(summary, corpus, split, out, options)
        _prepare_vocabulary(summary, corpus, out, options)
        _write_config(summary, corpus, out, options)
        if options.text_data is not None:
            for split in splits:
                for language in corpus.languages:
                    _prepare_text_data(summary, corpus, split, language, out, options)
        summary.save()
    return summary.data


def _check_options(out: Path, options: PrepareOptions) -> None:
    if options.corpus not in CORPORA:
        raise ConfigError(f"--corpus {options.corpus}: expected one of {', '.join(CORPORA)}")
    if options.dictionary is not None and options.spm_model is None:
        raise ConfigError("--dictionary belongs to a --spm-model: give both, or the model alone")
    limits = options.limits
    if not 1 <= limits.min_frames <= limits.max_frames:
        raise ConfigError(
            f"--min-frames {limits.min_frames} --max-frames {limits.max_frames}: expected "
            f"1 <= min <= max, in samples at {SAMPLE_RATE} Hz"
        )
    for name, value in {"--vocab-size": options.vocab_size, "--workers": options.workers}.items():
        if value < 1:
            raise ConfigError(f"{name} {value}: expected 1 or more")
    for folder in (out, options.text_data):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder}: is a file; expected a folder to write to")


def _check_vocabulary_source(
    summary: Summary, splits: Sequence[str], options: PrepareOptions
) -> None:
    """Refuse early what would fail after hours of audio have been read."""
    if options.spm_model is not None:
        load_sentencepiece(options.spm_model)
        if options.dictionary is not None:
            check_dictionary(options.spm_model, options.dictionary, may_have_mark=True)
    elif TRAINING_SPLIT not in splits and summary.stamp(f"splits/{TRAINING_SPLIT}") is None:
        raise ConfigError(
            f"without {TRAINING_SPLIT} among the splits ({' '.join(splits)}) there is no text to "
            f"train a vocabulary on; add it, or give --spm-model and --dictionary"
        )


def _prepare_manifest(
    summary: Summary, corpus: LanguagePairs, split: str, out: Path, options: PrepareOptions
) -> None:
    manifest = out / f"{split}.tsv"
    # Of several languages, each is scored by itself.
    evaluated = corpus.is_several and split != TRAINING_SPLIT
    languages = corpus.languages if evaluated else []
    own = {language: out / f"{split}_{language}.tsv" for language in languages}

    def work() -> dict:
        logger.info("%s: reading", split)
        segments, report = corpus.prepare_split(split, options)
        write_manifest(manifest, segments)
        for language, path in own.items():
            write_manifest(path, _of_language(segments, language))
        return dataclasses.asdict(report)

    inputs = {
        **corpus.fingerprint(split),
        "limits": dataclasses.asdict(options.limits),
        "check_audio": options.check_audio,
        "sample_audio": options.sample_audio,
        "languages": (corpus.src_lang, corpus.tgt_lang),
    }
    if options.corpus != DEFAULT_CORPUS:
        # Stamps from before there was a choice still hold for the default.
        inputs["corpus"] = options.corpus
    summary.stage(f"splits/{split}", inputs, [manifest, *own.values()], work)


def _of_language(segments: Sequence[Segment], language: str) -> list[Segment]:
    return [segment for segment in segments if segment.tgt_lang == language]


def _prepare_vocabulary(
    summary: Summary, corpus: LanguagePairs, out: Path, options: PrepareOptions
) -> None:
    """Train the joint vocabulary on the training manifest, or take over an existing one."""
    tags = [tag_of(language) for language in corpus.languages if corpus.is_several]
    if options.spm_model is None:
        model = out / f"spm_unigram{options.vocab_size}.model"
        dictionary = model.with_suffix(".txt")
        outputs = [model, model.with_suffix(".vocab"), dictionary]
        inputs: Any = [summary.stamp(f"splits/{TRAINING_SPLIT}"), options.vocab_size]
    else:
        model = out / options.spm_model.name
        source = options.dictionary or options.spm_model.with_suffix(".txt")
        dictionary = out / source.name
        outputs = [model, dictionary]
        given = [path for path in (options.spm_model, options.dictionary) if path is not None]
        inputs = [hashlib.sha256(path.read_bytes()).hexdigest() for path in given]
    if tags:
        inputs = [*inputs, tags]

    def work() -> dict:
        if options.spm_model is None:
            train = read_manifest(out / f"{TRAINING_SPLIT}.tsv")
            logger.info("vocabulary: training %d tokens", options.vocab_size)
            texts = [text for name in ("src_text", "tgt_text") for text in train[name]]
            if tags:  # the source language shall not count once for each target language
                texts = list(dict.fromkeys(texts))
            train_sentencepiece(texts, model.with_suffix(""), options.vocab_size)
        else:
            _copy(options.spm_model, model)
        if options.dictionary is not None:
            if not _is_same(options.dictionary, dictionary):
                copy_dictionary(options.dictionary, dictionary)
            add_entries(dictionary, tags)
            entries = check_dictionary(model, dictionary)
        else:
            entries = write_dictionary(model, dictionary, tags)
        return {
            "model": model.name,
            "dictionary": dictionary.name,
            "size": entries + len(SPECIAL_TOKENS),
        }

    summary.stage("vocabulary", inputs, outputs, work)


def _write_config(
    summary: Summary, corpus: LanguagePairs, out: Path, options: PrepareOptions
) -> None:
    """Write ``config.yaml``; what a user has added to an existing one stays."""
    path = out / CONFIG_FILE
    vocabulary = summary.get("vocabulary")
    config = {
        "vocab_filename": vocabulary["dictionary"],
        "bpe_tokenizer": {"bpe": "sentencepiece", "sentencepiece_model": vocabulary["model"]},
        "audio_root": str(corpus.audio_root.resolve()),
        "use_audio_input": True,
        "sample_rate": SAMPLE_RATE,
        "standardize_audio": options.standardize_audio,
        "src_lang": corpus.src_lang,
    }
    gone = "tgt_lang" if corpus.is_several else "tgt_langs"
    languages = {"tgt_lang": corpus.tgt_lang, "tgt_langs": corpus.languages}
    config |= {key: value for key, value in languages.items() if key != gone}
    if not options.force and path.exists():
        with contextlib.suppress(yaml.YAMLError, ValueError, TypeError, RecursionError):
            present = yaml.safe_load(path.read_text(encoding="utf-8"))
            if present | config == present and gone not in present:
                return
            config = {key: value for key, value in (present | config).items() if key != gone}
    write_text(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _prepare_text_data(
    summary: Summary,
    corpus: LanguagePairs,
    split: str,
    language: str,
    out: Path,
    options: PrepareOptions,
) -> None:
    folder = options.text_data
    vocabulary = summary.get("vocabulary")
    languages = [corpus.src_lang, language]
    name = f"{split}_{language}" if corpus.is_several else split
    dictionary = out / vocabulary["dictionary"]

    def work() -> dict:
        logger.info("%s: binarising the texts", name)
        table = read_manifest(out / f"{split}.tsv")
        table = table[table["tgt_lang"] == language]
        texts = dict(zip(languages, (table["src_text"].tolist(), table["tgt_text"].tolist())))
        counts = binarize_pairs(
            split, texts, out / vocabulary["model"], dictionary, folder, options.workers
        )
        write_dictionaries(dictionary, folder, languages)
        return {"folder": str(folder), "sentences": len(table), **counts}

    names = [f"dict.{language}.txt" for language in languages] + text_data_files(split, languages)
    inputs = [summary.stamp(f"splits/{split}"), summary.stamp("vocabulary")]
    summary.stage(f"text_data/{name}", inputs, [folder / file for file in names], work)


def _is_same(source: Path, target: Path) -> bool:
    return target.exists() and target.samefile(source)


def _copy(source: Path, target: Path) -> None:
    if _is_same(source, target):
        return
    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())


@contextlib.contextmanager
def _explaining_os_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _USERS_OS_ERRORS:
            raise
        raise ConfigError(
            f"{error.filename or out}: {error.strerror}; no file was left half-written: mend that "
            f"(free space, permissions, limits) and start again, finished parts are kept"
        ) from error
