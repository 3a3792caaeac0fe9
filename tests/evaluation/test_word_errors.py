import json

import pytest

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.word_errors import score_transcripts, spoken_words, word_errors
from cress_svcd.translation.translator import Translator
from tests.helpers.translation_model import make_checkpoint


def test_words_are_compared_as_they_are_said():
    assert spoken_words("What's her NAME?  \u2018Zoë\u2019 -- 42!") == [
        "what's",
        "her",
        "name",
        "zoe",
        "42",
    ]
    assert spoken_words("… - ' ") == []


def test_errors_by_hand():
    """A substitution, a deletion, two insertions; the last sentence is right."""
    heard = ["the cat sat", "on mat", "a b c hello", "Good job."]
    said = ["The cat sits.", "On the mat.", "Hello?", "good JOB"]
    scores = word_errors(heard, said)
    assert scores["words"] == 3 + 3 + 1 + 2
    assert scores["word_error_rate"] == round(100 * (1 + 1 + 3) / 9, 2)
    # sat-sits: a to i, s more; "the " is missing; "a b c " is too much.
    letters = len("the cat sits") + len("on the mat") + len("hello") + len("good job")
    assert scores["letter_error_rate"] == round(100 * (2 + 4 + 6) / letters, 2)
    assert scores["right_segments"] == 25.0


def test_nothing_heard_is_all_wrong():
    assert word_errors(["", ""], ["one two", "three"])["word_error_rate"] == 100.0


@pytest.fixture(scope="module")
def model(prepared, hubert, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    return make_checkpoint(path, prepared, hubert, "--ctc-head", "--st-training")


def test_what_a_model_hears(prepared, release, model, tmp_path, capsys):
    """What `translate --transcript` writes, of segments cut as the manifest says."""
    manifest, table = prepared / "tst-COMMON.tsv", tmp_path / "words.json"
    assert (
        main(
            [
                "score",
                "--transcripts",
                str(model),
                "--manifest",
                str(manifest),
                "--json",
                str(table),
            ]
        )
        == 0
    )
    scores = json.loads(table.read_text())
    frame = read_manifest(manifest)
    assert [row["id"] for row in scores["transcripts"]] == list(frame["id"])
    translator = Translator.load(model, translations=False, transcripts=True, segmentation=None)
    wave = read_audio(frame["audio"][1], release / "en-de" / "data")
    assert scores["transcripts"][1]["heard"] == translator.translate_batch([wave])[0].transcript
    again = word_errors([row["heard"] for row in scores["transcripts"]], list(frame["src_text"]))
    assert {key: scores[key] for key in again} == again
    assert f"word errors {again['word_error_rate']:.2f} %" in capsys.readouterr().out


def test_what_cannot_be_scored(prepared, hubert, model, tmp_path, capsys):
    manifest = str(prepared / "tst-COMMON.tsv")
    without = make_checkpoint(tmp_path / "without.pt", prepared, hubert)
    silent = tmp_path / "silent.tsv"
    frame = read_manifest(prepared / "tst-COMMON.tsv")
    frame.loc[2, "src_text"] = "…"
    frame.to_csv(silent, sep="\t", index=False)
    with pytest.raises(ConfigError, match="silent.tsv: segment .* has no word in column src_text"):
        score_transcripts(model, silent)
    for arguments, said in (
        ([str(without), "--manifest", manifest], "no CTC head"),
        ([str(model)], "--transcripts: --manifest is missing"),
        ([str(model), "--manifest", manifest, "--recordings"], "expected one of them"),
    ):
        assert main(["score", "--transcripts", *arguments]) == 2
        assert said in capsys.readouterr().err
