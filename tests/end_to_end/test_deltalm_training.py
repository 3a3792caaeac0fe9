"""DeltaLM from the released form to translations: fine-tuned on text, then on speech; pruned."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from cress_svcd.cli.main import main
from tests.helpers.deltalm_files import TINY, TINY_HEADS
from tests.helpers.fairseq_commands import generate_command, records, run_series, train_command
from tests.helpers.large_vocabulary import write_vocabulary
from tests.helpers.training_options import TINY_MODEL

HEADS = [word for name in TINY_HEADS for word in (f"--{name.replace('_', '-')}", "4")]


def command(data, save_dir, *flags, **options) -> list:
    """A tiny training of hubert_deltalm, whose dimensions come from its file."""
    words = train_command(data, save_dir, **options)
    start = next(i for i, word in enumerate(words) if words[i : i + 2] == TINY_MODEL[:2])
    del words[start : start + len(TINY_MODEL)]
    return [
        *words,
        "--arch",
        "hubert_deltalm",
        "--conv-channels",
        "24",
        "--num-workers",
        "0",
        "--update-freq",
        "1",
        "--dropout",
        "0",
        "--no-epoch-checkpoints",
        *flags,
    ]


def prepare(release: Path, out: Path, vocabulary: Path) -> Path:
    arguments = [
        "prepare-mustc",
        release,
        "-o",
        out,
        "--tgt-lang",
        "de",
        "--workers",
        "1",
        "--text-data",
        "--spm-model",
        vocabulary / "spm.model",
        "--dictionary",
        vocabulary / "dict.txt",
    ]
    assert main([str(word) for word in arguments]) == 0
    return out


def hypotheses(output: str) -> dict[int, str]:
    return {int(n): text for n, text in re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, re.MULTILINE)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("deltalm")


@pytest.fixture(scope="module")
def data(release, folder) -> Path:
    """The tiny corpus in the tokens of a vocabulary that was made for more."""
    (folder / "vocabulary").mkdir()
    texts = [
        release / f"{split}.{side}"
        for split in ("train", "dev", "tst-COMMON")
        for side in ("en", "de")
    ]
    corpus = [line for path in texts for line in path.read_text(encoding="utf-8").splitlines()]
    write_vocabulary(folder / "vocabulary", corpus, 100)
    return prepare(release, folder / "data", folder / "vocabulary")


@pytest.fixture(scope="module")
def trained(data, folder, hubert, elsewhere):
    """Outcomes of the trainings; the files that they started from are gone."""
    starts = folder / "starts"
    starts.mkdir()
    shutil.copy(TINY, starts / "deltalm.pt")
    shutil.copy(hubert, starts / "hubert.pt")
    speech = ["--hubert-model-path", starts / "hubert.pt"]
    text = ["--text-data", data / "binary"]
    outcomes = run_series(
        {
            "text": command(
                data,
                folder / "mt",
                *text,
                *HEADS,
                "--deltalm-model-path",
                starts / "deltalm.pt",
                "--batch-size-text",
                "8",
                "--max-epoch",
                "30",
                "--validate-interval",
                "30",
                "--save-interval",
                "30",
                mode=["--ext-mt-training"],
            ),
            "speech": command(
                data,
                folder / "st",
                *speech,
                "--max-update",
                "10",
                "--lr",
                "1e-4",
                "--deltalm-model-path",
                folder / "mt" / "checkpoint_last.pt",
            ),
            "decoder only": command(
                data,
                folder / "only",
                *speech,
                *HEADS,
                "--max-update",
                "1",
                "--deltalm-decoder-only",
                "--deltalm-model-path",
                starts / "deltalm.pt",
            ),
            "quantised": command(
                data,
                folder / "quantised",
                "--arch",
                "quant_deltalm",
                "--max-update",
                "2",
                "--quant-policy",
                "decoder",
                "--finetuned-st-model",
                folder / "st" / "checkpoint_last.pt",
            ),
        },
        elsewhere,
    )
    shutil.rmtree(starts)
    for name, outcome in outcomes.items():
        assert not outcome.failed, f"{name}: {outcome.output[-3000:]}"
    return outcomes


@pytest.fixture(scope="module")
def generated(trained, data, release, folder, elsewhere) -> dict[str, str]:
    """What the models translate, the text model also with a pruned vocabulary."""
    texts = [folder / "data" / f"{split}.tsv" for split in ("train", "dev", "tst-COMMON")]
    model = folder / "mt" / "checkpoint_last.pt"
    arguments = [
        "prune-vocabulary",
        model,
        "-o",
        folder / "pruned",
        "--spm-model",
        folder / "vocabulary" / "spm.model",
        "--dictionary",
        folder / "vocabulary" / "dict.txt",
        "--text",
        *texts,
    ]
    assert main([str(word) for word in arguments]) == 0
    pruned = prepare(release, folder / "pruned data", folder / "pruned")
    outcomes = run_series(
        {
            "text": generate_command(data, model, "--text-input"),
            "pruned": generate_command(
                pruned, folder / "pruned" / "checkpoint_last.pt", "--text-input"
            ),
            **{
                name: generate_command(data, folder / name / "checkpoint_last.pt")
                for name in ("st", "only", "quantised")
            },
        },
        elsewhere,
    )
    for name, outcome in outcomes.items():
        assert not outcome.failed, f"{name}: {outcome.output[-3000:]}"
    return {name: outcome.output for name, outcome in outcomes.items()}


def test_it_learns_from_text(trained):
    losses = [float(record["train_loss"]) for record in records(trained["text"].output, "train")]
    assert len(losses) == 30 and losses[-1] < 0.5 * losses[0]


def test_what_was_taken_is_said(trained):
    assert "the first 100 of 120 rows taken" in trained["text"].output
    assert "120 tensors taken, 0 of the model's not in the file" in trained["text"].output
    assert "starts/deltalm.pt: not in the file: encoder.layer" in trained["decoder only"].output


def test_speech_training_goes_on_where_the_text_training_ended(trained):
    first = records(trained["speech"].output, "train_inner")[0]
    text = records(trained["text"].output, "train")
    assert float(first["mt_loss"]) < 0.6 * float(text[0]["train_loss"])


def test_a_model_translates_without_the_files_that_it_started_from(generated):
    for name in ("text", "st", "only", "quantised"):
        assert len(hypotheses(generated[name])) == 12, name


def test_a_pruned_vocabulary_translates_the_same(generated, folder):
    assert hypotheses(generated["pruned"]) == hypotheses(generated["text"])
    assert len(set(hypotheses(generated["text"]).values())) > 5
    states = [
        torch.load(folder / name / "checkpoint_last.pt", weights_only=True)["model"]
        for name in ("mt", "pruned")
    ]
    large, small = (len(state["decoder.embed_tokens.weight"]) for state in states)
    assert large == 100 and small < 75


def test_the_quantised_model_has_every_layer_of_the_decoder(trained):
    assert "quantised: decoder.layers.1.fc4 (svcd, 1" in trained["quantised"].output
    assert "quantised: 24 layers" in trained["quantised"].output
