"""What ``pack`` writes stays the same, byte for byte, for every method.

Weights are small multiples of 1/64 and scales of 1/32: sums of them are exact on any processor.
"""

import hashlib
import json

import pytest
import torch
from torch import Tensor, nn

from cress_svcd.inference.packed_checkpoint import digest_of, write_packed
from cress_svcd.inference.packed_tensors import Precision, pack_tensors
from cress_svcd.quantization import METHODS, quantization_map
from cress_svcd.quantization.packed_linear import PackedLinear
from tests.golden.expected_values import expected

INPUTS, OUTPUTS = 64, 12  # QuEST rotates 64 inputs by multiples of 1/8
LAYERS = {
    "svcd": {"method": "svcd"},
    "svcd-ternary": {"method": "svcd", "bits": 1.58},
    "svcd-groups": {"method": "svcd", "num_groups": 5, "normalization": "rmsnorm"},
    "svcd-unrounded": {"method": "svcd", "activation_bits": None},
    "svcd-paper": {"method": "svcd", "variant": "paper", "num_groups": 3},
    "bitnet": {"method": "bitnet"},
    "bitnet158": {"method": "bitnet158"},
    "onebit": {"method": "onebit"},
    "onebit-no-norm": {"method": "onebit", "output_norm": False, "activation_bits": 8},
    "tbt": {"method": "tbt"},
    "tbt-ternary": {"method": "tbt", "bits": 1.58},
    "tbt-unsigned": {"method": "tbt", "signed": False, "activation_bits": 4},
    "quest": {"method": "quest"},
    "quest-2": {"method": "quest", "bits": 2},
    "quest-4": {"method": "quest", "bits": 4, "activation_bits": 4},
    "uniform-2": {"method": "uniform", "bits": 2},
    "uniform-4": {"method": "uniform", "bits": 4, "normalization": "layernorm"},
    "uniform-8": {"method": "uniform", "bits": 8},
    "uniform-absmax": {"method": "uniform", "bits": 2, "scale": "absmax"},
}


def pattern(*shape: int, modulus: int = 17, scale: float = 64) -> Tensor:
    """Multiples of 1 / scale, about symmetric, without a sample of random numbers."""
    numbers = torch.arange(torch.Size(shape).numel())
    mixed = (numbers * 7 + (numbers // shape[-1]) * 5 + (numbers % 11) * (numbers % 3)) % modulus
    return ((mixed - modulus // 2) / scale).view(shape).float()


def make_layer(options: dict, bias: bool = True):
    options = dict(options)
    linear = nn.Linear(INPUTS, OUTPUTS, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(pattern(OUTPUTS, INPUTS))
        if bias:
            linear.bias.copy_(pattern(OUTPUTS, scale=32))
    layer = METHODS[options.pop("method")].from_linear(linear, **options)
    with torch.no_grad():
        for scale in layer.scale_parameters().values():
            scale.copy_(pattern(*scale.shape, modulus=13, scale=32).abs() + 1 / 32)
    return layer.eval()


def digest(tensors: dict[str, Tensor], about) -> str:
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_packed_layer_is_what_it_was(name, bias):
    packed = PackedLinear.from_layer(make_layer(LAYERS[name], bias))
    found = digest(packed.state_dict(), packed.description())
    assert found == expected(f"layer {name} {'bias' if bias else 'no bias'}", found)


class EveryKind(nn.Module):
    """A layer of each method, a tied table, convolutions and a norm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({name: make_layer(options) for name, options in LAYERS.items()})
        self.embed_tokens = nn.Embedding(20, INPUTS)
        self.output_projection = nn.Linear(INPUTS, 20, bias=False)
        self.output_projection.weight = self.embed_tokens.weight
        self.conv = nn.Conv1d(8, 16, 3)
        self.norm = nn.LayerNorm(INPUTS)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.shape != self.layers["svcd"].weight.shape and parameter.dim() > 1:
                    parameter.copy_(pattern(*parameter.shape))
            self.conv.bias.copy_(pattern(16))


@pytest.mark.parametrize("int8", [False, True], ids=["fp16", "int8"])
def test_a_packed_file_is_what_it_was(int8, tmp_path):
    model = nn.ModuleDict({"decoder": EveryKind()})
    tensors, about = pack_tensors(
        model.state_dict(), quantization_map(model), Precision("fp16", int8, int8)
    )
    state = {"cfg": {"model": {"packed": json.dumps(about)}}, "model": tensors, "vocabulary": {}}
    write_packed(tmp_path / "model.pt", state)
    written = torch.load(tmp_path / "model.pt", weights_only=True)
    kind = "int8" if int8 else "fp16"
    found = digest_of(written)
    assert found == written["packed"]["digest"] == expected(f"content {kind}", found)
    # Another torch may frame the same content in another way.
    release = ".".join(torch.__version__.split(".")[:2])
    found = [release, hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()]
    torch_then, file_then = expected(f"file {kind}", found)
    assert torch_then != release or file_then == found[1]
