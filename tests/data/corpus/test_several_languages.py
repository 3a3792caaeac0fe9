"""prepare-mustc of several target languages into one corpus."""

import json

import pytest
import yaml

from cress_svcd.cli.main import main
from cress_svcd.data.audio import parse_audio_spec, read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.corpus.prepared import read_config
from cress_svcd.errors import ConfigError
from tests.helpers.two_languages import add_romanian, to_romanian

SPLITS = {"train": 40, "dev": 12, "tst-COMMON": 12}


def prepare(root, out, languages, *options):
    command = ["prepare-mustc", str(root), "-o", str(out), "--tgt-lang", languages]
    return main([*command, "--workers", "1", *map(str, options)])


def config_of(folder) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("split", SPLITS)
def test_a_manifest_has_both_languages_one_after_the_other(two_languages, split):
    frame, count = read_manifest(two_languages / f"{split}.tsv"), SPLITS[split]
    assert frame["tgt_lang"].tolist() == ["de"] * count + ["ro"] * count
    assert all(name.startswith(f"{code}_") for name, code in zip(frame["id"], frame["tgt_lang"]))
    romanian = frame[count:]
    assert romanian["tgt_text"].tolist() == [to_romanian(text) for text in romanian["src_text"]]


def test_all_but_training_also_have_a_manifest_of_each_language(two_languages):
    own = {path.name for path in two_languages.glob("*_*.tsv")}
    assert own == {"dev_de.tsv", "dev_ro.tsv", "tst-COMMON_de.tsv", "tst-COMMON_ro.tsv"}
    whole, romanian = (
        read_manifest(two_languages / f"tst-COMMON{name}.tsv") for name in ("", "_ro")
    )
    assert romanian["id"].tolist() == whole["id"].tolist()[12:]


def test_the_audio_is_found_under_one_root(two_languages):
    root = config_of(two_languages)["audio_root"]
    for audio, frames in read_manifest(two_languages / "dev.tsv")[["audio", "n_frames"]].values:
        spec = parse_audio_spec(f"{root}/{audio}")
        assert len(read_audio(spec)) == frames


def test_the_vocabulary_ends_with_the_tags(two_languages):
    config = config_of(two_languages)
    assert config["tgt_langs"] == ["de", "ro"]
    assert "tgt_lang" not in config
    lines = (two_languages / config["vocab_filename"]).read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["<lang:de> 1", "<lang:ro> 1"]
    assert len(lines) == 70 - 4 + 2


def test_binary_text_of_each_language(two_languages):
    names = {path.name for path in (two_languages / "binary").glob("train.*.idx")}
    assert names == {
        "train.en-de.en.idx",
        "train.en-de.de.idx",
        "train.en-ro.en.idx",
        "train.en-ro.ro.idx",
    }


def test_again_with_one_language_and_back(two_languages, spoken_release, tmp_path, capsys):
    root = add_romanian(spoken_release, tmp_path / "root")
    out = tmp_path / "out"
    options = ("--vocab-size", "50")
    assert prepare(root, out, "de", *options) == 0
    assert config_of(out)["tgt_lang"] == "de"
    assert prepare(root, out, "de,ro", "--vocab-size", "70") == 0
    assert config_of(out)["tgt_langs"] == ["de", "ro"]
    assert "tgt_lang" not in config_of(out)
    before = (out / "train.tsv").stat().st_mtime_ns
    assert prepare(root, out, "de,ro", "--vocab-size", "70") == 0
    assert (out / "train.tsv").stat().st_mtime_ns == before
    assert prepare(root, out, "de", *options) == 0
    assert config_of(out)["tgt_lang"] == "de"
    assert "tgt_langs" not in config_of(out)
    assert len(read_manifest(out / "train.tsv")) == 40


def test_a_given_dictionary_gets_the_tags_it_lacks(two_languages, spoken_release, tmp_path):
    config = config_of(two_languages)
    model = two_languages / config["bpe_tokenizer"]["sentencepiece_model"]
    given = tmp_path / "dict.txt"
    lines = (two_languages / config["vocab_filename"]).read_text(encoding="utf-8").splitlines()
    given.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
    root = add_romanian(spoken_release, tmp_path / "root")
    options = ("--spm-model", model, "--dictionary", given)
    assert prepare(root, tmp_path / "out", "de,ro", *options) == 0
    written = (tmp_path / "out" / "dict.txt").read_text(encoding="utf-8").splitlines()
    assert written == lines
    assert given.read_text(encoding="utf-8").splitlines() == lines[:-1]


@pytest.mark.parametrize(
    "languages, message",
    [
        ("de,de", "--tgt-lang de,de: 'de' stands twice"),
        ("de,xx", "has no en-xx"),
        ("de,", "--tgt-lang : expected the code of a language"),
        ("de,en", "--tgt-lang en: expected the code of a language other than en"),
    ],
)
def test_languages_that_cannot_be(spoken_release, tmp_path, capsys, languages, message):
    assert prepare(spoken_release, tmp_path / "out", languages) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.yaml").exists()


class TestPrepareText:
    def test_of_a_language(self, two_languages, tmp_path):
        for code in ("de", "ro"):
            command = ["prepare-text", two_languages, "-o", tmp_path, "--tgt-lang", code]
            assert main([*map(str, command), "--with-speech-text", "--workers", "1"]) == 0
            counts = json.loads((tmp_path / f"summary.{code}.json").read_text())
            assert counts["train"]["pairs"] == 40
        for name in ("binary/train.en-ro.ro.bin", "binary/train.en-de.en.bin"):
            own = tmp_path / name.removeprefix("binary/")
            assert own.read_bytes() == (two_languages / name).read_bytes()

    @pytest.mark.parametrize(
        "options, message",
        [
            ([], "is of de, ro: choose one with --tgt-lang"),
            (["--tgt-lang", "fr"], "--tgt-lang fr: the data is of de, ro"),
        ],
    )
    def test_without_one(self, two_languages, tmp_path, capsys, options, message):
        command = ["prepare-text", str(two_languages), "-o", str(tmp_path), *options]
        assert main([*command, "--with-speech-text"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", ["de", "[de]", "[de, de]", "[de, [ro]]", "{de: ro}", "[]"])
def test_languages_of_a_config_that_cannot_be(two_languages, tmp_path, value, capsys):
    text = (two_languages / "config.yaml").read_text().split("tgt_langs:")[0]
    (tmp_path / "config.yaml").write_text(f"{text}tgt_langs: {value}\n")
    with pytest.raises(ConfigError, match="config.yaml: key tgt_langs: .*two languages or more"):
        read_config(tmp_path)


def test_norwegian_is_a_language(two_languages, tmp_path):
    text = (two_languages / "config.yaml").read_text().split("tgt_langs:")[0]
    (tmp_path / "config.yaml").write_text(f"{text}tgt_langs: [no, de]\n")
    assert read_config(tmp_path)["tgt_langs"] == ["no", "de"]
