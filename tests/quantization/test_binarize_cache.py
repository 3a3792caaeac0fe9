"""Codes are made once a step, and never once too seldom."""

import copy
import pickle

import pytest
import torch
from torch import nn

from cress_svcd.quantization import BitLinear


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return BitLinear.from_linear(nn.Linear(12, 8))


@pytest.fixture
def x():
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


def used_sign_weights(layer: BitLinear, x: torch.Tensor) -> torch.Tensor:
    """The sign weights that the layer's output shows for unit inputs."""
    outputs = layer(torch.eye(layer.in_features, dtype=x.dtype)).detach()
    if layer.bias is not None:
        outputs = outputs - layer.bias.detach()
    return (outputs.t() / layer.h.detach().unsqueeze(1)).sign()


def signs(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.detach()
    return torch.where(weight >= weight.mean(), 1.0, -1.0)


def test_passes_of_one_step_share_the_sign_weights(layer, x):
    first = layer.sign_weights()
    layer(x)
    with torch.no_grad():
        layer(x)
    assert layer.sign_weights() is first


def test_two_passes_of_one_step_add_their_gradients(layer, x):
    twice = copy.deepcopy(layer)
    (layer(x).sum() + layer(2 * x).sum()).backward()
    for inputs in (x, 2 * x):
        twice(inputs).sum().backward()
        twice.forget_sign_weights()
    for one, other in zip(layer.parameters(), twice.parameters()):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("through_data", [False, True], ids=["torch", "fairseq"])
def test_an_update_is_seen(layer, x, through_data):
    """fairseq's optimizers write through .data, which leaves the weight's version as it was."""
    for _ in range(3):
        layer(x).square().sum().backward()
        if through_data:
            layer.weight.data.copy_(-layer.weight.data)
        else:
            with torch.no_grad():
                layer.weight.neg_()
        assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))


def test_a_backward_pass_of_one_loss_leaves_the_other_pass_right(layer, x):
    """ST and MT losses may be computed together and sent back one by one."""
    first, second = layer(x), layer(2 * x)
    expected = torch.autograd.grad(second.sum(), layer.weight, retain_graph=True)[0]
    first.sum().backward()
    layer.weight.grad = None
    second.sum().backward()
    assert torch.equal(layer.weight.grad, expected)


def test_loading_a_state_is_seen(layer, x):
    other = BitLinear(12, 8)
    layer(x)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(used_sign_weights(layer, x), signs(other.weight))


def test_a_replaced_parameter_is_seen(layer, x):
    layer(x)
    layer.weight = nn.Parameter(-layer.weight.detach())
    assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))


def test_changing_the_type_back_and_forth_is_seen(layer, x):
    layer(x)
    layer.half().float()
    with torch.no_grad():
        layer.weight.data = -layer.weight.data
    layer.to(torch.float64).to(torch.float32)
    assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))


def test_writing_through_data_outside_training_needs_clearing(layer, x):
    layer(x)
    layer.weight.data.neg_()
    layer.forget_sign_weights()
    assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["deep", "pickle"],
)
def test_copies_have_their_own_sign_weights(layer, x, copied):
    layer(x)
    twin = copied(layer)
    with torch.no_grad():
        twin.weight.neg_()
    assert torch.equal(used_sign_weights(twin, x), signs(twin.weight))
    assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))


def test_a_data_parallel_replica_uses_its_own_weight(layer, x):
    """A replica shares the module's dictionary, so the cache too, but holds other tensors."""
    layer(x)
    replica = layer._replicate_for_data_parallel()
    replica.weight = -layer.weight  # as the broadcast sets it: a tensor, not a parameter
    for name in ("bias", "g", "h"):
        setattr(replica, name, getattr(layer, name).clone())
    assert torch.equal(used_sign_weights(replica, x), signs(replica.weight))
    assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))


def test_the_state_holds_parameters_only(layer, x):
    layer(x)
    assert set(layer.state_dict()) == {"weight", "bias", "g", "h"}


def test_sign_weights_made_in_inference_mode_can_be_trained_with(layer, x):
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_a_layer_made_in_inference_mode_sees_changes(x):
    with torch.inference_mode():
        layer = BitLinear.from_linear(nn.Linear(12, 8))
        for _ in range(2):
            assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))
            layer.weight.neg_()
    with torch.no_grad():
        assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))


@pytest.mark.parametrize("normalization", ["none", "layernorm"])
def test_autocast_and_plain_passes_alternate(normalization, x):
    layer = BitLinear(12, 8, normalization=normalization)
    plain = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    assert low.dtype is torch.bfloat16
    torch.testing.assert_close(low.float(), plain, rtol=0.02, atol=0.02)
    assert torch.equal(layer(x), plain)
    low.float().sum().backward()
    assert layer.weight.grad.dtype is torch.float32


def test_a_compiled_layer_is_one_graph_and_sees_updates(layer, x):
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        layer(x)
        y = compiled(x)
        y.square().sum().backward()
        layer.weight.data.neg_()  # an update as fairseq makes it
        assert torch.equal(used_sign_weights(layer, x), signs(layer.weight))
    torch.testing.assert_close(compiled(x), layer(x))


def test_functional_calls_use_the_weight_they_are_given(layer, x):
    layer(x)
    flipped = torch.func.functional_call(layer, {"weight": -layer.weight.detach()}, (x,))
    expected = -(layer(x) - layer.bias) + layer.bias
    torch.testing.assert_close(flipped, expected)
