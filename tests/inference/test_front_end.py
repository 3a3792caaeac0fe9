"""The packed front-end, led through the kernels chunk by chunk, against fairseq's own modules."""

import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel

from cress_svcd.errors import ConfigError
from cress_svcd.inference import front_end
from cress_svcd.inference.int8_modules import CompactConv1d, quantize_rows
from cress_svcd.kernels.cpu import conv1d
from cress_svcd.models.hubert_convolutions import masked_channel_norm

needs_windows = pytest.mark.skipif(
    not conv1d.is_available(), reason="no kernel for convolutions here, or it is not asked for"
)
LAYERS = [(48, 10, 5), (48, 3, 2), (32, 2, 2)]


def compact(conv, dtype=torch.int8, backend=None):
    """The packed form of ``conv``; ``conv`` gets the weights that it leaves."""
    made = CompactConv1d(conv, dtype, backend=backend)
    state = {"weight": conv.weight.detach().to(dtype)}
    if dtype == torch.int8:
        state["weight"], state["scale"] = quantize_rows(conv.weight)
    if conv.bias is not None:
        state["bias"] = conv.bias.detach()
    made.load_state_dict(state)
    conv.weight.data.copy_(made.dense_weight())
    return made


@pytest.fixture(params=["default", "layer_norm"])
def both(request):
    """Blocks of fairseq's front-end, and the same with packed convolutions."""
    torch.manual_seed(2)
    bias = request.param == "layer_norm"
    extractors = [
        ConvFeatureExtractionModel(LAYERS, mode=request.param, conv_bias=bias).eval()
        for _ in range(2)
    ]
    for parameter in extractors[0].parameters():
        torch.nn.init.normal_(parameter, 0.3, 0.5)
    extractors[1].load_state_dict(extractors[0].state_dict())
    for plain, packed in zip(*(extractor.conv_layers for extractor in extractors)):
        packed[0] = compact(plain[0])
    return tuple(extractor.conv_layers for extractor in extractors)


@pytest.mark.parametrize("chunk", [5, 64])
@pytest.mark.parametrize("backend", [pytest.param(None, marks=needs_windows), "torch"])
@torch.no_grad()
def test_it_computes_what_the_modules_do(both, backend, chunk, monkeypatch):
    plain, packed = both
    for block in packed:
        block[0].use_backend(backend)
    monkeypatch.setattr(front_end, "CHUNK_FRAMES", chunk)
    samples = [1600, 900, 455]
    waves = torch.randn(3, 1600) * 3 + 40  # far from zero: what the norm takes away again
    for wave, count in zip(waves, samples):
        wave[count:] = 0
    assert front_end.can_stream(packed, waves) and not front_end.can_stream(plain, waves)
    frames = torch.tensor([(count - 10) // 5 + 1 for count in samples])
    found = front_end.stream(packed, waves, frames)
    assert found.isfinite().all()
    for number, count in enumerate(samples):
        x = waves[number : number + 1, :count]
        alone = front_end.stream(packed, x, frames[number : number + 1])
        x = x.unsqueeze(1)
        for block in plain:
            x = block(x)
        expected = x[0].t()
        for y in (alone[0], found[number, : len(expected)]):
            assert (y - expected).norm() < 2e-5 * expected.norm()


@torch.no_grad()
def test_the_norm_is_that_of_the_output():
    torch.manual_seed(3)
    plain = ConvFeatureExtractionModel(LAYERS[:1], conv_bias=True).eval().conv_layers[0]
    torch.nn.init.normal_(plain[2].weight)
    torch.nn.init.normal_(plain[2].bias)
    waves, lengths = torch.randn(2, 1000), torch.tensor([199, 60])
    conv = compact(plain[0])
    expected = masked_channel_norm(plain[0](waves.unsqueeze(1)), lengths, plain[2])
    gain, bias = front_end.normalisation(waves, lengths, conv, plain[2])
    found = torch.nn.functional.conv1d(waves.unsqueeze(1), conv.dense_weight(), stride=5)
    found = found * gain.unsqueeze(2) + bias.unsqueeze(2)
    for number, count in enumerate(lengths):
        difference = found[number, :, :count] - expected[number, :, :count]
        assert difference.norm() < 1e-5 * expected[number, :, :count].norm()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("groups, padding", [(1, 2), (4, 3)])
@torch.no_grad()
def test_back_ends_agree_and_hold_the_same_state(dtype, groups, padding):
    conv = torch.nn.Conv1d(8, 12, 6, stride=2, padding=padding, groups=groups)
    made = compact(conv, dtype)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert made.has_kernel == conv1d.is_available()
    for x in (torch.randn(1, 8, 31), torch.randn(31, 3, 8).permute(1, 2, 0)):
        expected = conv(x)
        for backend in ("torch", "reference", None):
            made.use_backend(backend)
            assert made.has_kernel == (backend is None and conv1d.is_available())
            y = made(x)
            assert y.shape == expected.shape
            assert (y - expected).norm() < 2e-5 * expected.norm()
            assert made(x.half()).dtype == torch.float16
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]) and value.is_contiguous()
    again = made.double()(x.double())
    assert (again - expected).norm() < 2e-5 * expected.norm()


def test_an_unknown_back_end_changes_nothing():
    made = compact(torch.nn.Conv1d(4, 4, 3))
    with pytest.raises(ConfigError, match="expected auto or"):
        made.use_backend("fast")
    assert made.has_kernel == conv1d.is_available()


def test_a_gradient_passes():
    """By torch: the kernel has none."""
    conv = torch.nn.Conv1d(4, 6, 3)
    made = compact(conv)
    inputs = [torch.ones(1, 4, 9, requires_grad=True) for _ in range(2)]
    made(inputs[0]).square().sum().backward()
    conv(inputs[1]).square().sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
