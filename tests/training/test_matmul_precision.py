"""float32 products in bfloat16: what they round, and who asks for them.

In processes of their own: the precision is that of the whole process.
"""

import os
import subprocess
import sys

import pytest
import torch

from tests.helpers.training_options import make_task

PRODUCTS = """
import torch
from cress_svcd.training.matmul_precision import set_matmul_precision

torch.manual_seed(0)
x, weight = torch.randn(300, 128, requires_grad=True), torch.randn(64, 128)
before = x @ weight.T
set_matmul_precision("{}")
after = x @ weight.T
after.sum().backward()
assert after.dtype == x.grad.dtype == torch.float32
print(float((after - before).abs().max() / before.abs().max()))
"""


@pytest.mark.parametrize("precision, error", [("float32", 0.0), ("bfloat16", 0.01)])
def test_products_are_rounded_as_much_as_the_precision_says(precision, error):
    script = PRODUCTS.format(precision)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(ran.stdout) <= error


ATTENTION = """
import torch
from torch.nn import functional
from cress_svcd.training.matmul_precision import set_matmul_precision

torch.manual_seed(0)
queries = torch.randn(2, 4, 50, 32, requires_grad=True)
padding = torch.zeros(2, 1, 1, 50)
padding[1, ..., 40:] = float("-inf")

def attend():
    found = functional.scaled_dot_product_attention(queries, queries, queries, attn_mask=padding)
    return found, torch.autograd.grad(found.square().sum(), queries)[0], found.grad_fn.name()

matmul = torch.backends.mkldnn.matmul
before = attend()
set_matmul_precision("bfloat16")
once = functional.scaled_dot_product_attention
set_matmul_precision("bfloat16")
assert functional.scaled_dot_product_attention is once
after = attend()
assert matmul.fp32_precision == "bf16"
assert all(map(torch.equal, before[:2], after[:2]))
assert "Flash" in after[2] and after[2] == before[2]
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="of the CPU: leave the GPUs out to test it")
def test_attention_stays_as_it_was():
    """By the same kernel and to the bit, forward and backward; what comes after it does not."""
    subprocess.run([sys.executable, "-c", ATTENTION], check=True)


CONVOLUTIONS = """
import torch
from cress_svcd.training.matmul_precision import set_matmul_precision

torch.set_num_threads(1)
set_matmul_precision("float32")
weight = torch.randn(64, 32, 5)
for turn in ("first", "second"):
    print(turn, flush=True)
    for length in range(8, 1208):
        torch.nn.functional.conv1d(torch.randn(1, 32, length), weight)
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_what_is_prepared_for_a_shape_is_kept():
    environment = {**os.environ, "ONEDNN_VERBOSE": "profile_create"}
    environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    ran = subprocess.run(
        [sys.executable, "-c", CONVOLUTIONS],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    first, second = ran.stdout.split("second\n")
    assert first.count("cache_miss") > 1024  # what oneDNN keeps by itself
    assert "cache_miss" not in second and second.count("cache_hit") >= 1200


@pytest.fixture
def backends():
    """Those that have a precision; as they were, afterwards."""
    found = [torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]
    before = [backend.fp32_precision for backend in found]
    attention = torch.nn.functional.scaled_dot_product_attention
    yield found
    for backend, precision in zip(found, before):
        backend.fp32_precision = precision
    torch.nn.functional.scaled_dot_product_attention = attention


@pytest.mark.skipif(torch.cuda.is_available(), reason="of the CPU: leave the GPUs out to test it")
def test_training_asks_for_it_and_translation_does_not(prepared, backends):
    task = make_task(prepared, "--st-training", "--matmul-precision", "bfloat16")
    assert all(backend.fp32_precision != "bf16" for backend in backends)
    task.begin_epoch(1, None)
    assert all(backend.fp32_precision == "bf16" for backend in backends)
