"""Vectors fitted to training data before the first update."""

import pytest
import torch

from cress_svcd.cli.main import main as command
from cress_svcd.errors import ConfigError
from cress_svcd.quantization import quantized_layers
from cress_svcd.training import calibration
from tests.helpers.quantized_checkpoints import quantize as quantized_checkpoint
from tests.helpers.training_options import NO_DROPOUT, make_model, make_task, parse, save_start

MODES = ["--st-training", "--mt-finetune"]


@pytest.fixture(scope="module")
def start(prepared, hubert, tmp_path_factory):
    """(full-precision model, its checkpoint)."""
    path = tmp_path_factory.mktemp("start") / "st.pt"
    model = save_start(prepared, hubert, path)
    return model.eval(), path


def quantize(data, path, folder, *flags):
    flags = [*MODES, *NO_DROPOUT, "--save-dir", folder, *flags]
    given = ("--finetuned-st-model", path) if path else ()
    cfg = parse(data, *given, "--quant-policy", "transformer", *flags, arch="quant_transformer")
    task = make_task(data, *flags)
    return make_model(cfg, task).eval(), task


def test_a_fitted_model_is_nearer_to_full_precision(prepared, start, tmp_path):
    full, path = start
    plain, task = quantize(prepared, path, tmp_path)
    fitted, _ = quantize(prepared, path, tmp_path, "--quant-calibrate", "24")
    task.load_dataset("dev")
    dataset = task.dataset("dev")
    net_input = dataset.collater([dataset[i] for i in range(12)])["net_input"]
    with torch.no_grad():
        wanted, first, then = (each(**net_input)[0] for each in (full, plain, fitted))
    assert (then - wanted).norm() < 0.9 * (first - wanted).norm()
    for name, layer in quantized_layers(fitted).items():
        assert torch.equal(layer.weight, full.get_submodule(name).weight)
        assert layer.g.requires_grad and layer.g.param_group == "vectors"
    assert next(fitted.parameters()).grad is None


@pytest.mark.parametrize("modes", [MODES, ["--mt-finetune"]], ids=["speech", "text"])
def test_examples_are_cut_rather_than_padded(prepared, modes):
    task = make_task(prepared, *modes, "--batch-shapes", "2")
    task.load_dataset("train")
    padding = task.target_dictionary.pad()
    batches = calibration.batches_of(task.dataset("train"), 20, padding)
    assert sorted(len(batch["src_tokens"]) for batch in batches) == [4, 8, 8]
    words = [batch["prev_output_tokens"].size(1) for batch in batches]
    assert len(set(words)) > 1 and words != sorted(words)  # the first are not the shortest
    for batch in batches:
        assert (batch["src_lengths"] == batch["src_tokens"].size(1)).all()
        texts = [batch["prev_output_tokens"]]
        if modes == MODES:
            assert (batch["text_lengths"] == batch["text_tokens"].size(1)).all()
            texts.append(batch["text_tokens"])
        else:
            texts.append(batch["src_tokens"])
        assert all(text.size(1) > 1 and not (text == padding).any() for text in texts)


def test_a_training_on_text_alone_is_fitted_to_text(prepared, start, tmp_path):
    task_flags = ["--mt-finetune", *NO_DROPOUT, "--save-dir", tmp_path, "--quant-calibrate"]
    model_flags = ["--finetuned-st-model", start[1], "--quant-policy", "decoder"]
    fitted, plain = (
        make_model(
            parse(prepared, *model_flags, *task_flags, count, arch="quant_transformer"),
            make_task(prepared, *task_flags, count),
        )
        for count in ("12", "0")
    )
    scales = [quantized_layers(each)["decoder.layers.0.fc1"].g for each in (fitted, plain)]
    assert not torch.equal(*scales) and scales[0].isfinite().all()


def test_a_start_that_knows_its_inputs_needs_no_fitting(prepared, start, tmp_path):
    plain, _ = quantize(prepared, start[1], tmp_path)
    known, _ = quantize(
        prepared, start[1], tmp_path, "--quant-calibrate", "24", "--quant-calibrate-by", "inputs"
    )
    for name, layer in quantized_layers(known).items():
        assert torch.equal(layer.weight, plain.get_submodule(name).weight)
        assert layer.g.isfinite().all() and layer.g.requires_grad
        assert not torch.equal(layer.g, plain.get_submodule(name).g)


def test_features_of_the_convolutions_serve_as_audio_does(prepared, hubert, start, tmp_path):
    command(
        [
            "extract-features",
            str(prepared),
            "--hubert-model-path",
            str(hubert),
            "--convolutions",
            str(tmp_path / "convolved"),
            "--workers",
            "0",
        ]
    )
    frozen = ["--hubert-model-path", hubert, "--freeze-hubert-convolutions"]
    cached = [*frozen, "--feature-cache", tmp_path / "convolved"]
    from_audio, from_features = (
        # One example: in a batch, audio is cut before it is normalised, its features afterwards.
        quantize(prepared, start[1], tmp_path, "--quant-calibrate", "1", *flags)[0]
        for flags in (frozen, cached)
    )
    for name, value in from_audio.state_dict().items():
        torch.testing.assert_close(from_features.state_dict()[name], value, rtol=0.05, atol=0.02)


def test_a_resumed_training_is_not_fitted(prepared, start, tmp_path):
    (tmp_path / "checkpoint_last.pt").touch()
    plain, _ = quantize(prepared, start[1], tmp_path / "none")
    resumed, _ = quantize(prepared, start[1], tmp_path, "--quant-calibrate", "4")
    for name, value in plain.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_it_needs_a_start(prepared, hubert, tmp_path):
    with pytest.raises(ConfigError, match="--quant-calibrate needs --finetuned-st-model"):
        quantize(prepared, None, tmp_path, "--quant-calibrate", "4", "--hubert-model-path", hubert)


def test_it_needs_a_start_in_full_precision(prepared, start, tmp_path):
    policy = [{"match": "decoder.layers.*.encoder_attn.*"}]
    quantized_checkpoint(tmp_path / "first.pt", prepared, start[1], policy)
    assert quantize(prepared, tmp_path / "first.pt", tmp_path)[0].begun_quantized
    with pytest.raises(ConfigError, match="--quant-calibrate .*first.pt is quantised in part"):
        quantize(prepared, tmp_path / "first.pt", tmp_path, "--quant-calibrate", "4")


def test_it_takes_a_number_of_examples(prepared):
    with pytest.raises(ConfigError, match="--quant-calibrate -3: expected a number of examples"):
        make_task(prepared, "--quant-calibrate", "-3")
