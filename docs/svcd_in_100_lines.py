"""SVCD alone, on a tiny problem: train, make it 1-bit, train on under the old model, pack, compare.

    python docs/svcd_in_100_lines.py

Needs torch only.  cress_svcd.quantization.svcd is the same layer with a faster backward pass.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS, HIDDEN, CLASSES = 32, 256, 8


class BitLinear(nn.Module):
    """y = h * (sign(W - mean W) q(g * x)) + b for x (batch, inputs); q rounds to 8 bits a row."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias  # (outputs, inputs), (outputs)
        # The product h g^T that is nearest to |W|: its first singular vectors.
        u, s, v = torch.linalg.svd(self.weight.detach().abs())
        self.h = nn.Parameter(u[:, 0].abs() * s[0].sqrt())
        self.g = nn.Parameter(v[0].abs() * s[0].sqrt())

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.g
        scale = x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
        x = straight_through(x, (x / scale).round() * scale)
        signs = straight_through(self.weight, self.signs())
        return F.linear(x, signs) * self.h + self.bias

    def signs(self) -> Tensor:
        return torch.where(self.weight < self.weight.mean(), -1.0, 1.0)


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """``rounded`` in the forward pass; in the backward pass the gradient of x."""
    return x + (rounded - x).detach()


def pack(layer: BitLinear) -> dict[str, Tensor]:
    """A bit a weight, eight to a byte, and the vectors."""
    bits = (layer.signs() > 0).view(-1, 8) * 2 ** torch.arange(8)
    vectors = {"g": layer.g, "h": layer.h, "bias": layer.bias}
    return {"bits": bits.sum(1).byte(), **{name: v.detach() for name, v in vectors.items()}}


def packed_product(packed: dict[str, Tensor], x: Tensor) -> Tensor:
    """The layer's output from packed weights: a product of integers, scaled afterwards."""
    bits = packed["bits"].unsqueeze(1) >> torch.arange(8) & 1
    signs = (bits.to(torch.int32) * 2 - 1).view(len(packed["h"]), len(packed["g"]))
    x = x * packed["g"]
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
    q = (x / scale).round().to(torch.int32)
    return (q @ signs.t()) * scale * packed["h"] + packed["bias"]


def train(model: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module | None, steps: int) -> None:
    """Cross-entropy with the classes and, under a teacher, the KL divergence from it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,))
        scores = model(x[rows]).log_softmax(-1)
        loss = F.nll_loss(scores, y[rows])
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(x[rows]).log_softmax(-1)
            loss = loss + F.kl_div(scores, wanted, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> dict[str, float]:
    """Accuracy (0 to 1) on points that no training saw, by system."""
    torch.manual_seed(1)
    # Classes that no linear layer tells apart: that of the nearest of 64 centres, eight to a class.
    centres = torch.randn(64, INPUTS)
    x = centres[torch.randint(64, (12_000,))] + torch.randn(12_000, INPUTS)
    y = torch.cdist(x, centres).argmin(-1) % CLASSES
    x, y, x_test, y_test = x[:10_000], y[:10_000], x[10_000:], y[10_000:]

    sizes = [(INPUTS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CLASSES)]
    layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.ReLU())]
    full = nn.Sequential(*layers[:-1])
    train(full, x, y, None, 1000)

    def one_bit() -> nn.Sequential:
        layers = copy.deepcopy(full)
        return nn.Sequential(*(BitLinear(x) if isinstance(x, nn.Linear) else x for x in layers))

    trained = one_bit()
    train(trained, x, y, full, 1000)
    files = [pack(layer) for layer in trained if isinstance(layer, BitLinear)]

    def run_packed(x: Tensor) -> Tensor:
        for packed in files[:-1]:
            x = packed_product(packed, x).relu()
        return packed_product(files[-1], x)

    systems = {"full precision": full, "1 bit, not trained on": one_bit(), "1 bit": trained}
    accuracies = {}
    for name, model in {**systems, "1 bit, packed": run_packed}.items():
        with torch.no_grad():
            accuracies[name] = (model(x_test).argmax(-1) == y_test).float().mean().item()
        print(f"{100 * accuracies[name]:6.1f} %  {name}")
    print(f"weights: {sum(len(packed['bits']) for packed in files):,} bytes packed, 32 times fewer")
    return accuracies


if __name__ == "__main__":
    main()
