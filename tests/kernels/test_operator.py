"""The operator as torch sees it, the choice of back ends, threads and forks."""

import multiprocessing
import threading

import pytest
import torch

from cress_svcd import kernels
from cress_svcd.errors import ConfigError
from cress_svcd.kernels import backend_choice, packed_layout, reference
from cress_svcd.kernels.cpu import sign_gemm
from cress_svcd.kernels.triton import quantize

needs_cpu = pytest.mark.skipif(
    not kernels.backends()["cpu"].available, reason="the C kernels are not built"
)
BACKENDS = [
    pytest.param(name, marks=needs_cpu if name == "cpu" else ())
    for name in ("reference", "torch", "cpu")
]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def prepared(signs, backend):
    return kernels.prepare(kernels.pack_signs(signs), signs.shape[1], backend)


def test_every_form_gives_the_rows_back(backend, operands):
    signs = operands(1, 77, 33)[1]
    rows = kernels.pack_signs(signs)
    form = kernels.prepare(rows, 77, backend)
    assert torch.equal(kernels.restore(form, 33, 77), rows)
    assert torch.equal(packed_layout.dense(form, 33, 77, torch.float32), signs)


def test_torchs_own_checks_of_an_operator(backend, operands):
    x, signs, g, h, bias = operands(4, 40, 24)
    arguments = (x.requires_grad_(), prepared(signs, backend), 24, g, h, bias, 8)
    found = torch.library.opcheck(torch.ops.cress_svcd.sign_matmul, arguments)
    assert len(found) >= 4 and set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("bits", [8, None])
def test_the_gradient_is_straight_through(backend, operands, bits):
    x, signs, g, h, bias = operands(6, 40, 24)
    x.requires_grad_()
    grad = torch.randn(6, 24)
    kernels.sign_matmul(x, prepared(signs, backend), 24, g, h, bias, bits).backward(grad)
    assert torch.allclose(x.grad, (grad * h) @ signs * g, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["g", "h", "bias"])
def test_scales_have_no_gradient_and_say_so(operands, name):
    x, signs, g, h, bias = operands(2, 40, 24)
    scales = {"g": g, "h": h, "bias": bias}
    scales[name].requires_grad_()
    with pytest.raises(RuntimeError, match=f"{name} requires a gradient"):
        kernels.sign_matmul(x, prepared(signs, "reference"), 24, **scales)
    with torch.no_grad():
        kernels.sign_matmul(x, prepared(signs, "reference"), 24, **scales)


def test_it_compiles_whole(backend, operands):
    x, signs, g, h, bias = operands(5, 40, 24)
    form = prepared(signs, backend)

    def layer(x):
        return kernels.sign_matmul(x.relu(), form, 24, g, h, bias) * 2

    # aot_eager: the graph, its meta tensors and gradients, without generating code for minutes
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (5, 3):
        assert torch.equal(compiled(x[:rows]), layer(x[:rows]))
    x.requires_grad_()
    compiled(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_meta_tensors(operands):
    x, signs, g, h, bias = (value.to("meta") for value in operands(6, 40, 24))
    rows = torch.empty(24, 5, dtype=torch.uint8, device="meta")
    assert kernels.sign_matmul(x.view(2, 3, 40), rows, 24, g, h, bias).shape == (2, 3, 24)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": torch.zeros(2, 141)}, "no form of 24 outputs x 141 inputs"),
        ({"out_features": 55}, "no form of 55 outputs"),
        ({"x": torch.zeros(2, 40, dtype=torch.int64)}, "expected floats"),
        ({"x": torch.zeros(())}, "expected floats"),
        ({"g": torch.ones(24)}, r"g: found shape \(24,\), expected \(40,\)"),
        ({"bias": torch.ones(1)}, r"bias: found shape \(1,\)"),
        ({"bits": 4}, "expected 8, 16 or None"),
    ],
)
def test_what_does_not_fit_is_refused(backend, operands, changes, message):
    x, signs, g, h, bias = operands(2, 40, 24)
    arguments = {
        "x": x,
        "signs": prepared(signs, backend),
        "out_features": 24,
        "g": g,
        "h": h,
        "bias": bias,
        "bits": 8,
    } | changes
    with pytest.raises(ValueError, match=message):
        kernels.sign_matmul(**arguments)


def test_float64_stays_exact(backend, operands):
    x, signs, g, h, bias = (value.double() for value in operands(3, 40, 24))
    y = kernels.sign_matmul(x, prepared(signs, backend), 24, g, h, bias, None)
    assert torch.allclose(y, (x * g) @ signs.t() * h + bias, rtol=1e-12, atol=1e-12)


def test_the_environment_chooses(monkeypatch):
    device = torch.device("cpu")
    monkeypatch.setenv(backend_choice.BACKEND_VARIABLE, "torch")
    assert kernels.choose(device) == "torch"
    assert kernels.choose(device, "reference") == "reference"
    monkeypatch.setenv(backend_choice.BACKEND_VARIABLE, "fast")
    with pytest.raises(ConfigError, match="CRESS_SVCD_BACKEND: found 'fast', expected auto or"):
        kernels.choose(device)
    monkeypatch.delenv(backend_choice.BACKEND_VARIABLE)
    expected = "cpu" if kernels.backends()["cpu"].available else "torch"
    assert kernels.choose(device) == kernels.choose(device, "auto") == expected


def test_the_environment_may_mean_the_device_that_a_model_is_moved_to(monkeypatch):
    device = torch.device("cpu")
    expected = kernels.choose(device)
    monkeypatch.setenv(backend_choice.BACKEND_VARIABLE, "gpu")
    monkeypatch.setattr(quantize, "why_unavailable", lambda: None)
    assert kernels.choose(torch.device("cuda")) == "gpu"
    assert kernels.choose(device) == expected
    with pytest.raises(ConfigError, match="backend: gpu is not for a layer on cpu"):
        kernels.choose(device, "gpu")
    monkeypatch.setattr(quantize, "why_unavailable", lambda: "there is no GPU")
    with pytest.raises(ConfigError, match="gpu cannot be used: there is no GPU"):
        kernels.choose(device)


def test_a_back_end_that_is_missing_says_why(monkeypatch):
    def missing():
        raise sign_gemm.UnavailableError("the C kernels are not built")

    monkeypatch.setattr(sign_gemm, "library", missing)
    assert kernels.choose(torch.device("cpu")) == "torch"
    assert "not built" in kernels.backends()["cpu"].detail
    with pytest.raises(ConfigError, match="cpu cannot be used: the C kernels are not built"):
        kernels.choose(torch.device("cpu"), "cpu")


@needs_cpu
def test_instruction_sets_are_chosen_by_name():
    assert sign_gemm.ISAS[sign_gemm.isa_number("portable")] == "portable"
    with pytest.raises(ConfigError, match="found 'neon', this processor has: auto, portable"):
        sign_gemm.isa_number("neon")


@needs_cpu
@pytest.mark.parametrize("rows", [40, 300])
def test_threads_change_nothing(operands, rows):
    """Several Python threads, each with several of OpenMP: as in a server."""
    x, signs, g, h, bias = operands(rows, 256, 320)
    tiles = prepared(signs, "cpu")
    expected = reference.sign_matmul(x, signs, g, h, bias, 8)
    results = []

    def work():
        for _ in range(5):
            y = sign_gemm.sign_matmul(x, tiles, 320, g, h, bias, 8, threads=3)
            results.append(torch.equal(y, expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20


def _in_child(x, tiles, expected, queue):
    queue.put(bool(torch.equal(kernels.sign_matmul(x, tiles, len(expected[0])), expected)))


@needs_cpu
def test_a_forked_child_computes(operands):
    """The pool of the parent is not there any more; nothing may wait for it."""
    x, signs, *_ = operands(300, 256, 320)
    tiles = prepared(signs, "cpu")
    expected = sign_gemm.sign_matmul(x, tiles, 320, None, None, None, 8, threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(x, tiles, expected, queue))
    child.start()
    assert queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
