"""Binary text has a sentence for each line, whatever the lines hold."""

from fairseq.data import Dictionary, data_utils

from cress_svcd.data.corpus.binary_text import binarize_pairs
from cress_svcd.data.corpus.vocabulary import train_sentencepiece, write_dictionary


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
