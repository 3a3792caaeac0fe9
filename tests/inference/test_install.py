"""Kernels without gradients, put into a model from outside: where, and that nothing changes."""

import pytest
import torch
from torch import nn

from cress_svcd.inference import front_end
from cress_svcd.inference.install import install
from cress_svcd.inference.int8_modules import CompactConv1d
from cress_svcd.kernels import dispatch
from cress_svcd.models.conv_positions import ConvolutionalPositions
from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.hubert_convolutions import run_blocks
from cress_svcd.models.hubert_encoder import HubertEncoder


def load(path) -> HubertEncoder:
    description, state = read_hubert(path)
    made = HubertEncoder(description)
    made.load_pretrained(state, path)
    return made.eval()


@pytest.fixture
def encoder(hubert) -> HubertEncoder:
    return load(hubert)


@pytest.fixture
def batch():
    waves, lengths = torch.randn(2, 4000), torch.tensor([4000, 2500])
    waves[1, 2500:] = 0
    return waves, lengths


def packed(encoder):
    """The encoder with the front-end's convolutions in half precision, as in a packed model."""
    for block in encoder.feature_extractor.conv_layers:
        made = CompactConv1d(block[0], torch.float16, backend="torch")
        made.load_state_dict({"weight": block[0].weight.detach().half()})
        block[0] = made
    return encoder


def test_every_speech_encoder_of_a_model_gets_them(encoder, hubert):
    model = nn.Module()
    model.first, model.inner = encoder, nn.ModuleList([load(hubert), nn.Linear(2, 2)])
    assert encoder.run_convolutions is run_blocks
    install(model)
    for found in (model.first, model.inner[0]):
        assert type(found.encoder.pos_conv) is ConvolutionalPositions
        assert found.run_convolutions is front_end._run_convolutions


def test_a_model_without_a_speech_encoder_stays_as_it_is():
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Linear(2, 2))
    before = [(name, id(module)) for name, module in model.named_modules()]
    install(model)
    assert [(name, id(module)) for name, module in model.named_modules()] == before


@pytest.mark.parametrize("training", [True, False])
def test_parameters_their_names_and_the_mode_stay(encoder, training):
    encoder.train(training)
    before = {name: id(parameter) for name, parameter in encoder.named_parameters()}
    modules = {name: module.training for name, module in encoder.named_modules()}
    install(encoder)
    assert {name: id(value) for name, value in encoder.named_parameters()} == before
    assert {name: module.training for name, module in encoder.named_modules()} == modules


def test_a_gradient_passes_as_before(encoder, hubert, batch):
    plain = load(hubert)
    install(encoder)
    for model in (plain, encoder):
        model(*batch)[0].square().sum().backward()
    expected = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    found = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and "encoder.pos_conv.0.weight_v" in found
    for name, grad in found.items():
        assert torch.equal(grad, expected[name]) and grad.any(), name


@torch.no_grad()
def test_full_precision_on_the_cpu_runs_the_modules(encoder, batch):
    expected, _ = encoder(*batch)
    install(encoder)
    assert not front_end.can_stream(encoder.feature_extractor.conv_layers, batch[0])
    assert torch.equal(encoder(*batch)[0], expected)


@torch.no_grad()
def test_packed_convolutions_stream(encoder, batch):
    packed(encoder)
    expected, expected_mask = encoder(*batch)
    install(encoder)
    blocks = encoder.feature_extractor.conv_layers
    assert front_end.can_stream(blocks, batch[0])
    found, mask = encoder(*batch)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(found[~mask], expected[~mask], rtol=0, atol=5e-5)
    frames = [torch.tensor([count]) for count in (799, 399, 199, 99, 49, 24, 12)]
    streamed = encoder.run_convolutions(blocks, batch[0][:1], frames)
    assert torch.equal(streamed, front_end.stream(blocks, batch[0][:1], frames[0]).transpose(1, 2))


@torch.no_grad()
def test_installing_twice_is_as_once(encoder, batch):
    install(encoder)
    expected, _ = encoder(*batch)
    names = list(encoder.state_dict())
    install(encoder)
    assert list(encoder.state_dict()) == names
    assert torch.equal(encoder(*batch)[0], expected)


@pytest.mark.gpu
@torch.no_grad()
def test_positions_on_a_gpu_are_those_of_the_modules(encoder, batch):
    encoder, x = encoder.half().cuda(), torch.randn(2, 32, 50, device="cuda").half()
    expected = encoder.encoder.pos_conv(x)
    install(encoder)
    operation, deciding = encoder.encoder.pos_conv.kernel_call(x)
    assert dispatch.implementation(operation, *deciding).name == "triton/conv1d"
    found = encoder.encoder.pos_conv(x)
    assert (found - expected).norm() < 2e-3 * expected.norm()
