"""Two target languages in one model, from text and speech to a packed file."""

import re

import pytest
import torch

from cress_svcd.cli.main import main
from cress_svcd.data.corpus.manifest import read_manifest
from tests.helpers.fairseq_commands import generate_command, run_series, train_command

LANGUAGES = ("de", "ro")


def train(data, folder, *flags, mode=("--st-training",)) -> list:
    """``train_command`` without its target language: all are trained."""
    command = train_command(data, folder, *flags, mode=mode)
    place = command.index("--tgt-lang")
    return [*command[:place], *command[place + 2 :], "--num-workers", "0"]


def generate(data, checkpoint, language, *flags) -> list:
    return generate_command(data, checkpoint, "--tgt-lang", language, *flags)


def translations(output: str) -> list[str]:
    lines = re.findall(r"^D-(\d+)\t\S+\t(.*)$", output, re.MULTILINE)
    return [text for _, text in sorted((int(number), text) for number, text in lines)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two_languages")


@pytest.fixture(scope="module")
def outcomes(two_languages, hubert, folder):
    """Of trainings on text, then on speech, interrupted and not, then in 1 bit; of translations."""
    text = ["--text-data", two_languages / "binary", "--batch-size-text", "8", "--lr", "2e-2"]
    speech = [
        *["--hubert-model-path", hubert, "--sampling-alpha", "0.5", "--batch-size", "8"],
        *["--load-pretrained-mt-encoder-decoder-from", folder / "mt" / "checkpoint_last.pt"],
        *["--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 10}'],
    ]
    quantised = ["--finetuned-st-model", folder / "st" / "checkpoint_last.pt"]
    quantised += ["--arch", "quant_transformer", "--quant-policy", "everything"]
    last = "checkpoint_last.pt"
    commands = {
        "text": train(
            two_languages, folder / "mt", *text, "--max-epoch", "16", mode=("--ext-mt-training",)
        ),
        "speech": train(two_languages, folder / "st", *speech, "--max-epoch", "3"),
        "begun": train(two_languages, folder / "resumed", *speech, "--max-epoch", "2"),
        "resumed": train(two_languages, folder / "resumed", *speech, "--max-epoch", "3"),
        "1 bit": train(two_languages, folder / "svcd", *quantised, "--max-epoch", "1"),
        **{
            f"text to {language}": generate(
                two_languages, folder / "mt" / last, language, "--text-input"
            )
            for language in LANGUAGES
        },
    }
    found = run_series(commands, folder)
    for name, outcome in found.items():
        assert not outcome.failed, f"{name}: {outcome.output[-3000:]}"
    return found


def test_each_translation_is_in_the_words_of_its_language(two_languages, outcomes):
    """After a few updates they need not be right."""
    for language, other in (LANGUAGES, LANGUAGES[::-1]):
        texts = {code: read_manifest(two_languages / "train.tsv") for code in LANGUAGES}
        words = {
            code: set(" ".join(frame["tgt_text"][frame["tgt_lang"] == code]).split())
            for code, frame in texts.items()
        }
        found = translations(outcomes[f"text to {language}"].output)
        assert len(found) == 12
        said = [word for text in found for word in text.split()]
        assert len(said) >= 24
        assert sum(word in words[language] for word in said) > 0.7 * len(said), found
        assert not set(said) & (words[other] - words[language])


def test_validation_translates_both(outcomes):
    assert re.search(r'"dev_bleu": "[\d.]+"', outcomes["speech"].output)


def test_a_resumed_training_gives_the_same_model(outcomes, folder):
    whole, resumed = (
        torch.load(folder / name / "checkpoint_last.pt", weights_only=False)["model"]
        for name in ("st", "resumed")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_1_bit_model_is_packed_and_translates_to_each(
    outcomes, two_languages, folder, release, capsys
):
    packed = folder / "packed.pt"
    checkpoint = folder / "svcd" / "checkpoint_last.pt"
    assert main(["pack", str(checkpoint), "-o", str(packed), "--int8-embeddings"]) == 0
    recordings = release / "en-de" / "data" / "tst-COMMON" / "wav"
    found = {}
    for language in LANGUAGES:
        options = ["--tgt-lang", language, "--device", "cpu", "--max-len-b", "10"]
        capsys.readouterr()
        assert main(["translate", str(packed), str(recordings), *options]) == 0
        found[language] = capsys.readouterr().out
    assert found["de"] != found["ro"]
    command = ["translate", str(packed), str(recordings), "--device", "cpu"]
    assert main(command) == 2
    assert "translates to de, ro: choose one with --tgt-lang" in capsys.readouterr().err
