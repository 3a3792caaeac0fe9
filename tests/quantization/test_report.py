import copy
import json

import pytest
import torch
from torch import nn

from cress_svcd.quantization import METHODS, Policy, apply_policy
from cress_svcd.quantization.report import capture_inputs, layer_rows, output_error, summary


def quantise(model, match="decoder.layers.*", **rule):
    apply_policy(model, Policy.from_dict({"rules": [{"match": match, **rule}]}))
    return model


def test_inputs_are_captured_up_to_the_limit(translator, batch):
    quantise(translator)
    with capture_inputs(translator, max_rows=20) as inputs:
        translator(batch)
        translator(batch)
    assert inputs["decoder.layers.0.self_attn.q_proj"].shape == (20, 16)
    assert inputs["decoder.layers.1.fc2"].shape == (20, 32)
    assert not any(rows.requires_grad for rows in inputs.values())
    translator(batch)
    assert len(inputs["decoder.layers.0.fc1"]) == 20


def test_full_precision_layers_can_be_captured_before_the_swap(translator, batch):
    with capture_inputs(translator, ["decoder.layers.0.fc1"]) as inputs:
        translator(batch)
    assert inputs["decoder.layers.0.fc1"].shape == (15, 16)


def test_rows_say_what_became_what(translator, batch):
    teacher = copy.deepcopy(translator)
    quantise(translator, "decoder.layers.0.fc1", bits=1.58)
    with capture_inputs(translator) as inputs:
        translator(batch)
    (row,) = layer_rows(translator, inputs, reference=teacher)
    expected = {
        "name": "decoder.layers.0.fc1",
        "out_features": 32,
        "in_features": 16,
        "method": "svcd",
        "weight_bits": 1.58,
        "activation_bits": 8,
        "parameters": 512,
        "vector_parameters": 32 + 32 + 16,
        "bits": 809 + 16 * 80,  # 512 * 1.58, rounded up
        "full_bits": 16 * (512 + 32),
        "rows": 15,
    }
    assert {key: row[key] for key in expected} == expected
    assert 0.7 < row["cosine"] < 1
    assert 0 < row["relative_error"] < 0.7
    json.dumps(row)


def test_the_error_is_against_the_reference_and_not_the_trained_latent_weight(translator, batch):
    teacher = copy.deepcopy(translator)
    quantise(translator, "decoder.layers.0.fc1", method="uniform", bits=8, activation_bits=16)
    with capture_inputs(translator) as inputs:
        translator(batch)
    with torch.no_grad():
        translator.decoder.layers[0].fc1.weight.neg_()
        translator.decoder.layers[0].fc1.bias.neg_()
    (own,) = layer_rows(translator, inputs)
    (against_teacher,) = layer_rows(translator, inputs, reference=teacher)
    assert own["cosine"] > 0.99
    assert against_teacher["cosine"] < -0.99
    assert against_teacher["relative_error"] == pytest.approx(2, rel=0.01)


def test_a_layer_without_inputs_has_no_error(translator):
    quantise(translator)
    assert all("cosine" not in row for row in layer_rows(translator, {}))


def test_an_undefined_error_is_none():
    layer = METHODS["svcd"](4, 4, bias=False)
    error = output_error(layer, layer, torch.zeros(2, 4))
    assert (error["relative_error"], error["cosine"]) == (None, None)


def test_the_mix_of_a_warm_up_does_not_hide_the_error(translator, batch):
    quantise(translator, "decoder.layers.0.fc1")
    layer = translator.decoder.layers[0].fc1
    x = torch.randn(9, 16)
    expected = output_error(layer, layer, x)
    layer.mix = 0.0
    assert output_error(layer, layer, x) == expected
    assert expected["relative_error"] > 0.1


@pytest.mark.parametrize("bias", [True, False])
def test_totals(bias):
    model = nn.Sequential(nn.Linear(64, 64, bias=bias), nn.Linear(64, 10))
    original = sum(parameter.numel() for parameter in model.parameters())
    before = summary(model)
    assert before["bits"] == before["full_bits"] == 16 * original
    assert before["bits_per_weight"] is None
    quantise(model, "0")
    after = summary(model)
    scales = 128 + 64 * bias
    assert after["full_bits"] == 16 * original
    assert after["bits"] == 16 * 650 + 64 * 64 + 16 * scales
    assert after["quantized_weights"] == 64 * 64
    assert after["bits_per_weight"] == pytest.approx(1 + 16 * scales / 64**2)
    assert after["parameters"] == original + 128
