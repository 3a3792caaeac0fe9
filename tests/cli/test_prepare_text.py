"""Parallel text in fairseq's binary format, with the vocabulary of prepared speech data."""

import json
import shutil

import pytest
import yaml
from fairseq.data import Dictionary, data_utils

from cress_svcd.cli.main import main
from cress_svcd.data.corpus.manifest import read_manifest, write_manifest
from tests.helpers.training_options import make_task

PAIRS = [
    ("the dog sees water.", "der Hund sieht Wasser."),
    ("a woman wants an apple.", "eine Frau will einen Apfel."),
    ("", "der Mann"),
    ("my child takes a red book.", "mein Kind nimmt ein rotes Buch."),
    ("the man", ""),
]


def write_pairs(folder, name, pairs) -> list:
    """The --split option for files with these pairs."""
    for side, language in enumerate(("en", "de")):
        text = "".join(f"{pair[side]}\n" for pair in pairs)
        (folder / f"{name}.{language}").write_text(text, encoding="utf-8")
    return ["--split", name, folder / f"{name}.en", folder / f"{name}.de"]


def run(*arguments) -> int:
    return main(["prepare-text", *map(str, arguments), "--workers", "1"])


def read_back(data, folder, split) -> list[tuple[str, str]]:
    """The pairs of a split, by fairseq's own reader."""
    task = make_task(data, "--ext-mt-training", "--text-data", folder, "--train-subset", split)
    task.load_dataset(split)
    dataset = task.dataset(split)
    return [
        tuple(task.tgt_dict.string(item[side], "sentencepiece") for side in ("source", "target"))
        for item in (dataset[i] for i in range(len(dataset)))
    ]


def counts(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_fairseq_reads_what_was_written(prepared, tmp_path, capsys):
    out = tmp_path / "mt"
    assert run(prepared, "-o", out, *write_pairs(tmp_path, "train", PAIRS)) == 0
    assert read_back(prepared, out, "train") == [pair for pair in PAIRS if all(pair)]
    assert "3 pairs  (left out: empty 2)" in capsys.readouterr().out
    assert counts(out)["train"]["tokens"]["en"]["unknown"] == 0
    raw = data_utils.load_indexed_dataset(
        str(out / "train.en-de.en"), Dictionary.load(str(out / "dict.en.txt"))
    )
    assert len(raw) == 3
    dictionaries = {(out / f"dict.{language}.txt").read_bytes() for language in ("en", "de")}
    assert dictionaries == {(prepared / "spm_unigram50.txt").read_bytes()}
    assert sorted(path.name for path in out.iterdir()) == [
        "dict.de.txt",
        "dict.en.txt",
        "summary.json",
        *(f"train.en-de.{language}.{end}" for language in ("de", "en") for end in ("bin", "idx")),
    ]


def test_a_split_out_of_several_files_keeps_their_order(prepared, tmp_path):
    first = write_pairs(tmp_path, "train", PAIRS[:2])
    (tmp_path / "more").mkdir()
    second = write_pairs(tmp_path / "more", "train", PAIRS[3:4])
    assert run(prepared, "-o", tmp_path / "mt", *first, *second) == 0
    assert read_back(prepared, tmp_path / "mt", "train") == [PAIRS[0], PAIRS[1], PAIRS[3]]


def speech_pairs(prepared, split) -> list[tuple[str, str]]:
    frame = read_manifest(prepared / f"{split}.tsv")
    return list(zip(frame["src_text"], frame["tgt_text"]))


def test_the_text_of_the_speech_comes_after(prepared, tmp_path):
    out = tmp_path / "mt"
    flags = write_pairs(tmp_path, "train", PAIRS[:1])
    assert run(prepared, "-o", out, *flags, "--with-speech-text") == 0
    assert read_back(prepared, out, "train") == [PAIRS[0], *speech_pairs(prepared, "train")]
    assert read_back(prepared, out, "dev") == speech_pairs(prepared, "dev")


def test_a_dev_split_that_is_given_stays_alone(prepared, tmp_path):
    out = tmp_path / "mt"
    flags = write_pairs(tmp_path, "dev", PAIRS[:2])
    assert run(prepared, "-o", out, *flags, "--with-speech-text") == 0
    assert read_back(prepared, out, "dev") == PAIRS[:2]


def test_test_sentences_stay_out_of_training(prepared, tmp_path):
    out = tmp_path / "mt"
    held_out = speech_pairs(prepared, "tst-COMMON")
    flags = write_pairs(tmp_path, "train", [*PAIRS[:2], *held_out[:5], (held_out[0][0], "etwas.")])
    dev = write_pairs(tmp_path, "dev", held_out[:2])
    assert run(prepared, "-o", out, *flags, *dev, "--without", prepared / "tst-COMMON.tsv") == 0
    assert read_back(prepared, out, "train") == PAIRS[:2]
    assert read_back(prepared, out, "dev") == held_out[:2]
    assert counts(out)["train"]["held_out"] == 6


class TestErrors:
    def check(self, capsys, message, *arguments):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err

    @pytest.fixture
    def data(self, prepared, tmp_path):
        return shutil.copytree(prepared, tmp_path / "data")

    @pytest.fixture
    def flags(self, tmp_path):
        return ["-o", tmp_path / "mt", *write_pairs(tmp_path, "train", PAIRS)]

    def test_nothing_to_do(self, prepared, tmp_path, capsys):
        self.check(capsys, "give --split", prepared, "-o", tmp_path / "mt")

    def test_not_a_prepared_folder(self, tmp_path, flags, capsys):
        self.check(capsys, "config.yaml: cannot be read", tmp_path / "nowhere", *flags)

    @pytest.mark.parametrize("content", ["- a", "a: [", ""])
    def test_a_config_that_is_none(self, data, flags, capsys, content):
        (data / "config.yaml").write_text(content)
        self.check(capsys, "config.yaml:", data, *flags)

    @pytest.mark.parametrize(
        "key, value",
        [("tgt_lang", None), ("vocab_filename", None), ("bpe_tokenizer", {"bpe": "sentencepiece"})],
    )
    def test_a_key_is_missing(self, data, flags, capsys, key, value):
        config = yaml.safe_load((data / "config.yaml").read_text())
        config[key] = value
        if value is None:
            del config[key]
        (data / "config.yaml").write_text(yaml.safe_dump(config))
        wanted = "sentencepiece_model" if value else key
        self.check(capsys, f"config.yaml: no key {wanted}", data, *flags)

    def test_files_of_different_length(self, prepared, tmp_path, flags, capsys):
        with open(tmp_path / "train.de", "a") as file:
            file.write("noch eins\n")
        self.check(capsys, "train.de", prepared, *flags)
        assert not list((tmp_path / "mt").glob("*.idx"))

    def test_a_file_that_is_not_there(self, prepared, tmp_path, flags, capsys):
        (tmp_path / "train.de").unlink()
        self.check(capsys, "train.de: ", prepared, *flags)

    def test_a_broken_vocabulary(self, data, flags, capsys):
        (data / "spm_unigram50.model").write_bytes(b"nonsense")
        self.check(capsys, "spm_unigram50.model: is no sentencepiece model", data, *flags)

    def test_everything_is_held_out(self, prepared, tmp_path, capsys):
        flags = write_pairs(tmp_path, "train", PAIRS[:2])
        rows = [
            {"id": str(i), "audio": "a.wav", "n_frames": 5, "src_text": en, "tgt_text": de}
            for i, (en, de) in enumerate(PAIRS[:2])
        ]
        write_manifest(tmp_path / "tst.tsv", rows)
        flags += ["--without", tmp_path / "tst.tsv", "-o", tmp_path / "mt"]
        self.check(capsys, "split train: no pairs are left", prepared, *flags)
