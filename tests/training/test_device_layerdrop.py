"""Layers left out on the device: as many as asked for, and only in training."""

import pytest
import torch
from fairseq.modules import LayerDropModuleList
from torch import nn

from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.hubert_encoder import HubertEncoder
from cress_svcd.training import device_layerdrop
from tests.helpers.hubert_files import make_hubert

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}


class Adding(nn.Module):
    """Adds one, or a parameter that is one."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x + self.one


@pytest.fixture
def layers() -> LayerDropModuleList:
    made = LayerDropModuleList(0.25, [Adding() for _ in range(400)])
    device_layerdrop.install(made)
    return made


def run(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def test_as_many_as_asked_for_are_left_out(layers):
    torch.manual_seed(0)
    kept = run(layers, torch.zeros(1))
    assert abs(kept.item() - 300) < 30
    kept.sum().backward()
    # Those that were left out have gradients too: of nothing.
    assert sum(layer.one.grad.item() for layer in layers) == kept.item()
    assert {layer.one.grad.item() for layer in layers} == {0.0, 1.0}
    assert run(layers, torch.zeros(1)) != kept


def test_none_is_left_out_in_evaluation(layers):
    assert run(layers.eval(), torch.zeros(1)).item() == 400


def test_huberts_layers(tmp_path):
    make_hubert(tmp_path / "hubert.pt")
    description, state = read_hubert(tmp_path / "hubert.pt")
    encoder = HubertEncoder(description, {"encoder_layerdrop": 0.5, **NO_DROPOUT})
    encoder.load_pretrained(state, "")
    features = torch.randn(2, 20, 32)
    whole, _ = encoder.eval().encoder(features)
    device_layerdrop.install(encoder)
    assert torch.equal(encoder.encoder(features)[0], whole)
    encoder.train()
    torch.manual_seed(0)
    found = [encoder.encoder(features)[0] for _ in range(20)]
    assert (
        1
        < len({tuple(one.flatten().tolist()) for one in found})
        <= 2 ** len(encoder.encoder.layers)
    )
