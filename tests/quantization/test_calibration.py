import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cress_svcd.quantization import BitLinear, Policy, apply_policy
from cress_svcd.quantization.calibration import fit_model, fit_scales

INPUTS = {
    "plain": lambda x: x,
    "relu": torch.relu,
    "uneven": lambda x: x * torch.linspace(0.05, 4, 48) + 1,
    "constant": lambda x: torch.ones_like(x),
    "zero": torch.zeros_like,
    "few": lambda x: x[:10],
}


def error(layer: nn.Module, x: torch.Tensor, wanted: torch.Tensor) -> float:
    return (layer(x) - wanted).square().mean().item()


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("bits", [1, 1.58])
def test_outputs_come_nearer_and_signs_stay(kind, bias, bits):
    torch.manual_seed(0)
    linear = nn.Linear(48, 24, bias)
    x = INPUTS[kind](torch.randn(500, 48))
    wanted = linear(x).detach()
    layer = BitLinear.from_linear(linear, bits=bits, activation_bits=None)
    before, signs, weight = (
        error(layer, x, wanted),
        layer.sign_weights().clone(),
        layer.weight.clone(),
    )
    fit_scales(layer, x)
    assert error(layer, x, wanted) <= before * 1.001 + 1e-12
    assert torch.equal(layer.sign_weights(), signs)
    assert torch.equal(layer.weight, weight)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())


def test_unseen_inputs_gain_too():
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    seen, unseen = torch.randn(2, 3000, 64).relu()
    wanted = linear(unseen).detach()
    layer = BitLinear.from_linear(linear)
    before = error(layer, unseen, wanted)
    fit_scales(layer, seen)
    assert error(layer, unseen, wanted) < 0.8 * before


def test_a_layer_that_can_meet_the_outputs_does():
    torch.manual_seed(0)
    layer = BitLinear(16, 8, activation_bits=None)
    target = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in (target.g, target.h, target.bias):
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    x = torch.randn(400, 16)
    fit_scales(layer, x, target(x), steps=60, ridge=1e-6)
    torch.testing.assert_close(layer(x), target(x), rtol=1e-3, atol=1e-3)


def test_halves_are_fitted_in_double():
    linear = nn.Linear(32, 8).half()
    layer = BitLinear.from_linear(linear)
    x = torch.randn(200, 32).relu().half()
    wanted = F.linear(x, linear.weight, linear.bias).detach()
    before = error(layer, x, wanted)
    fit_scales(layer, x)
    assert layer.g.dtype is torch.float16
    assert error(layer, x, wanted) < before


def test_the_papers_layer_is_refused():
    with pytest.raises(ValueError, match="paper"):
        fit_scales(BitLinear(4, 4, variant="paper"), torch.randn(9, 4))


class TestModels:
    @pytest.fixture
    def student(self, translator):
        student = copy.deepcopy(translator)
        apply_policy(student, Policy.from_dict({"rules": [{"match": "*"}]}))
        return student

    def test_the_student_nears_its_teacher(self, student, translator):
        batches, unseen = torch.randn(4, 30, 10, 16), torch.randn(20, 10, 16)

        def run(model):
            for batch in batches:
                model(batch)

        wanted = translator(unseen).detach()
        before = error(student, unseen, wanted)
        names = fit_model(student, translator, run)
        assert len(names) == 45
        assert names[0] == "encoder.hubert.post_extract_proj"
        assert names[-1] == "decoder.layers.1.fc2"
        assert error(student, unseen, wanted) < 0.8 * before

    def test_a_layer_that_is_never_called_is_named(self, student, translator, batch):
        teacher = translator
        layer = teacher.decoder.layers[0]
        layer.forward = lambda x: x
        with pytest.raises(ValueError, match="decoder.layers.0.*was not called"):
            fit_model(student, teacher, lambda model: model(batch))
