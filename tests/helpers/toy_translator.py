"""A model with the names of a speech translator and nothing of its arithmetic."""

import pytest
import torch
from torch import nn

WIDTH = 16


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH))

    def forward(self, x):
        return self.out_proj(self.q_proj(x) + self.k_proj(x) + self.v_proj(x))


class Layer(nn.Module):
    def __init__(self, *attentions: str):
        super().__init__()
        for name in attentions:
            setattr(self, name, Attention())
        self.attentions = attentions
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        for name in self.attentions:
            x = x + getattr(self, name)(x)
        return self.final_layer_norm(x + self.fc2(torch.relu(self.fc1(x))))


class Stack(nn.Module):
    def __init__(self, *attentions: str):
        super().__init__()
        self.layers = nn.ModuleList(Layer(*attentions) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Translator(nn.Module):
    """names as in the project's models: encoder.hubert.encoder.layers, encoder.layers, decoder."""

    def __init__(self):
        super().__init__()
        hubert = nn.Module()
        hubert.encoder = Stack("self_attn")
        hubert.post_extract_proj = nn.Linear(WIDTH, WIDTH)
        self.encoder = Stack("self_attn")
        self.encoder.hubert = hubert
        self.decoder = Stack("self_attn", "encoder_attn")
        self.decoder.embed_tokens = nn.Embedding(30, WIDTH)
        self.decoder.output_projection = nn.Linear(WIDTH, 30, bias=False)
        self.decoder.output_projection.weight = self.decoder.embed_tokens.weight

    def forward(self, x):
        hubert = self.encoder.hubert
        x = self.encoder(hubert.encoder(hubert.post_extract_proj(x)))
        return self.decoder.output_projection(self.decoder(x))


@pytest.fixture
def translator():
    torch.manual_seed(0)
    return Translator().eval()


@pytest.fixture
def batch():
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(7))
