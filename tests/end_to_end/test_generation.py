"""Averaging, generating and scoring with real commands, from what a checkpoint carries alone."""

import re
import shutil

import pytest
import torch

from cress_svcd.data.corpus.manifest import read_manifest
from tests.helpers.fairseq_commands import TASK, generate_command, run_series


def lines(output: str, kind: str) -> list[str]:
    return re.findall(rf"^{kind}-\d+\t.*$", output, re.MULTILINE)


def bleu(output: str) -> float:
    return float(re.search(r"^Generate \S+ with beam=3: BLEU4 = ([\d.]+)", output, re.M)[1])


def test_the_average_is_that_of_the_last_epochs(baseline, averaged):
    models = [
        torch.load(baseline.folder / f"checkpoint{epoch}.pt", weights_only=True)["model"]
        for epoch in (6, 7, 8)
    ]
    mean = torch.load(averaged, weights_only=True)["model"]
    assert mean.keys() == models[0].keys()
    for name, value in mean.items():
        if value.is_floating_point():
            exact = sum(model[name].double() for model in models) / 3
            assert torch.equal(value, exact.to(value.dtype)), name


def test_speech_is_translated(speech, prepared):
    """Also the files that training started from are gone by now."""
    hypotheses, references = lines(speech, "D"), lines(speech, "T")
    assert len(hypotheses) == len(references) == 12
    assert bleu(speech) >= 0
    targets = read_manifest(prepared / "tst-COMMON.tsv")["tgt_text"]
    for line in references:
        number, text = re.match(r"T-(\d+)\t(.*)", line).groups()
        assert text == targets[int(number)]


@pytest.fixture(scope="module")
def more(prepared, averaged, elsewhere, tmp_path_factory) -> dict[str, str]:
    """What other commands print, all run by one process."""
    data = shutil.copytree(prepared, tmp_path_factory.mktemp("shuffled") / "data")
    frame = read_manifest(data / "train.tsv")
    shuffled = frame.copy()
    for column in ("audio", "n_frames"):
        shuffled[column] = frame[column].to_numpy()[::-1]
    for name, part in (("seen", frame), ("shuffled", shuffled)):
        part.to_csv(data / f"{name}.tsv", sep="\t", index=False)
    commands = {
        "again": generate_command(prepared, averaged),
        "one by one": generate_command(prepared, averaged, "--batch-size", "1"),
        "fp16": generate_command(prepared, averaged, "--fp16"),
        "text": generate_command(prepared, averaged, "--text-input", "--scoring", "bleu_chrf"),
        "seen": generate_command(data, averaged, "--gen-subset", "seen"),
        "shuffled": generate_command(data, averaged, "--gen-subset", "shuffled"),
    }
    outcomes = run_series(commands, elsewhere)
    failed = [outcome.output for outcome in outcomes.values() if outcome.failed]
    assert not failed, failed[0][-3000:]
    return {name: outcome.output for name, outcome in outcomes.items()}


def test_the_same_command_gives_the_same_translations(speech, more):
    for kind in "TDHP":
        assert lines(more["again"], kind) == lines(speech, kind)


def translations(output: str) -> dict[str, str]:
    """Translation of each sentence, by its number with D- before it."""
    fields = [line.split("\t") for line in lines(output, "D")]
    return {number: text for number, _, text in fields}


def test_batches_do_not_matter(speech, more):
    assert translations(more["one by one"]) == translations(speech)


def test_half_precision_translates_nearly_the_same(speech, more):
    half, full = translations(more["fp16"]), translations(speech)
    assert half.keys() == full.keys()
    assert sum(half[number] == full[number] for number in full) >= 10


def test_text_is_translated_with_a_flag(more, prepared):
    sources = read_manifest(prepared / "tst-COMMON.tsv")["src_text"]
    found = [line.split("\t") for line in lines(more["text"], "S")]
    assert dict(found) == {f"S-{number}": source for number, source in enumerate(sources)}
    assert re.search(r"BLEU = [\d.]+ chrF2 = [\d.]+", more["text"])
    assert len(set(translations(more["text"]).values())) > 1


def test_the_trained_model_listens(more):
    """With each other's recordings, sentences that it was trained on are translated worse."""
    assert bleu(more["seen"]) > bleu(more["shuffled"]) + 5


class TestInteractive:
    def run(self, run, prepared, averaged, cwd, text, *flags) -> list[str]:
        command = [
            "fairseq-interactive",
            prepared,
            *TASK,
            "--path",
            averaged,
            "--beam",
            "3",
            "--max-len-b",
            "20",
            *flags,
        ]
        output = run(*command, cwd=cwd, input=text).stdout
        return [line.split("\t")[2] for line in lines(output, "D")]

    def test_audio_paths(self, run, prepared, averaged, release, speech):
        frame = read_manifest(prepared / "tst-COMMON.tsv")
        text = "".join(f"{path}\n" for path in frame["audio"][:3])
        folder = release / "en-de" / "data"
        found = self.run(
            run, prepared, averaged, folder, text, "--buffer-size", "3", "--max-tokens", "100000"
        )
        assert found == [translations(speech)[f"D-{number}"] for number in range(3)]

    def test_sentences(self, run, prepared, averaged, elsewhere):
        found = self.run(
            run, prepared, averaged, elsewhere, "the man sees water.\n", "--text-input"
        )
        assert len(found) == 1
