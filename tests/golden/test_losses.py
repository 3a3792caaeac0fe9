"""Losses of a short training stay what they were, and so do translations of files made before."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from cress_svcd.cli.main import main
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.translation.translator import Translator
from tests.golden.expected_values import FOLDER, RECORDING, expected
from tests.helpers.fairseq_commands import records, run_series, svcd_command, train_command

pytestmark = pytest.mark.slow

PINS = Path(__file__).parents[2] / "scripts" / "pins.txt"
UPDATES = 8  # that are compared: later ones differ more between processors
FULL_UPDATES = 120  # until it has something to say
FIXTURES = ("full", "svcd", "packed")
LOSSES = ("loss", "st_loss", "nll_loss", "st_nll_loss", "distill_kl", "gnorm")


@pytest.fixture(scope="module", autouse=True)
def pinned_vocabulary():
    """Another sentencepiece trains another vocabulary, and all numbers depend on that."""
    pin = re.search(r"^sentencepiece==(\S+)$", PINS.read_text(encoding="utf-8"), re.MULTILINE)
    if sentencepiece.__version__ != pin[1]:
        pytest.skip(f"sentencepiece is {sentencepiece.__version__}, the values are for {pin[1]}")


@pytest.fixture(scope="module")
def trained(prepared, hubert, tmp_path_factory):
    """Folders and outputs of a full-precision training and of SVCD training under it."""
    folder = tmp_path_factory.mktemp("golden")
    common = [
        "--num-workers",
        "0",
        "--disable-validation",
        "--no-epoch-checkpoints",
        "--update-freq",
        "1",
    ]
    full = folder / "full" / "checkpoint_last.pt"
    commands = {
        "full": [
            *train_command(prepared, full.parent, *common, "--hubert-model-path", hubert),
            "--max-update",
            FULL_UPDATES,
        ],
        "svcd": [
            *svcd_command(
                prepared,
                folder / "svcd",
                full,
                "--quant-policy",
                "decoder",
                "--teacher-model",
                full,
                "--distill-kl-weight",
                "1",
                *common,
                "--max-update",
                UPDATES,
            )
        ],
    }
    commands["svcd"] = [word for word in commands["svcd"] if word != "--fp16"]
    outcomes = run_series(commands, folder)
    for name, outcome in outcomes.items():
        assert not outcome.failed, f"{name}: {outcome.output[-3000:]}"
    if RECORDING:
        for name in ("full", "svcd"):
            state = torch.load(folder / name / "checkpoint_last.pt", weights_only=True)
            state["last_optimizer_state"] = None
            state.pop("criterion", None)
            torch.save(state, folder / f"{name}.pt")
        assert (
            main(
                [
                    "pack",
                    str(folder / "svcd.pt"),
                    "-o",
                    str(folder / "packed.pt"),
                    "--data",
                    str(prepared),
                ]
            )
            == 0
        )
        for name in FIXTURES:
            with gzip.open(FOLDER / f"{name}.pt.gz", "wb") as target:
                target.write((folder / f"{name}.pt").read_bytes())
    return outcomes


@pytest.mark.parametrize("name", ["full", "svcd"])
def test_losses(trained, name):
    found = [
        {key: float(record[key]) for key in LOSSES if key in record}
        for record in records(trained[name].output, "train_inner")[:UPDATES]
    ]
    assert len(found) == UPDATES and len(found[0]) >= 3
    then = expected(f"losses {name}", found)
    assert [record.keys() for record in found] == [record.keys() for record in then]
    for now, before in zip(found, then, strict=True):
        # Other processors, and other kernels, round in another order.  That tips signs and 8-bit
        # numbers of 1-bit layers, and more of them with each update.
        norms = [record.pop("gnorm") for record in (now, before)]
        assert norms[0] == pytest.approx(norms[1], rel=3e-2)
        assert now == pytest.approx(before, rel=2e-2 if name == "svcd" else 5e-3, abs=2e-3)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The files that were written before, unpacked."""
    folder = tmp_path_factory.mktemp("stored")
    for name in FIXTURES:
        with gzip.open(FOLDER / f"{name}.pt.gz", "rb") as source:
            (folder / f"{name}.pt").write_bytes(source.read())
    return folder


def sweep() -> np.ndarray:
    """1.5 seconds of tones that rise."""
    time = np.arange(24_000) / 16_000
    return (0.3 * np.sin(2 * np.pi * (200 + 400 * time) * time)).astype(np.float32)


@pytest.mark.parametrize("name", FIXTURES)
def test_files_of_before_translate_as_they_did(trained, prepared, stored, name):
    translator = Translator.load(
        stored / f"{name}.pt",
        data=None if name == "packed" else prepared,
        device="cpu",
        beam=3,
        max_len_b=20,
        segmentation=None,
    )
    found = translator.translate(sweep())
    found = [[found.text, found.score]]
    then = expected(f"translation {name}", found)
    assert [text for text, _ in found] == [text for text, _ in then]
    assert all(text for text, _ in found)
    assert [score for _, score in found] == pytest.approx([score for _, score in then], rel=5e-3)


def test_a_checkpoint_of_before_is_read_whole(stored):
    state = read_checkpoint(stored / "svcd.pt")
    layers = json.loads(state["cfg"]["model"]["quantization_map"])
    found = sorted(layers)
    assert found == expected("layers of svcd", found)
