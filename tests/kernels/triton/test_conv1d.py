"""Convolutions on CUDA.  The kernel also runs in Triton's interpreter, without a GPU:

TRITON_INTERPRET=1 python -m pytest tests/kernels/triton/test_conv1d.py   (needs triton)
"""

import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import make_conv_pos
from fairseq.modules import SamePad
from torch import nn
from torch.nn import functional as F

from cress_svcd.kernels.triton import conv1d
from cress_svcd.models.conv_positions import ConvolutionalPositions, faster
from tests.helpers.triton_marks import CUDA, DEVICE, needs_triton


@needs_triton
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(
                not CUDA,
                reason="Triton's interpreter multiplies bfloat16 as the integers that hold it",
            ),
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "batch, frames, groups, channels, out, kernel_size",
    [(1, 5, 2, 8, 8, 4), (2, 70, 3, 12, 5, 7), (2, 1, 1, 16, 24, 6)],
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_it_convolves(dtype, batch, frames, groups, channels, out, kernel_size, has_bias):
    torch.manual_seed(0)
    x = torch.randn(batch, frames, groups * channels, device=DEVICE).to(dtype)
    weight = torch.randn(groups * out, channels, kernel_size, device=DEVICE).to(dtype)
    bias = torch.randn(groups * out, device=DEVICE).to(dtype) if has_bias else None
    y = conv1d.forward(x, weight, bias, groups, kernel_size // 2)
    exact = (value if value is None else value.double() for value in (weight, bias))
    expected = F.conv1d(x.double().transpose(1, 2), *exact, padding=kernel_size // 2, groups=groups)
    error = (y.double() - expected.transpose(1, 2)[:, :frames]).norm() / expected.norm()
    assert y.dtype == dtype and error < (1e-3 if dtype == torch.float16 else 1e-2)


@pytest.fixture
def calls(monkeypatch):
    """Where the kernel is called, also on the CPU in Triton's interpreter."""
    found, convolve = [], conv1d.convolve
    monkeypatch.setattr(conv1d, "convolve", lambda *a: found.append(a) or convolve(*a))
    monkeypatch.setattr(conv1d, "is_for", lambda x: x.dtype in conv1d.TYPES)
    return found


@needs_triton
@pytest.mark.parametrize("kernel_size", [8, 5])
def test_positions_are_those_of_fairseq(calls, kernel_size):
    torch.manual_seed(0)
    theirs = make_conv_pos(32, kernel_size, 4).to(DEVICE)
    ours = ConvolutionalPositions(*theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 32, 21, device=DEVICE)
    expected = theirs(x)
    theirs.half()
    with torch.no_grad():
        found = ours(x.half())
    assert len(calls) == 1 and found.dtype == torch.float16 and found.shape == x.shape
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=5e-3)


@needs_triton
@pytest.mark.parametrize(
    "batch, frames, groups, channels, out, kernel_size",
    [(1, 5, 2, 8, 8, 4), (2, 70, 3, 12, 5, 7), (3, 1, 1, 16, 24, 6)],
)
def test_its_gradients(batch, frames, groups, channels, out, kernel_size):
    torch.manual_seed(0)
    shapes = (batch, frames, groups * channels), (groups * out, channels, kernel_size)
    inputs = [torch.randn(*shape, device=DEVICE).half() for shape in (*shapes, (groups * out,))]
    grad = torch.randn(batch, frames, groups * out, device=DEVICE).half()
    for tensor in inputs:
        tensor.requires_grad_()
    conv1d.convolve(*inputs, groups, kernel_size // 2).backward(grad)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = F.conv1d(
        exact[0].transpose(1, 2), *exact[1:], padding=kernel_size // 2, groups=groups
    )
    expected[..., :frames].backward(grad.double().transpose(1, 2))
    for found, wanted in zip(inputs, exact):
        assert (found.grad - wanted.grad).norm() < 1e-3 * wanted.grad.norm()


@needs_triton
def test_what_the_kernel_is_not_for(calls):
    x = torch.randn(2, 32, 9, device=DEVICE)
    ours = ConvolutionalPositions(*make_conv_pos(32, 4, 4)).to(DEVICE)
    ours(x)  # in float32
    wide = ConvolutionalPositions(*make_conv_pos(256, 4, 1)).to(DEVICE, torch.float16)
    wide(torch.randn(1, 256, 5, device=DEVICE).half())
    assert not calls


@pytest.mark.parametrize("kernel_size", [8, 5])
def test_gradients_of_positions_are_those_of_fairseq(kernel_size):
    torch.manual_seed(0)
    theirs = make_conv_pos(32, kernel_size, 4)
    ours = faster(theirs)
    x = torch.randn(2, 32, 21)
    found, expected = [
        torch.autograd.grad(positions(x).square().sum(), list(positions.parameters()))
        for positions in (ours, theirs)
    ]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_nothing_of_a_step_stays_with_the_positions():
    ours = faster(make_conv_pos(32, 4, 4))
    ours(torch.randn(2, 32, 21)).sum().backward()
    assert ours[0].weight.grad_fn is None


def test_other_positions_stay_as_they_are():
    convolution = make_conv_pos(32, 4, 4)
    for other in (
        make_conv_pos(32, 4, 4, is_batch_norm=True),
        nn.Sequential(convolution[0], nn.Identity(), nn.GELU()),
        nn.Sequential(convolution[0], SamePad(5), nn.GELU()),
    ):
        assert faster(other) is other
    assert type(faster(convolution)) is ConvolutionalPositions
