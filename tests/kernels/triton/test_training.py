"""The fused kernels of a training step on CUDA against the torch operations that they replace.

They also run in Triton's interpreter, without a GPU:

    TRITON_INTERPRET=1 python -m pytest tests/kernels/triton/test_training.py   (needs triton)
"""

import inspect
import re

import pytest
import torch

from cress_svcd.kernels.triton import quantize, training
from cress_svcd.quantization import METHODS, binarize, svcd
from cress_svcd.quantization.fake_quant import quantize_tokens
from cress_svcd.quantization.svcd import _fused_gradients, _gradients
from tests.helpers.triton_marks import CUDA, DEVICE, needs_triton

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# rows, in, out: several rows a program, one, and sizes that fill no block
SHAPES = [(7, 64, 32), (3, 300, 45), (5, 2100, 9), (1, 1, 1)]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape).to(DEVICE, dtype)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    if request.param == torch.bfloat16 and not CUDA:
        pytest.skip("Triton's interpreter cuts bfloat16 off instead of rounding it")
    return request.param


@pytest.mark.parametrize("user", [svcd, binarize])
def test_it_has_what_layers_call(user):
    called = set(re.findall(r"\bfused\.(\w+)\(", inspect.getsource(user)))
    assert called and not [name for name in called if not hasattr(training, name)]


@needs_triton
def test_sign_weights(dtype):
    weight = draw(70, 33, dtype=dtype)
    mean = weight.mean(dtype=torch.float32).view(1, 1)
    weight[0, :2] = mean.to(dtype)
    signs = training.binarize(weight, mean, torch.float16)
    assert signs.dtype == torch.float16
    assert torch.equal(signs.float(), 2.0 * (weight.float() >= mean) - 1)
    assert training.binarize(weight, mean * float("nan"), dtype).isnan().all()


@needs_triton
@pytest.mark.parametrize("bits", [8, 16, None])
@pytest.mark.parametrize("rows, width, _", SHAPES)
def test_quantizing_equals_torch_to_the_bit(dtype, bits, rows, width, _):
    x, g = draw(2, rows, width, dtype=dtype), draw(width, dtype=dtype)
    x[0, 0] = 0
    q, scale = quantize.quantize(x, g, bits)
    expected_q, expected_scale = quantize_tokens(x, bits, gain=g)
    assert q.dtype == dtype and torch.equal(scale, expected_scale)
    assert torch.equal(q, expected_q)


@needs_triton
def test_broken_rows_stay_alone():
    x, g = draw(5, 70), draw(70)
    x[1, 3], x[2, 0], x[4, 69] = float("inf"), float("nan"), float("-inf")
    q, scale = quantize.quantize(x, g, 8)
    assert scale.isnan().flatten().tolist() == [False, True, True, False, True]
    assert q.isnan().all(1).tolist() == [False, True, True, False, True]


@needs_triton
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("rows, _, width", SHAPES)
def test_scaling(dtype, bias, rows, _, width):
    product, scale, h = draw(rows, width, dtype=dtype), draw(rows, 1), draw(width, dtype=dtype)
    shift = draw(width, dtype=dtype) if bias else None
    expected = product.float() * scale * h.float() + (shift.float() if bias else 0)
    y = training.scale(product, scale, h, shift, (1, rows, width))
    torch.testing.assert_close(y, expected.to(dtype).unsqueeze(0))


@needs_triton
@pytest.mark.parametrize("rows, width, outputs", SHAPES)
def test_gradients_of_a_layer(dtype, rows, width, outputs):
    x, grad = draw(2, rows, width, dtype=dtype), draw(2, rows, outputs, dtype=dtype)
    weight, g, h = draw(outputs, width, dtype=dtype), draw(width), draw(outputs)
    given = grad, x, weight, g.to(dtype), h.to(dtype), weight.sign(), (True,) * 4
    for ours, plain in zip(_fused_gradients(training, *given), _gradients(*given)):
        assert ours.shape == plain.shape
        error = (ours.float() - plain.float()).norm() / plain.float().norm()
        assert error < {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, None])
def test_a_layer_on_a_gpu_equals_one_on_the_cpu(dtype, bits):
    """Output and all gradients, the CPU computing in float64 from the same numbers."""
    layer = METHODS["svcd"].from_linear(torch.nn.Linear(96, 80), activation_bits=bits)
    layer = layer.to(DEVICE, dtype)
    exact = METHODS["svcd"](96, 80, activation_bits=bits).double()
    exact.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    x, grad = draw(4, 33, 96, dtype=dtype).requires_grad_(), draw(4, 33, 80, dtype=dtype)
    same = x.detach().double().cpu().requires_grad_()
    layer(x).backward(grad)
    y = exact(same)
    y.backward(grad.double().cpu())
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    pairs = [(layer(x), y), (x.grad, same.grad)]
    pairs += [
        (mine.grad, theirs.grad) for mine, theirs in zip(layer.parameters(), exact.parameters())
    ]
    for ours, expected in pairs:
        error = (ours.double().cpu() - expected).norm() / expected.norm()
        assert error < tolerance
