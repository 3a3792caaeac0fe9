"""Vocabulary: the same model every time, and a dictionary that fairseq reads with the same ids."""

import numpy as np
import pytest
import sentencepiece
from fairseq.data import Dictionary

from cress_svcd.data.corpus.vocabulary import (
    SPECIAL_TOKENS,
    check_dictionary,
    copy_dictionary,
    load_sentencepiece,
    train_sentencepiece,
    write_dictionary,
)
from cress_svcd.errors import ConfigError


@pytest.fixture
def sentences() -> list[str]:
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("aeßüжk"), rng.integers(2, 8))) for _ in range(200)]
    return [" ".join(rng.choice(words, 7)) for _ in range(300)]


@pytest.fixture
def model(tmp_path, sentences):
    train_sentencepiece(sentences, tmp_path / "spm", 60)
    return tmp_path / "spm.model"


def test_training_is_deterministic(tmp_path, sentences, model):
    train_sentencepiece(sentences, tmp_path / "again", 60)
    assert (tmp_path / "again.model").read_bytes() == model.read_bytes()
    assert (tmp_path / "again.vocab").read_text() == (tmp_path / "spm.vocab").read_text()


def test_dictionary_has_the_ids_of_the_model(tmp_path, sentences, model):
    assert write_dictionary(model, tmp_path / "spm.txt") == 60 - len(SPECIAL_TOKENS)
    assert check_dictionary(model, tmp_path / "spm.txt") == 60 - len(SPECIAL_TOKENS)
    dictionary = Dictionary.load(str(tmp_path / "spm.txt"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert dictionary.symbols == [processor.id_to_piece(i) for i in range(60)]
    for sentence in sentences[:20]:
        tokens = processor.encode(sentence, out_type=str)
        ids = dictionary.encode_line(" ".join(tokens), append_eos=False).tolist()
        assert ids == processor.encode(sentence)
        assert processor.decode(tokens) == sentence


def test_vocab_file_lists_tokens_and_scores(model, tmp_path):
    lines = [line.split("\t") for line in (tmp_path / "spm.vocab").read_text().splitlines()]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert [token for token, _ in lines] == [processor.id_to_piece(i) for i in range(60)]
    assert [float(score) for _, score in lines] == pytest.approx(
        [processor.get_score(i) for i in range(60)], rel=1e-4
    )


def test_too_many_tokens_for_the_text_says_how_many_there_can_be(tmp_path, sentences):
    with pytest.raises(ConfigError, match=r"--vocab-size 5000: .* allows (\d+) tokens") as caught:
        train_sentencepiece(sentences, tmp_path / "a", 5_000)
    remedy = int(str(caught.value).split("give --vocab-size ")[1].split()[0])
    train_sentencepiece(sentences, tmp_path / "a", remedy)
    assert len((tmp_path / "a.vocab").read_text().splitlines()) == remedy


def test_too_few_tokens_for_the_characters(tmp_path, sentences):
    with pytest.raises(ConfigError, match=r"--vocab-size 10: the characters .* need \d+ tokens"):
        train_sentencepiece(sentences, tmp_path / "a", 10)
    with pytest.raises(ConfigError, match="--vocab-size 10: sentencepiece cannot train"):
        train_sentencepiece([], tmp_path / "a", 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"no model at all", b"\x00" * 100])
def test_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "a.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="a.model: (cannot be read|is no sentencepiece model)"):
        load_sentencepiece(path)


def test_dictionary_that_is_broken(tmp_path, model):
    path = tmp_path / "dict.txt"
    write_dictionary(model, path)
    content = path.read_text()
    first = content.split(" 1\n")[0]
    for broken, message in {
        content + "lonely\n": "dict.txt:57: 'lonely'; expected 'token count'",
        content + "a b\n": "dict.txt:57: 'a b'",
        content + f"{first} 7\n": f"dict.txt:57: '{first}' stands already in line 1",
    }.items():
        path.write_text(broken)
        with pytest.raises(ConfigError, match=message):
            check_dictionary(model, path)
    path.write_text(content + f"{first} 7 #fairseq:overwrite\n")
    assert check_dictionary(model, path) == 56


def test_dictionary_of_another_model(tmp_path, sentences, model):
    train_sentencepiece([s.upper() for s in sentences], tmp_path / "other", 60)
    write_dictionary(tmp_path / "other.model", tmp_path / "other.txt")
    with pytest.raises(ConfigError, match=r"other.txt: lacks \d+ of the 56 tokens of .*spm.model"):
        check_dictionary(model, tmp_path / "other.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark_of_a_dictionary(tmp_path, model, encoding):
    plain, marked, copy = (tmp_path / f"{name}.txt" for name in ("plain", "marked", "copy"))
    write_dictionary(model, plain)
    marked.write_text(plain.read_text(encoding="utf-8"), encoding=encoding)
    with pytest.raises(ConfigError, match="marked.txt:1: begins with a byte-order mark"):
        check_dictionary(model, marked)
    assert check_dictionary(model, marked, may_have_mark=True) == 56
    for source in (plain, marked):
        copy_dictionary(source, copy)
        assert copy.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("count", ["1,5", "1.5", "1e3", "\u00b2", "-1", "nan"])
def test_counts_that_are_no_whole_numbers(tmp_path, model, count):
    write_dictionary(model, tmp_path / "dict.txt")
    with open(tmp_path / "dict.txt", "a", encoding="utf-8") as file:
        file.write(f"zebra {count}\n")
    with pytest.raises(ConfigError, match="dict.txt:57: .*expected 'token count'"):
        check_dictionary(model, tmp_path / "dict.txt")
