"""Packed layers against the fake-quantised layers that they were made from."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cress_svcd import kernels
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.quantization import METHODS, Policy, QuantLinear, apply_policy
from cress_svcd.quantization.packed_linear import PackedLinear
from cress_svcd.quantization.packing import packed_layers, rebuild_packed
from tests.helpers.packed_layers import pack_model

AVAILABLE = [name for name, found in kernels.backends().items() if found.available]
VARIANTS = [
    {"method": name, "bits": bits}
    for name, kind in METHODS.items()
    for bits in kind.WEIGHT_BITS
    if not kind.NOT_PACKED
] + [
    {"method": "svcd", "variant": "paper", "num_groups": 3},
    {"method": "svcd", "num_groups": 4, "normalization": "rmsnorm"},
    {"method": "svcd", "activation_bits": 16},
    {"method": "svcd", "activation_bits": None},
    {"method": "onebit", "output_norm": False, "activation_bits": 8},
    {"method": "tbt", "activation_bits": 1},
    {"method": "tbt", "signed": False},
    {"method": "quest", "activation_bits": None},
    {"method": "uniform", "scale": "absmax", "bits": 2},
    {"method": "biper", "frequency": 20.0},
    {"method": "bibert", "activation_bits": 1},
    {"method": "bipft", "rank": 3, "normalization": "layernorm"},
]
BITS = {"bits", "method"}


def label(options: dict) -> str:
    return "-".join(f"{'' if key in BITS else key}{value}" for key, value in options.items())


def make_layer(options: dict, sizes=(75, 43), bias=True) -> QuantLinear:
    """A layer whose scales are not at their initial values, as after training."""
    options = dict(options)
    layer = METHODS[options.pop("method")].from_linear(nn.Linear(*sizes, bias=bias), **options)
    if hasattr(layer, "calibrate"):
        layer.calibrate(torch.randn(50, sizes[0]))
    with torch.no_grad():
        for scale in layer.scale_parameters().values():
            scale.mul_(torch.rand_like(scale) + 0.5)
        layer.weight.add_(0.01)
    return layer.eval()


def device_of(backend: str) -> str:
    return "cuda" if backend == "gpu" else "cpu"


def pack(layer: QuantLinear, backend: str):
    """The packed layer, on a GPU for that back end; from inputs to outputs on the CPU."""
    device = device_of(backend)
    packed = PackedLinear.from_layer(copy.deepcopy(layer).to(device), backend=backend)
    return lambda x: packed(x.to(device)).cpu()


def distance(y, expected):
    return ((y - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def is_rounded_by_the_operator(layer: QuantLinear) -> bool:
    paper = getattr(layer, "variant", "default") == "paper"
    return layer.activation_bits == 8 and layer.METHOD not in ("tbt", "quest") and not paper


@pytest.fixture(params=VARIANTS, ids=label)
def options(request):
    return request.param


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_the_same_outputs(options, backend, bias):
    """With 8-bit activations what training simulated, but for the rounding of the last float."""
    for sizes in ((75, 43), (64, 96), (1, 3)):
        if sizes[0] == 1 and options["method"] in ("onebit", "bitnet", "svcd"):
            continue  # a normalisation over one feature is 0 / 0, or nearly
        layer = make_layer(options, sizes, bias)
        packed = pack(layer, backend)
        exact = backend == "reference" or is_rounded_by_the_operator(layer)
        for rows in (1, 2, 8, 33, 64):
            x = torch.randn(rows, 3, sizes[0])
            with torch.no_grad():
                assert distance(packed(x), layer(x)) < (1e-6 if exact else 8e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_under_autocast_it_has_the_type_of_its_layer(options, dtype):
    layer = make_layer(options)
    packed = PackedLinear.from_layer(layer)
    x = torch.randn(9, 75).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = packed(x), layer(x)
    assert y.dtype is expected.dtype
    assert distance(y.float(), expected.float()) < 0.08
    assert packed(x).dtype is dtype


def test_q_equal_those_of_training_to_the_bit():
    """Without h and bias nothing is left but q, their integer sums and the step."""
    layer = make_layer({"method": "svcd"}, (200, 70), bias=False)
    with torch.no_grad():
        layer.h.fill_(1)
    x = torch.randn(1000, 200) * torch.logspace(-6, 6, 1000).unsqueeze(1)
    for backend in AVAILABLE:
        assert torch.equal(pack(layer, backend)(x), layer(x)), backend


def test_a_state_makes_the_same_layer(options):
    layer = make_layer(options)
    packed = PackedLinear.from_layer(layer)
    file = io.BytesIO()
    torch.save({"layer": packed.description(), "state": packed.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    x = torch.randn(5, 75)
    for backend in AVAILABLE:
        device = device_of(backend)
        again = PackedLinear(**saved["layer"], backend=backend, device=device).eval()
        again.load_state_dict(saved["state"])
        for name, value in again.state_dict().items():
            assert torch.equal(value.cpu(), saved["state"][name]), (backend, name)
        assert distance(again(x.to(device)).cpu(), packed(x)) < 1e-4


def test_unpacked_it_is_the_layer_again(options):
    layer = make_layer(options)
    packed = PackedLinear.from_layer(layer)
    if options["method"] == "quest" and layer.bits > 1:
        with pytest.raises(CheckpointError, match="quest with . bits"):
            packed.to_layer()
        return
    again = packed.to_layer()
    x = torch.randn(9, 75)
    assert type(again) is type(layer) and again.settings() == layer.settings()
    assert distance(again(x), layer(x)) < 1e-6
    state, repacked = packed.state_dict(), PackedLinear.from_layer(again).state_dict()
    assert torch.equal(state["signs"], repacked["signs"])


def test_sign_planes_and_scales_are_the_matrix():
    layer = make_layer({"method": "svcd", "activation_bits": None})
    packed = PackedLinear.from_layer(layer)
    planes = packed.to_sign_planes()
    x = torch.randn(4, 75)
    dense = F.linear(x, planes.scale.unsqueeze(1) * planes.q * packed.g, packed.bias)
    assert distance(dense, layer(x)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scales_in_half_precision(dtype):
    layer = make_layer({"method": "svcd"}, (512, 512))
    packed = PackedLinear.from_layer(layer, dtype=dtype)
    assert {v.dtype for k, v in packed.state_dict().items() if k != "signs"} == {dtype}
    x = torch.randn(6, 512)
    assert packed(x).dtype == torch.float32
    assert distance(packed(x), layer(x)) < {torch.float16: 5e-3, torch.bfloat16: 1.5e-2}[dtype]
    for kind in ("layernorm", "rmsnorm"):
        normed = make_layer({"method": "svcd", "normalization": kind}, (512, 64))
        assert distance(PackedLinear.from_layer(normed, dtype=dtype)(x), normed(x)) < 2e-2
    halved = copy.deepcopy(packed).to(dtype)
    assert halved(x.to(dtype)).dtype == dtype
    assert distance(halved(x.to(dtype)).float(), layer(x)) < 3e-2


def test_published_ties_take_a_second_plane():
    """A weight that equals the mean is 0 in the published formula: one bit has no such code."""
    layer = make_layer({"method": "svcd", "variant": "paper"})
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sign())
        layer.weight[:, 0], layer.weight[0::2, 1:], layer.weight[1::2, 1:] = 0, 1, -1
        layer.weight[42] = 0  # so that the mean is 0, as are these
    packed = PackedLinear.from_layer(layer)
    assert packed.planes == 2
    x = torch.randn(5, 75)
    assert distance(packed(x), layer(x)) < 8e-5


@pytest.mark.parametrize("single", [True, False])
def test_two_binaries_of_which_one_is_always_set_take_one_plane(single):
    layer = make_layer({"method": "db_llm"})
    with torch.no_grad():
        layer.weight.copy_(torch.where(layer.weight > 0, 1.0, -1.0) * 4 * layer.h.unsqueeze(1))
        layer.weight[0, 0] *= single
    packed = PackedLinear.from_layer(layer)
    assert packed.planes == 2 - single
    x = torch.randn(5, 75)
    assert distance(packed(x), layer(x)) < 1e-5
    assert distance(packed.to_layer()(x), layer(x)) < 1e-5


def test_gradients_reach_the_input():
    layer = make_layer({"method": "svcd"})
    packed = PackedLinear.from_layer(layer)
    x = torch.randn(4, 75, requires_grad=True)
    grads = [torch.autograd.grad(module(x).square().sum(), x)[0] for module in (layer, packed)]
    assert distance(grads[1], grads[0]) < 1e-5


def test_it_compiles_whole():
    packed = PackedLinear.from_layer(make_layer({"method": "svcd"}))
    x = torch.randn(4, 75)
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), packed(x))


@pytest.mark.parametrize("backend", [name for name in AVAILABLE if name != "gpu"])
def test_copies_and_meta_devices(backend):
    packed = PackedLinear.from_layer(make_layer({"method": "svcd"}), backend=backend)
    x = torch.randn(4, 75)
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))
    meta = copy.deepcopy(packed).to("meta")
    assert meta(x.to("meta")).shape == (4, 43)
    meta.to_empty(device="cpu").load_state_dict(packed.state_dict())
    assert torch.equal(meta(x), packed(x))


def test_what_cannot_be_packed(options):
    if options["method"] != "svcd":
        return
    layer = make_layer(options)
    layer.mix = 0.5
    with pytest.raises(ConfigError, match="mix 0.50"):
        PackedLinear.from_layer(layer)
    layer.mix = 1
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        PackedLinear.from_layer(layer)


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.NOT_PACKED])
def test_a_method_without_a_packed_form_says_why(name):
    with pytest.raises(ConfigError, match=f"packing: method {name} .* packed files have no form"):
        PackedLinear.from_layer(METHODS[name].from_linear(nn.Linear(8, 8)))


def test_an_unknown_method_is_named():
    class Other(METHODS["bitnet"]):
        METHOD = "other"

    with pytest.raises(ConfigError, match="method: found 'other', expected one of: svcd"):
        PackedLinear.from_layer(Other(8, 8))


@pytest.fixture
def quantized(translator):
    rules = [
        {"match": "decoder.layers.*", "method": "svcd"},
        {"match": "encoder.layers.*fc*", "method": "uniform", "bits": 4},
    ]
    apply_policy(translator, Policy.from_dict({"rules": rules}))
    return translator


def descriptions(model: nn.Module) -> dict[str, dict]:
    return {name: layer.description() for name, layer in packed_layers(model).items()}


def test_a_whole_model(quantized, batch):
    before = quantized(batch)
    fresh = copy.deepcopy(quantized)
    names = pack_model(quantized)
    assert names == list(packed_layers(quantized)) and len(names) == 24
    assert distance(quantized(batch), before) < 1e-5
    layers, state = descriptions(quantized), quantized.state_dict()

    for name in names:
        old = fresh.get_submodule(name)
        parent, _, attribute = name.rpartition(".")
        plain = nn.Linear(old.in_features, old.out_features)
        setattr(fresh.get_submodule(parent), attribute, plain)
    rebuild_packed(fresh, layers)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(batch), quantized(batch))

    for name in names:
        parent, _, attribute = name.rpartition(".")
        layer = quantized.get_submodule(name).to_layer()
        setattr(quantized.get_submodule(parent), attribute, layer)
    assert distance(quantized(batch), before) < 1e-5 and not packed_layers(quantized)


def test_a_layer_with_two_names_is_packed_once(quantized):
    quantized.decoder.layers[1].fc1 = quantized.decoder.layers[0].fc1
    pack_model(quantized)
    assert quantized.decoder.layers[1].fc1 is quantized.decoder.layers[0].fc1


def test_nothing_changes_where_one_layer_cannot_be_packed(quantized):
    with torch.no_grad():
        quantized.decoder.layers[1].fc2.weight[0, 0] = float("inf")
    with pytest.raises(CheckpointError, match=r"decoder\.layers\.1\.fc2: packing: "):
        pack_model(quantized)
    assert not packed_layers(quantized)


def test_a_model_that_does_not_fit(quantized, translator):
    pack_model(quantized)
    layers = descriptions(quantized)
    with pytest.raises(CheckpointError, match="expected a linear layer of 16 x 16"):
        rebuild_packed(nn.Linear(3, 3), {"weight": layers["decoder.layers.0.self_attn.q_proj"]})


def test_a_state_of_another_size_is_refused():
    state = PackedLinear.from_layer(make_layer({"method": "svcd"})).state_dict()
    other = PackedLinear.from_layer(make_layer({"method": "svcd"}, (83, 43)))
    with pytest.raises(RuntimeError, match="expected packed signs, uint8 of .43, 11."):
        other.load_state_dict(state)
    del state["signs"]
    with pytest.raises(RuntimeError, match='Missing key.* "signs"'):
        PackedLinear.from_layer(make_layer({"method": "svcd"})).load_state_dict(state)
