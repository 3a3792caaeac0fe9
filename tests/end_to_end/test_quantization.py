"""SVCD by real commands: from a trained checkpoint to a 1-bit one that stands alone."""

import json
import math
import re
import shutil

import pytest
import torch

from cress_svcd.cli.main import main
from cress_svcd.inference.packed_checkpoint import read_packed
from cress_svcd.quantization import Policy
from tests.helpers.fairseq_commands import (
    USER_DIR,
    generate_command,
    measured,
    records,
    run_series,
    svcd_command,
)

POLICY = {"rules": [{"match": "decoder.layers.*.encoder_attn.*"}, {"match": "*.fc1", "bits": 1.58}]}
PROGRESSIVE = [
    "--quant-policy",
    "whole_model",
    "--quant-schedule",
    "ternary",
    "--quant-warmup",
    "6",
    "--optimizer",
    "quant_adam",
    "--vector-lr-scale",
    "2",
    "--distill-hidden-weight",
    "1",
    "--distill-relation-weight",
    "1",
    "--distill-kl-warmup",
    "4",
    "--no-epoch-checkpoints",
]


@pytest.fixture(scope="module")
def trained(prepared, hubert, averaged, elsewhere, tmp_path_factory):
    """(folder, outcomes) of trainings in one process; what they started from is gone then."""
    folder = tmp_path_factory.mktemp("svcd")
    starts = tmp_path_factory.mktemp("svcd_starts")
    start = shutil.copy(averaged, starts / "st.pt")
    speech = shutil.copy(hubert, starts / "hubert.pt")
    teacher = shutil.copy(averaged, starts / "teacher.pt")
    Policy.from_dict(POLICY).save(starts / "policy.yaml")
    Policy.from_dict({"rules": [{"match": "decoder.layers.*.attn"}]}).save(starts / "nothing.yaml")
    state = torch.load(averaged, weights_only=True)
    state["task_state"]["dictionary_digest"] = "other"
    torch.save(state, starts / "vocabulary.pt")

    def command(name, *flags):
        return svcd_command(
            prepared,
            folder / name,
            start,
            "--teacher-model",
            teacher,
            "--num-workers",
            "0",
            "--max-epoch",
            "2",
            *flags,
        )

    described = ["--hubert-model-path", speech, "--quant-policy", starts / "policy.yaml"]
    described += [
        "--intervention-warmup",
        "3",
        "--consistency-weight",
        "1",
        "--cross-consistency-weight",
        "1",
    ]

    commands = {
        "described": command("described", *described),
        "whole": command("whole", *PROGRESSIVE, "--max-update", "7"),
        "half": command("stopped", *PROGRESSIVE, "--max-update", "3"),
        "resumed": command("stopped", *PROGRESSIVE, "--max-update", "7"),
        "another policy": command("stopped", *PROGRESSIVE, "--quant-policy", "decoder"),
        "another vocabulary": command("no", "--teacher-model", starts / "vocabulary.pt"),
        "no teacher": command("no", "--teacher-model", starts / "nowhere.pt"),
        "policy of nothing": command("no", "--quant-policy", starts / "nothing.yaml"),
        "dimensions": command("no", "--decoder-layers", "6"),
    }
    outcomes = run_series(commands, elsewhere)
    shutil.rmtree(starts)
    return folder, outcomes


def output(trained, name) -> str:
    outcome = trained[1][name]
    assert not outcome.failed, outcome.output[-3000:]
    return outcome.output


def test_the_command_of_the_description(trained):
    said = output(trained, "described")
    losses = [float(record["train_st_loss"]) for record in records(said, "train")]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    for record in records(said, "train"):
        assert float(record["train_distill_kl"]) > 0
        assert float(record["train_consistency"]) > 0 < float(record["train_cross_consistency"])
    assert "quantised: decoder.layers.0.encoder_attn.q_proj (svcd, 1 bits, activations 8)" in said
    assert "quantised: decoder.layers.0.fc1 (svcd, 1.58 bits, activations 8)" in said
    assert "gradient overflow" not in said


@pytest.fixture(scope="module")
def translated(trained, prepared, elsewhere):
    """What fairseq-generate prints from the checkpoint, and from the average of two."""
    folder = trained[0] / "described"
    average = ["average", folder, "--last", "2", "-o", folder / "averaged.pt"]
    assert main([str(word) for word in average]) == 0
    commands = {
        name: generate_command(prepared, folder / f"{name}.pt", "--num-workers", "0", *flags)
        for name, flags in (("checkpoint_last", []), ("averaged", ["--batch-size", "1"]))
    }
    return run_series(commands, elsewhere)


@pytest.mark.parametrize("name", ["checkpoint_last", "averaged"])
def test_the_checkpoint_translates_without_what_it_started_from(translated, name):
    outcome = translated[name]
    assert not outcome.failed, outcome.output[-3000:]
    assert len(re.findall(r"^D-\d+\t", outcome.output, re.MULTILINE)) == 12


def test_the_checkpoint_holds_the_map_and_nothing_of_the_teacher(trained, averaged):
    folder = trained[0] / "described"
    state = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    layers = json.loads(state["cfg"]["model"]["quantization_map"])
    assert "decoder.layers.0.encoder_attn.v_proj" in layers
    full = torch.load(averaged, weights_only=True)["model"].keys()
    added = state["model"].keys() - full
    assert added == {f"{name}.{scale}" for name in layers for scale in ("g", "h")}
    assert not state["criterion"]
    moments = state["last_optimizer_state"]["state"]
    count = sum(moment["exp_avg"].numel() for moment in moments.values())
    shared = state["model"]["decoder.output_projection.weight"].numel()
    names = {"decoder.embed_tokens.weight", "decoder.output_projection.weight"}
    buffers = ("version", "_float_tensor")
    trainable = sum(
        value.numel()
        for name, value in state["model"].items()
        if name not in names and not name.endswith(buffers)
    )
    assert shared and count == trainable


def test_a_resumed_run_goes_on_exactly(trained):
    """Also schedule, warm-ups of the terms, and the groups of the optimizer."""
    whole = records(output(trained, "whole"), "train_inner")
    half = records(output(trained, "half"), "train_inner")
    resumed = records(output(trained, "resumed"), "train_inner")
    assert [record["num_updates"] for record in whole] == [str(n) for n in range(1, 8)]
    assert [measured(record) for record in half + resumed] == [measured(record) for record in whole]
    mixes = [float(record["quant_mix"]) for record in whole]
    assert mixes[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-3)
    models = [
        torch.load(trained[0] / name / "checkpoint_last.pt", weights_only=True)["model"]
        for name in ("whole", "stopped")
    ]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_policys_bits_are_options_of_the_checkpoint_and_packed_so(trained, tmp_path):
    path, packed = trained[0] / "stopped" / "checkpoint_last.pt", tmp_path / "packed.pt"
    options = torch.load(path, weights_only=True)["cfg"]["model"]
    bits = {kind: options[f"quant_{kind}_bits"] for kind in ("hubert", "subsampler", "embedding")}
    assert bits == {"hubert": 2, "subsampler": 1, "embedding": 1}
    assert main(["pack", str(path), "-o", str(packed)]) == 0
    described = json.loads(read_packed(packed)["cfg"]["model"]["packed"])["low_bits"]
    for name, how in described.items():
        kind = name.split(".")[1]
        assert how["trained"] and how["bits"] == bits.get(kind, bits["embedding"])
    assert {name.split(".")[1] for name in described} > {"hubert", "subsampler"}


@pytest.mark.parametrize(
    "name, message",
    [
        ("another policy", r"checkpoint_last\.pt: policy: it differs from the one .* Resume with"),
        ("another vocabulary", r"vocabulary\.pt: it was trained with another dictionary"),
        ("no teacher", r"--teacher-model \S+nowhere\.pt: no such file"),
        ("policy of nothing", r"matches no linear layer; near names: decoder"),
        ("dimensions", r"st\.pt: .*--decoder-layers 6, there 1"),
    ],
)
def test_bad_input_is_refused_before_training(trained, name, message):
    outcome = trained[1][name]
    assert outcome.failed and not records(outcome.output, "train_inner")
    (*_, last) = re.split(r"^[\w.]+Error: ", outcome.output, flags=re.MULTILINE)
    assert re.search(message, last, re.DOTALL), outcome.output[-3000:]


def test_the_configuration_of_the_project(run, prepared, averaged, elsewhere, tmp_path):
    """The same by fairseq-hydra-train."""
    result = run(
        "fairseq-hydra-train",
        "--config-dir",
        USER_DIR.parent / "configs" / "train",
        "--config-name",
        "svcd_base",
        f"common.user_dir={USER_DIR}",
        f"task.data={prepared}",
        f"model.finetuned_st_model={averaged}",
        f"checkpoint.save_dir={tmp_path / 'svcd'}",
        "common.cpu=true",
        "common.fp16=false",
        "criterion.teacher_fp16=false",
        "optimization.max_update=2",
        "dataset.max_tokens=200000",
        "dataset.num_workers=1",
        "common.log_interval=1",
        f"hydra.run.dir={tmp_path / 'run'}",
        cwd=elsewhere,
    )
    entries = records(result.stdout + result.stderr, "train_inner")
    assert len(entries) == 2 and all(float(entry["distill_kl"]) > 0 for entry in entries)
    state = torch.load(tmp_path / "svcd" / "checkpoint_last.pt", weights_only=True)
    layers = json.loads(state["cfg"]["model"]["quantization_map"])
    assert layers and all("encoder_attn" in name for name in layers)
