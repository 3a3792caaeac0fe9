"""The subword vocabulary: a sentencepiece model and the fairseq dictionary of its tokens."""

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from cress_svcd.atomic_files import replacing, write_text
from cress_svcd.data.corpus.text import read_lines, starts_with_mark
from cress_svcd.errors import ConfigError

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""fairseq's own first four symbols, in its order: they do not stand in a dictionary file."""

LANGUAGE_TAG = "<lang:{}>"
"""Entry of the vocabulary for a target language of several; fairseq's name for it."""

# The sums of the EM training, and with them the model, depend on the number of threads; a fixed
# number gives the same model on every machine.
_TRAINING_THREADS = 16
# Enough for all of MuST-C (some 540,000 lines); more is sampled, so that memory stays below 4 GB.
_MAX_SENTENCES = 2_000_000
_MAX_SENTENCE_BYTES = 10_000
_SEED = 1
# Models trained elsewhere may know a few tokens (language tags, ...) that a dictionary leaves out.
_MAX_UNKNOWN_TOKENS = 0.01
_OVERWRITE = " #fairseq:overwrite"


def train_sentencepiece(sentences: Iterable[str], prefix: Path, vocab_size: int) -> None:
    """Train a unigram model of exactly ``vocab_size`` tokens; write PREFIX.model, PREFIX.vocab.

    The same sentences in the same order give the same model.  Raises ConfigError if they do not
    allow so many tokens, or need more of them for their characters alone.
    """
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(_SEED)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=1.0,
            input_sentence_size=_MAX_SENTENCES,
            shuffle_input_sentence=True,
            max_sentence_length=_MAX_SENTENCE_BYTES,
            num_threads=_TRAINING_THREADS,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(_explain(str(error), vocab_size)) from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    with replacing(f"{prefix}.model") as temporary:
        temporary.write_bytes(model.getvalue())
    ids = range(processor.get_piece_size())
    write_text(
        f"{prefix}.vocab",
        "".join(f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in ids),
    )


def _explain(message: str, vocab_size: int) -> str:
    if found := re.search(r"too high .*<= (\d+)", message):
        return (
            f"--vocab-size {vocab_size}: the training text allows {found[1]} tokens at most; "
            f"give --vocab-size {found[1]} or less, or an existing --spm-model"
        )
    if found := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return (
            f"--vocab-size {vocab_size}: the characters of the training text alone need "
            f"{found[1]} tokens; give a larger --vocab-size"
        )
    return f"--vocab-size {vocab_size}: sentencepiece cannot train on this text ({message.strip()})"


def tag_of(language: str) -> str:
    """The vocabulary's entry for a target language."""
    return LANGUAGE_TAG.format(language)


def load_sentencepiece(path: str | os.PathLike) -> sentencepiece.SentencePieceProcessor:
    """Raises ConfigError for a file that is missing or no sentencepiece model."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        # An empty model would load, and fail at the first sentence.
        if not data:
            raise RuntimeError("empty file")
        return sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError:
        raise ConfigError(
            f"{path}: is no sentencepiece model; expected a file that ends in .model, as "
            f"spm_train or prepare-mustc writes it"
        ) from None


def write_dictionary(
    model: str | os.PathLike, path: str | os.PathLike, further: Sequence[str] = ()
) -> int:
    """Write a model's fairseq dictionary, ``token 1`` a line; return the number of lines.

    The special symbols, which fairseq puts in front itself, are left out; ``further`` entries come
    last.
    """
    tokens = [token for token in _tokens(model) if token not in SPECIAL_TOKENS]
    tokens += [token for token in further if token not in tokens]
    write_text(path, "".join(f"{token} 1\n" for token in tokens))
    return len(tokens)


def copy_dictionary(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copy a dictionary byte for byte, except for a byte-order mark, which fairseq cannot read."""
    if starts_with_mark(source):
        write_text(target, "".join(f"{line}\n" for line in read_lines(source, ConfigError)))
        return
    with replacing(target) as temporary:
        temporary.write_bytes(Path(source).read_bytes())


def add_entries(path: str | os.PathLike, further: Sequence[str]) -> None:
    """Add those entries to a dictionary that it lacks."""
    lines = read_lines(path, ConfigError)
    there = {line.removesuffix(_OVERWRITE).rpartition(" ")[0] for line in lines}
    missing = [f"{token} 1" for token in further if token not in there]
    if missing:
        write_text(path, "".join(f"{line}\n" for line in [*lines, *missing]))


def check_dictionary(
    model: str | os.PathLike, dictionary: str | os.PathLike, may_have_mark: bool = False
) -> int:
    """Return the number of entries of a fairseq dictionary after checking that it fits ``model``.

    ``may_have_mark`` skips a byte-order mark, for a file that :func:`copy_dictionary` will copy.

    Raises ConfigError for a byte-order mark, which fairseq would take for a part of the first
    token, lines that are not ``token count``, tokens that occur twice, and if more than one in a
    hundred of the model's tokens are not in it.
    """
    lines_of: dict[str, int] = {}
    if not may_have_mark and os.path.isfile(dictionary) and starts_with_mark(dictionary):
        raise ConfigError(
            f"{dictionary}:1: begins with a byte-order mark, which fairseq takes for a part of the "
            f"first token; save it as UTF-8 without one"
        )
    for number, line in enumerate(read_lines(dictionary, ConfigError), start=1):
        line = line.rstrip()
        token, _, count = line.removesuffix(_OVERWRITE).rpartition(" ")
        if not token or not (count.isascii() and count.isdigit()):
            raise ConfigError(
                f"{dictionary}:{number}: {line!r:.80}; expected 'token count' (to have the "
                f"dictionary made from the model, leave --dictionary out)"
            )
        if token in lines_of and not line.endswith(_OVERWRITE):
            raise ConfigError(
                f"{dictionary}:{number}: {token!r} stands already in line {lines_of[token]}; "
                f"remove one of the two"
            )
        lines_of[token] = number
    tokens = [token for token in _tokens(model) if token not in SPECIAL_TOKENS]
    unknown = [token for token in tokens if token not in lines_of]
    if len(unknown) > _MAX_UNKNOWN_TOKENS * len(tokens):
        raise ConfigError(
            f"{dictionary}: lacks {len(unknown)} of the {len(tokens)} tokens of {model} "
            f"({' '.join(unknown[:5])} ...): they do not belong together; give the dictionary that "
            f"was made from this model, or leave --dictionary out"
        )
    return len(lines_of)


def _tokens(model: str | os.PathLike) -> list[str]:
    processor = load_sentencepiece(model)
    return [
        processor.id_to_piece(i)
        for i in range(processor.get_piece_size())
        if not (processor.is_unknown(i) or processor.is_control(i))
    ]
