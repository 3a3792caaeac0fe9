"""SVCD alone, on a tiny problem: train, make it 1-bit, train on under the old model, pack, compare.

Needs torch only.  cress_svcd.quantization.svcd is the same layer with a faster backward pass.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BitLinear(nn.Module):
    """y = h * (sign(W - mean W) q(g * x)) + b for x (batch, inputs); q rounds to 8 bits a row."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(p.detach().clone()) for p in linear.parameters())
        u, s, v = torch.linalg.svd(self.weight.detach().abs())  # h g^T: the nearest to |W|
        self.h = nn.Parameter(u[:, 0].abs() * s[0].sqrt())
        self.g = nn.Parameter(v[0].abs() * s[0].sqrt())

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.g
        scale = x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
        x = x + ((x / scale).round() * scale - x).detach()  # straight through: the gradient of x
        signs = self.weight + (self.signs() - self.weight).detach()
        return F.linear(x, signs) * self.h + self.bias

    def signs(self) -> Tensor:
        return torch.where(self.weight < self.weight.mean(), -1.0, 1.0)


def pack(layer: BitLinear) -> dict[str, Tensor]:
    """A bit a weight, eight to a byte, and the vectors."""
    bits = (layer.signs() > 0).view(-1, 8) * 2 ** torch.arange(8)
    return {"bits": bits.sum(1).byte(), **{v: getattr(layer, v).data for v in ("g", "h", "bias")}}


def packed_product(packed: dict[str, Tensor], x: Tensor) -> Tensor:
    """The layer's output from packed weights: a product of integers, scaled afterwards."""
    bits = packed["bits"].unsqueeze(1) >> torch.arange(8) & 1
    signs = (bits.to(torch.int32) * 2 - 1).view(len(packed["h"]), len(packed["g"]))
    x = x * packed["g"]
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
    q = (x / scale).round().to(torch.int32)
    return (q @ signs.t()) * scale * packed["h"] + packed["bias"]


def train(name: str, model: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module | None) -> None:
    """Cross-entropy with the classes and, under a teacher, the KL divergence from it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for update in range(1, 1001):
        rows = torch.randint(len(x), (256,))
        scores = model(x[rows]).log_softmax(-1)
        loss = F.nll_loss(scores, y[rows])
        if teacher is not None:
            wanted = teacher(x[rows]).log_softmax(-1).detach()
            loss = loss + F.kl_div(scores, wanted, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 250 == 0:
            print(f"{name}, update {update:,}: loss {loss.item():.3f}", flush=True)


def main() -> dict[str, float]:
    """Accuracy (0 to 1) on points that no training saw, by system."""
    torch.manual_seed(1)
    # Classes that no linear layer tells apart: that of the nearest of 64 centres, eight to a class.
    centres = torch.randn(64, 32)
    x = centres[torch.randint(64, (12_000,))] + torch.randn(12_000, 32)
    y = torch.cdist(x, centres).argmin(-1) % 8
    x, y, x_test, y_test = x[:10_000], y[:10_000], x[10_000:], y[10_000:]
    layers = [nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8)]
    full = nn.Sequential(*layers)
    train("full precision", full, x, y, None)

    def one_bit() -> nn.Sequential:
        return nn.Sequential(*(BitLinear(m) if isinstance(m, nn.Linear) else m for m in full))

    trained = one_bit()
    train("1 bit, under that model", trained, x, y, teacher=full)
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
