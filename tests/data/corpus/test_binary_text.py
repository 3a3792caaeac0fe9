"""Binary text has a sentence for each line, whatever the lines hold."""

import struct

import pytest
from fairseq.data import Dictionary, data_utils

from cress_svcd.data.corpus.binary_text import binarize_pairs, check_binary_pairs
from cress_svcd.data.corpus.vocabulary import train_sentencepiece, write_dictionary
from cress_svcd.errors import ConfigError


def test_characters_that_end_lines_elsewhere_do_not_shift_sentences(tmp_path):
    lines = ["a b", "a\rb", "a\u2028b", "b\u0085a", "a\x0bb", "a\x0cb", "", "b"]
    words = ["a b", "b a", "ab ba", "aa bb"] * 9
    train_sentencepiece(words, tmp_path / "spm", 10)
    write_dictionary(tmp_path / "spm.model", tmp_path / "spm.txt")
    texts = {"en": lines, "de": lines}
    model, dictionary = tmp_path / "spm.model", tmp_path / "spm.txt"
    binarize_pairs("dev", texts, model, dictionary, tmp_path / "out", workers=1)
    entries = Dictionary.load(str(dictionary))
    sentences = data_utils.load_indexed_dataset(str(tmp_path / "out" / "dev.en-de.en"), entries)
    assert len(sentences) == len(lines)
    assert sentences[1].tolist() == sentences[0].tolist()
    assert sentences[6].tolist() == [entries.eos()]


@pytest.mark.parametrize(
    "at, value, said",
    [
        (0, b"x", "is no index of fairseq's binary text"),
        (9, b"\2", "is no index"),
        (26, struct.pack("<i", -1), "do not follow each other"),
        (26 + 4 * 2, struct.pack("<q", 8), "do not follow each other"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, at, value, said):
    train_sentencepiece(["a b", "b a", "ab ba", "aa bb"] * 9, tmp_path / "spm", 10)
    write_dictionary(tmp_path / "spm.model", tmp_path / "spm.txt")
    model, dictionary = tmp_path / "spm.model", tmp_path / "spm.txt"
    texts = {"en": ["a b", "b"], "de": ["b a", "a"]}
    binarize_pairs("dev", texts, model, dictionary, tmp_path, workers=1)
    check_binary_pairs(tmp_path, "dev", ("en", "de"))
    index = tmp_path / "dev.en-de.de.idx"
    content = bytearray(index.read_bytes())
    content[at : at + len(value)] = value
    index.write_bytes(content)
    with pytest.raises(ConfigError, match=f"dev.en-de.de.idx: .*{said}"):
        check_binary_pairs(tmp_path, "dev", ("en", "de"))
