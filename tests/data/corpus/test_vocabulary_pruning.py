"""Pruning a vocabulary: the corpus is segmented as before, other words can be spelt."""

import numpy as np
import pytest
import sentencepiece
from fairseq.data import Dictionary
from sentencepiece import sentencepiece_model_pb2

from cress_svcd.data.corpus.vocabulary import (
    check_dictionary,
    train_sentencepiece,
    write_dictionary,
)
from cress_svcd.data.corpus.vocabulary_pruning import prune
from cress_svcd.errors import ConfigError


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("aeßüжkrstn"), rng.integers(2, 8))) for _ in range(400)]
    return [" ".join(rng.choice(words, 7)) for _ in range(600)]


@pytest.fixture(scope="module")
def large(tmp_path_factory, sentences):
    folder = tmp_path_factory.mktemp("large")
    train_sentencepiece(sentences, folder / "spm", 300)
    write_dictionary(folder / "spm.model", folder / "dict.txt")
    return folder / "spm.model", folder / "dict.txt"


def segment(model, sentences) -> list[list[str]]:
    model = model.read_bytes() if not isinstance(model, bytes) else model
    return sentencepiece.SentencePieceProcessor(model_proto=model).encode(sentences, out_type=str)


def test_the_corpus_is_segmented_as_before(large, sentences):
    corpus = sentences[:10]
    smaller = prune(*large, corpus)
    assert len(smaller.dictionary) < 200
    assert segment(smaller.model, corpus) == segment(large[0], corpus)
    assert segment(smaller.model, sentences) != segment(large[0], sentences)


def test_other_words_are_spelt(large, sentences):
    smaller = prune(*large, sentences[:10])
    processor = sentencepiece.SentencePieceProcessor(model_proto=smaller.model)
    for sentence in sentences:
        ids = processor.encode(sentence)
        assert processor.unk_id() not in ids and processor.decode(ids) == sentence


def test_unknown_characters_split_words_as_before(large, sentences):
    corpus = [sentence.replace("e", "漢字") for sentence in sentences[:30]]
    smaller = prune(*large, corpus)
    assert segment(smaller.model, corpus) == segment(large[0], corpus)


def test_indices_name_the_entries_that_stay(large, sentences, tmp_path):
    smaller = prune(*large, sentences[:10])
    entries = Dictionary.load(str(large[1]))
    assert smaller.dictionary.symbols == [entries.symbols[index] for index in smaller.indices]
    assert smaller.indices[:4] == [0, 1, 2, 3] and smaller.indices == sorted(smaller.indices)
    smaller.write_model(tmp_path / "spm.model")
    smaller.write_dictionary(tmp_path / "dict.txt")
    assert Dictionary.load(str(tmp_path / "dict.txt")) == smaller.dictionary
    check_dictionary(tmp_path / "spm.model", tmp_path / "dict.txt")


def test_entries_that_are_no_tokens_stay(large, sentences, tmp_path):
    path = tmp_path / "dict.txt"
    path.write_text("<lang:de> 1\n" + large[1].read_text() + "<lang:ro> 1\n")
    smaller = prune(large[0], path, sentences[:5])
    assert smaller.dictionary.symbols[4] == "<lang:de>"
    assert smaller.dictionary.symbols[-1] == "<lang:ro>"


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer, shorter than 2^14 bytes."""
    size = bytes([0x80 | len(content) & 0x7F, len(content) >> 7])
    return bytes([number << 3 | 2]) + size + content


def test_tokens_that_are_not_text_stay_and_samples_of_the_training_go(large, sentences, tmp_path):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(large[0].read_bytes())
    proto.pieces.add(piece="<tag>", score=0.0, type=4)  # user-defined
    model, dictionary = tmp_path / "spm.model", tmp_path / "dict.txt"
    expected = " ".join(segment(large[0], [sentences[-1]])[0])
    sample = field(1, field(1, sentences[-1].encode()) + field(2, expected.encode()))
    model.write_bytes(proto.SerializeToString() + field(4, sample))
    write_dictionary(model, dictionary)
    corpus = [f"{sentence} <tag>{sentence}" for sentence in sentences[:5]]
    assert "<tag>" in segment(model, corpus)[0]
    for kept in (corpus, sentences[:5]):
        smaller = prune(model, dictionary, kept)
        assert "<tag>" in smaller.dictionary.indices
        assert segment(smaller.model, kept) == segment(model, kept)
        assert segment(smaller.model, sentences[-1:]) != segment(model, sentences[-1:])


def test_a_model_of_another_type_is_refused(sentences, tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(tmp_path / "bpe"),
        model_type="bpe",
        vocab_size=300,
        minloglevel=2,
    )
    write_dictionary(tmp_path / "bpe.model", tmp_path / "dict.txt")
    with pytest.raises(ConfigError, match="bpe.model: without the tokens.*unigram"):
        prune(tmp_path / "bpe.model", tmp_path / "dict.txt", sentences[:3])


def test_a_dictionary_of_another_model_is_refused(large, tmp_path):
    (tmp_path / "dict.txt").write_text("▁a 1\n▁b 1\n")
    with pytest.raises(ConfigError, match="do not belong together"):
        prune(large[0], tmp_path / "dict.txt", ["a"])
