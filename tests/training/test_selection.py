"""Selective fine-tuning: what is trained, what stays, and that a training runs so."""

import pytest
import torch

from cress_svcd.errors import ConfigError
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.quantization import quantized_layers
from tests.helpers.fairseq_commands import svcd_command
from tests.helpers.training_options import NO_DROPOUT, make_model, make_task, parse, save_start

CHOSEN = ("decoder.layers.0.encoder_attn.", "encoder.layers.0.fc1.")


@pytest.fixture(scope="module")
def start(prepared, hubert, tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "st.pt"
    save_start(prepared, hubert, path, "--layernorm-embedding")
    return path


def make(data, start, patterns):
    flags = ["--st-training", "--mt-finetune", *NO_DROPOUT]
    flags += ["--quant-train-only", patterns] if patterns else []
    options = ["--finetuned-st-model", start, "--quant-policy", "decoder_encoder"]
    cfg = parse(data, *options, *flags, arch="quant_transformer")
    return make_model(cfg, make_task(data, *flags))


def test_the_named_modules_and_all_scales_are_trained(prepared, start):
    model = make(prepared, start, "decoder.layers.*.encoder_attn,encoder.layers.-1.fc1")
    scales = {
        f"{name}.{key}"
        for name, layer in quantized_layers(model).items()
        for key in layer.scale_parameters()
    }
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == scales | {
        name for name, _ in model.named_parameters() if name.startswith(CHOSEN)
    }
    assert any(name.startswith("decoder.layers.0.fc1") for name in trained)
    assert "decoder.layers.0.fc1.weight" not in trained


def test_without_the_option_all_are(prepared, start):
    model = make(prepared, start, None)
    assert all(value.requires_grad for value in model.parameters())


def test_a_pattern_that_names_nothing_is_refused(prepared, start):
    with pytest.raises(ConfigError, match="--quant-train-only: 'decoder.layer' names no module"):
        make(prepared, start, "decoder.layer")


@pytest.mark.slow
def test_a_training_leaves_the_others_as_they_were(prepared, start, tmp_path, run):
    options = [
        "--quant-train-only",
        ",".join(name.rstrip(".") for name in CHOSEN),
        "--max-update",
        "2",
        "--lr",
        "0.1",
    ]
    command = svcd_command(prepared, tmp_path, start, "--quant-policy", "decoder_encoder", *options)
    run(*[word for word in command if word != "--fp16"])
    before = read_checkpoint(start)["model"]
    after = read_checkpoint(tmp_path / "checkpoint_last.pt")["model"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert f"{CHOSEN[1]}weight" in changed
    assert all(name.startswith(CHOSEN) for name in changed)
