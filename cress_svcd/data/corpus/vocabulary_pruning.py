"""A smaller vocabulary out of a large one: the tokens that a corpus uses, and fallbacks.

Segmentation stays as it was.  A unigram model chooses the path of highest score through the tokens
that spell a sentence; what it chose is still there with its score, and there is nothing new.  Two
more tokens are kept for that: the scores of unknown characters and of user-defined tokens hang on
the lowest and the highest score in the model.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary
from sentencepiece import sentencepiece_model_pb2
from tqdm import tqdm

from cress_svcd.atomic_files import replacing, write_text
from cress_svcd.data.corpus.vocabulary import check_dictionary, load_sentencepiece
from cress_svcd.errors import ConfigError

SPACE = "▁"
"""How sentencepiece writes a space."""

_LINES_AT_ONCE = 1_000


@dataclasses.dataclass(frozen=True)
class SmallerVocabulary:
    """Result of :func:`prune`: a sentencepiece model, and the entries of the dictionary that stay.

    ``indices`` are those of the large dictionary, ascending, special symbols first: the rows of an
    embedding that stay.
    """

    model: bytes
    dictionary: Dictionary
    indices: list[int]

    def write_model(self, path: str | os.PathLike) -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(self.model)

    def write_dictionary(self, path: str | os.PathLike) -> None:
        """In fairseq's text form, ``token count`` a line, without the special symbols."""
        entries = zip(self.dictionary.symbols, self.dictionary.count)
        lines = [f"{symbol} {count}\n" for symbol, count in entries]
        write_text(path, "".join(lines[self.dictionary.nspecial :]))


def prune(
    model: str | os.PathLike, dictionary: str | os.PathLike, sentences: Sequence[str]
) -> SmallerVocabulary:
    """Keep what the ``sentences`` use of a sentencepiece model and of its fairseq dictionary.

    Also kept: every character of those tokens on its own and the space, so that other words can be
    spelt; all tokens that are not ordinary text; and the entries of the dictionary that are no
    tokens of the model, such as language tags.

    Raises:
        ConfigError: a file is damaged, they do not belong together, or the smaller model would
            segment a sentence in another way (a model of type BPE).
    """
    check_dictionary(model, dictionary)
    entries = Dictionary.load(str(dictionary))
    if len(entries.indices) < len(entries.symbols):
        raise ConfigError(f"{dictionary}: some entries stand in it twice; remove one of each two")
    processor = load_sentencepiece(model)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(Path(model).read_bytes())
    kept = _kept_tokens(proto, used_tokens(processor, sentences))
    known = {piece.piece for piece in proto.pieces}
    smaller = _smaller_model(proto, kept)
    _check_segmentation(model, processor, smaller, sentences)
    indices = [
        index
        for index, symbol in enumerate(entries.symbols)
        if index < entries.nspecial or symbol in kept or symbol not in known
    ]
    return SmallerVocabulary(smaller, _smaller_dictionary(entries, indices), indices)


def used_tokens(
    processor: sentencepiece.SentencePieceProcessor, sentences: Sequence[str]
) -> set[str]:
    """The tokens that the sentences are segmented into."""
    used: set[int] = set()
    for part in _parts(sentences, "tokens in use"):
        for ids in processor.encode(part):
            used.update(ids)
    return {processor.id_to_piece(index) for index in used}


def _kept_tokens(proto, used: set[str]) -> set[str]:
    ordinary = [piece for piece in proto.pieces if piece.type == piece.NORMAL]
    by_score = sorted(ordinary, key=lambda piece: piece.score)
    special = {piece.piece for piece in proto.pieces if piece.type != piece.NORMAL}
    characters = {SPACE, *"".join(used - special)}
    extremes = {piece.piece for piece in (*by_score[:1], *by_score[-1:])}
    return used | special | characters | extremes


def _smaller_model(proto, kept: set[str]) -> bytes:
    # Only these parts: a model may also hold sentences with the tokens that the training expected
    # of them, and refuses to load if they come out otherwise.
    smaller = sentencepiece_model_pb2.ModelProto()
    for part in ("trainer_spec", "normalizer_spec", "denormalizer_spec"):
        if proto.HasField(part):
            getattr(smaller, part).CopyFrom(getattr(proto, part))
    smaller.pieces.extend(piece for piece in proto.pieces if piece.piece in kept)
    smaller.trainer_spec.vocab_size = len(smaller.pieces)
    return smaller.SerializeToString()


def _check_segmentation(
    path: str | os.PathLike,
    processor: sentencepiece.SentencePieceProcessor,
    smaller: bytes,
    sentences: Sequence[str],
) -> None:
    pruned = sentencepiece.SentencePieceProcessor(model_proto=smaller)
    for part in _parts(sentences, "checking"):
        before = processor.encode(part, out_type=str)
        after = pruned.encode(part, out_type=str)
        for sentence, tokens, new_tokens in zip(part, before, after):
            if tokens != new_tokens:
                raise ConfigError(
                    f"{path}: without the tokens that the corpus does not use, {sentence!r:.80} "
                    f"becomes {' '.join(new_tokens)!r:.80} and not {' '.join(tokens)!r:.80}; only "
                    "models of type unigram can be pruned"
                )


def _smaller_dictionary(entries: Dictionary, indices: list[int]) -> Dictionary:
    smaller = Dictionary()
    for index in indices[entries.nspecial :]:
        smaller.add_symbol(entries.symbols[index], entries.count[index])
    return smaller


def _parts(sentences: Sequence[str], title: str) -> Iterable[list[str]]:
    """The sentences in parts, under a progress bar."""
    with tqdm(total=len(sentences), desc=title, unit="lines", unit_scale=True, disable=None) as bar:
        for start in range(0, len(sentences), _LINES_AT_ONCE):
            part = list(sentences[start : start + _LINES_AT_ONCE])
            yield part
            bar.update(len(part))
