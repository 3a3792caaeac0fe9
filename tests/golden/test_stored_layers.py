"""Layers of every method that were packed before load, and they compute what they computed.

``layers.pt`` is a packed file with a layer of each kind; ``layer_outputs.pt`` holds what the layers
gave for ``inputs()``: packed, in training form, and the gradients of inputs and parameters.
Both were written by the code of commit bbbcf99, before modules were moved and split.
"""

import json

import pytest
import torch
from torch import Tensor

from cress_svcd.inference.packed_checkpoint import digest_of, write_packed
from cress_svcd.models.checkpoint_files import PACKED_HEADER
from cress_svcd.quantization.packed_linear import PackedLinear
from tests.golden.expected_values import FOLDER, RECORDING, expected
from tests.golden.test_packed_files import INPUTS, LAYERS, digest, make_layer, pattern

# Besides LAYERS, whose number the digests of whole files depend on.
MORE = {
    "svcd-layernorm": {"method": "svcd", "normalization": "layernorm"},
    "svcd-groups-ternary": {"method": "svcd", "bits": 1.58, "num_groups": 4},
    "svcd-rmsnorm": {"method": "svcd", "normalization": "rmsnorm"},
    "bitnet158-layernorm": {"method": "bitnet158", "normalization": "layernorm"},
    "tbt-layernorm": {"method": "tbt", "normalization": "layernorm"},
    "uniform-4-absmax": {"method": "uniform", "bits": 4, "scale": "absmax"},
    "uniform-8-absmax": {"method": "uniform", "bits": 8, "scale": "absmax"},
}
KINDS = {**LAYERS, **MORE}
PACKED, OUTPUTS = FOLDER / "layers.pt", FOLDER / "layer_outputs.pt"


def inputs() -> Tensor:
    """Five rows that no rounding splits in half: a 29th is no binary fraction."""
    return pattern(5, INPUTS, modulus=31, scale=29)


def make(name: str):
    """A layer of this kind whose norm, if any, does more than to scale all inputs alike."""
    layer = make_layer(KINDS[name])
    with torch.no_grad():
        for parameter in layer.norm.parameters():
            parameter.copy_(1 + pattern(*parameter.shape, modulus=13, scale=32))
    return layer


def close(found: Tensor, then: Tensor) -> bool:
    """Equal but for the order of sums, or for one activation rounded to its other neighbour."""
    return found.shape == then.shape and bool((found - then).norm() <= 5e-3 * then.norm())


def trained_form(name: str) -> dict[str, Tensor]:
    """Outputs of a layer while it is trained, and the gradients of its input and parameters."""
    layer, x = make(name).train(), inputs().requires_grad_()
    result = layer(x)
    (result * pattern(*result.shape, modulus=13, scale=29)).sum().backward()
    gradients = {key: parameter.grad for key, parameter in layer.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {"trained": result.detach(), "input gradient": x.grad} | gradients


def record() -> None:
    layers = {name: PackedLinear.from_layer(make(name)) for name in KINDS}
    state = {f"{name}.{key}": v for name, m in layers.items() for key, v in m.state_dict().items()}
    about = {name: layer.description() for name, layer in layers.items()}
    write_packed(PACKED, {"cfg": {"model": {"packed": json.dumps(about)}}, "model": state})
    with torch.no_grad():
        outputs = {name: {"packed": layer(inputs())} for name, layer in layers.items()}
    torch.save({name: {**outputs[name], **trained_form(name)} for name in KINDS}, OUTPUTS)


@pytest.fixture(scope="module")
def stored():
    """The packed file's content and the outputs of then."""
    if RECORDING:
        record()
    # It is layers alone, no model, which read_packed would miss.
    state = torch.load(PACKED, weights_only=True)
    assert digest_of(state) == state[PACKED_HEADER]["digest"]
    return state, torch.load(OUTPUTS, weights_only=True)


def test_every_kind_is_stored(stored):
    about = json.loads(stored[0]["cfg"]["model"]["packed"])
    assert set(about) == set(stored[1]) == set(KINDS)


@pytest.mark.parametrize("backend", ["reference", None], ids=["reference", "default"])
@pytest.mark.parametrize("name", KINDS)
def test_a_packed_layer_of_before_computes_as_it_did(stored, name, backend):
    state, outputs = stored
    about = json.loads(state["cfg"]["model"]["packed"])
    layer = PackedLinear(**about[name], backend=backend)
    own = {
        k.removeprefix(f"{name}."): v for k, v in state["model"].items() if k.startswith(f"{name}.")
    }
    layer.load_state_dict(own)
    with torch.no_grad():
        assert close(layer.eval()(inputs()), outputs[name]["packed"])


@pytest.mark.parametrize("name", KINDS)
def test_a_layer_is_trained_as_it_was(stored, name):
    found = trained_form(name)
    assert {"packed", *found} == set(stored[1][name])
    for key, tensor in found.items():
        assert close(tensor, stored[1][name][key]), key


@pytest.mark.parametrize("name", MORE)
def test_further_packed_layers_are_what_they_were(name):
    packed = PackedLinear.from_layer(make(name))
    found = digest(packed.state_dict(), packed.description())
    assert found == expected(f"layer {name} bias", found)
