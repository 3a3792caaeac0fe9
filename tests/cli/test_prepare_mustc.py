"""The command from release to prepared folder: what it writes, keeps, redoes and refuses."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import sentencepiece
import yaml
from fairseq.data import Dictionary, data_utils
from fairseq.data.audio.data_cfg import S2TDataConfig

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from tests.helpers.mustc_release import make_release

VOCABULARY = ["--vocab-size", "60"]


@pytest.fixture
def release(tmp_path):
    make_release(tmp_path / "release")
    return tmp_path / "release"


def prepare(release, out, *options, language="de") -> int:
    return main(["prepare-mustc", str(release), "-o", str(out), "--tgt-lang", language, *options])


def error_of(capsys, *arguments, **keywords) -> str:
    """The message of a command that must fail."""
    capsys.readouterr()
    assert prepare(*arguments, **keywords) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("cress-svcd prepare-mustc: error: ")
    return message


def state(folder) -> dict:
    """Content and time of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


def contents(folder) -> dict:
    return {name: content for name, (content, _) in state(folder).items()}


def test_prepared_folder(release, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(release, out, *VOCABULARY, "--text-data", "--workers", "2") == 0
    printed = capsys.readouterr().out
    assert re.search(r"train +36 +0\.00 +0\n", printed)
    assert str(out / "config.yaml") in printed

    spm = [f"spm_unigram60.{suffix}" for suffix in ("model", "vocab", "txt")]
    splits = ("train", "dev", "tst-COMMON")
    binary = [
        f"{s}.en-de.{side}.{e}" for s in splits for side in ("en", "de") for e in ("bin", "idx")
    ]
    names = [*spm, "config.yaml", "summary.json", *(f"{split}.tsv" for split in splits)]
    names += [f"binary/{name}" for name in [*binary, "dict.en.txt", "dict.de.txt"]]
    assert set(state(out)) == set(names)

    config = S2TDataConfig(out / "config.yaml")
    assert config.vocab_filename == "spm_unigram60.txt"
    assert config.bpe_tokenizer["sentencepiece_model"] == str(out / "spm_unigram60.model")
    assert (config.use_audio_input, config.sample_rate) == (True, 16_000)
    assert config.config["standardize_audio"] is False
    assert (config.config["src_lang"], config.config["tgt_lang"]) == ("en", "de")
    table = read_manifest(out / "train.tsv")
    for row in table.to_dict("records"):
        assert len(read_audio(row["audio"], config.audio_root)) == row["n_frames"]

    summary = json.loads((out / "summary.json").read_text())
    assert summary["splits"]["train"]["segments"] == len(table) == 36
    assert summary["vocabulary"]["size"] == 60


def test_text_data_is_the_manifest_in_tokens(release, tmp_path):
    out = tmp_path / "out"
    prepare(release, out, *VOCABULARY, "--text-data", str(tmp_path / "text"))
    model = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm_unigram60.model"))
    for language, column in (("en", "src_text"), ("de", "tgt_text")):
        dictionary = Dictionary.load(str(tmp_path / "text" / f"dict.{language}.txt"))
        for split in ("train", "dev"):
            data = data_utils.load_indexed_dataset(
                str(tmp_path / "text" / f"{split}.en-de.{language}"), dictionary
            )
            texts = read_manifest(out / f"{split}.tsv")[column]
            assert len(data) == len(texts)
            for ids, text in zip(data, texts):
                assert ids.tolist() == [*model.encode(text), dictionary.eos()]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["text_data"]["train"]["de"]["unknown"] == 0


def test_two_runs_give_the_same_bytes(release, tmp_path):
    for name, workers in (("a", "1"), ("b", "3")):
        prepare(release, tmp_path / name, *VOCABULARY, "--text-data", "--workers", workers)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    for files in (first, second):
        del files["summary.json"]  # names the folder
    assert first == second


def test_second_run_changes_nothing(release, tmp_path, capsys):
    options = [release, tmp_path / "out", *VOCABULARY, "--text-data"]
    prepare(*options)
    before, printed = state(tmp_path / "out"), capsys.readouterr().out
    prepare(*options)
    after = state(tmp_path / "out")
    assert {n: s for n, s in after.items() if n != "summary.json"} == {
        n: s for n, s in before.items() if n != "summary.json"
    }
    assert capsys.readouterr().out == printed
    prepare(*options, "--force")
    forced = state(tmp_path / "out")
    assert all(forced[name][1] > time for name, (_, time) in before.items())
    assert contents(tmp_path / "out") == {name: content for name, (content, _) in before.items()}


def test_only_what_changed_is_done_again(release, tmp_path):
    out = tmp_path / "out"
    prepare(release, out, *VOCABULARY, "--text-data")
    before = state(out)
    path = release / "en-de" / "data" / "dev" / "txt" / "dev.de"
    path.write_text(path.read_text().replace(".", "!"))
    (out / "tst-COMMON.tsv").unlink()
    prepare(release, out, *VOCABULARY, "--text-data")
    redone = {name for name, (_, time) in state(out).items() if before[name][1] != time}
    assert {"dev.tsv", "tst-COMMON.tsv", "binary/dev.en-de.de.bin"} <= redone
    assert not {"train.tsv", "spm_unigram60.model", "binary/train.en-de.de.bin"} & redone
    assert "!" in read_manifest(out / "dev.tsv")["tgt_text"][0]


def test_stamps_are_those_of_before_there_was_a_choice_of_corpora(release, tmp_path):
    """The digest is what the version that knew MuST-C alone wrote for these names, sizes, times."""
    for path in release.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    prepare(release, tmp_path / "out", *VOCABULARY, "--splits", "train")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["stamps"]["splits/train"]["inputs"] == (
        "ef643581415c9830315495812f6076a4621dc201333cf33f2c4544af3178cd2e"
    )


def test_options_that_change_are_noticed(release, tmp_path):
    out = tmp_path / "out"
    prepare(release, out, *VOCABULARY)
    prepare(release, out, "--vocab-size", "50", "--standardize-audio", "--splits", "dev")
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["vocab_filename"] == "spm_unigram50.txt"
    assert config["standardize_audio"] is True
    assert len((out / "spm_unigram50.txt").read_text().splitlines()) == 46
    # Of the splits that were not asked for this time, the summary still tells.
    assert set(json.loads((out / "summary.json").read_text())["splits"]) == {
        "train",
        "dev",
        "tst-COMMON",
    }


def test_what_a_user_adds_to_the_config_stays(release, tmp_path):
    out = tmp_path / "out"
    prepare(release, out, *VOCABULARY)
    with open(out / "config.yaml", "a") as file:
        file.write("shuffle: true\n")
    prepare(release, out, *VOCABULARY, "--standardize-audio")
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["shuffle"] is True and config["standardize_audio"] is True


def test_existing_vocabulary_is_taken_over(release, tmp_path, capsys):
    prepare(release, tmp_path / "a", *VOCABULARY)
    model, dictionary = tmp_path / "a/spm_unigram60.model", tmp_path / "a/spm_unigram60.txt"
    given = ["--spm-model", str(model), "--dictionary", str(dictionary)]
    out = tmp_path / "b"
    assert prepare(release, out, "--splits", "dev", *given, "--text-data") == 0
    for path in (model, dictionary):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not (out / "train.tsv").exists()
    # The model alone is enough; and it may lie in the output folder already.
    (out / "spm_unigram60.txt").unlink()
    options = ["--splits", "dev", "--spm-model", str(out / "spm_unigram60.model")]
    assert prepare(release, out, *options) == 0
    assert (out / "spm_unigram60.txt").read_bytes() == dictionary.read_bytes()

    message = error_of(capsys, release, out, "--dictionary", str(dictionary))
    assert "--dictionary belongs to a --spm-model" in message
    dictionary.write_text("foreign 1\n")
    assert "lacks" in error_of(capsys, release, tmp_path / "c", *given)
    assert not list((tmp_path / "c").glob("*.tsv"))


def test_another_language_and_en_folder_itself(tmp_path, capsys):
    make_release(tmp_path, "uk")
    out = tmp_path / "out"
    assert prepare(tmp_path / "en-uk", out, *VOCABULARY, "--text-data", language="uk") == 0
    assert (out / "binary" / "train.en-uk.uk.idx").exists()
    message = error_of(capsys, tmp_path, out, language="de")
    assert "no en-de (--tgt-lang de); languages found: uk" in message
    for language in ("en", "../x", ""):
        assert "expected the code" in error_of(capsys, tmp_path, out, language=language)


def test_output_folder_of_another_language_is_prepared_again(tmp_path):
    for language in ("ro", "de"):
        make_release(tmp_path, language)
        prepare(tmp_path, tmp_path / "out", *VOCABULARY, "--splits", "train", language=language)
    assert set(read_manifest(tmp_path / "out" / "train.tsv")["tgt_lang"]) == {"de"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--vocab-size", "0"], "--vocab-size 0: expected 1 or more"),
        (["--min-frames", "9", "--max-frames", "8"], "expected 1 <= min <= max"),
        (["--splits", "dev"], "without train among the splits (dev)"),
        (["--splits", "nowhere"], "no split nowhere; found dev train tst-COMMON"),
        (["--vocab-size", "9000"], "allows"),
        (["--vocab-size", "5"], "the characters of the training text alone need"),
        (["--spm-model", "absent.model"], "absent.model: cannot be read"),
        (["--min-frames", "7201"], "none of 36 segments can be used (too short: 36)"),
    ],
)
def test_options_that_cannot_work(release, tmp_path, capsys, options, message):
    assert message in error_of(capsys, release, tmp_path / "out", *options)


def test_output_that_is_a_file(release, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert "out: is a file" in error_of(capsys, release, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_broken_release_leaves_the_finished_splits_and_no_half_file(release, tmp_path, capsys):
    path = release / "en-de" / "data" / "dev" / "txt" / "dev.yaml"
    path.write_text(path.read_text() + "- {offset: 1}\n")
    assert "dev.yaml:37: row 37: no wav" in error_of(capsys, release, tmp_path / "out", *VOCABULARY)
    assert set(state(tmp_path / "out")) == {"train.tsv", "summary.json"}


def test_damaged_summary_is_no_obstacle(release, tmp_path):
    out = tmp_path / "out"
    prepare(release, out, *VOCABULARY)
    before = contents(out)
    for damaged in ("{", "[]", '{"version": 0, "stamps": {}}', '{"version": 1}'):
        (out / "summary.json").write_text(damaged)
        assert prepare(release, out, *VOCABULARY) == 0
        assert contents(out) == before


def command(release, out) -> list[str]:
    arguments = ["prepare-mustc", str(release), "-o", str(out), "--tgt-lang", "de", "--text-data"]
    return [sys.executable, "-m", "cress_svcd.cli.main", *arguments, *VOCABULARY]


@pytest.mark.slow
def test_full_disk(release, tmp_path):
    """A limit on the size of files stands for the disk: writing fails in the middle as there."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096))

    out = tmp_path / "out"
    result = subprocess.run(
        command(release, out), preexec_fn=limit, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 2, result.stderr
    assert "File too large; no file was left half-written" in result.stderr
    assert "Traceback" not in result.stderr
    assert set(state(out)) <= {"summary.json", "dev.tsv", "tst-COMMON.tsv"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["train.tsv", "spm_unigram60.txt", "binary/.train.part"])
def test_killed_run_is_taken_up(release, tmp_path, moment):
    """What a killed run has written is whole, and the next run completes it."""
    reference, out = tmp_path / "reference", tmp_path / "out"
    prepare(release, reference, *VOCABULARY, "--text-data")
    expected = contents(reference)
    expected_summary = json.loads(expected.pop("summary.json"))

    process = subprocess.Popen(
        command(release, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (out / moment).exists():
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert set(published(out).items()) <= set(expected.items())

    assert prepare(release, out, *VOCABULARY, "--text-data") == 0
    assert published(out) == expected
    summary = json.loads((out / "summary.json").read_text())
    for key in ("splits", "vocabulary", "stamps"):
        assert summary[key] == expected_summary[key]


def published(folder) -> dict:
    """Files below a folder but for the summary and hidden ones (a killed run may leave those)."""
    return {
        name: content
        for name, content in contents(folder).items()
        if name != "summary.json" and not any(part.startswith(".") for part in name.split("/"))
    }
