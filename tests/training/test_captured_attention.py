"""HuBERT's attention is cuDNN's in captured steps on Hopper, and gives the same."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cress_svcd.kernels.cuda_graph import GraphCapture
from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.hubert_encoder import HubertEncoder
from cress_svcd.training import captured_attention
from tests.helpers.hubert_files import make_hubert

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "encoder_layerdrop": 0.0}


class Attentions(TorchDispatchMode):
    """The kernels of attention that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if "dot_product" in name and "backward" not in name:
            self.found.add(name.removeprefix("aten::_scaled_dot_product_"))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def encoder(tmp_path) -> HubertEncoder:
    make_hubert(tmp_path / "hubert.pt")
    description, state = read_hubert(tmp_path / "hubert.pt")
    encoder = HubertEncoder(description, NO_DROPOUT)
    encoder.load_pretrained(state, "")
    captured_attention.install(encoder)
    return encoder.train()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_captured_step_is_computed_by_cudnn_and_gives_the_same(encoder, dtype):
    encoder.to("cuda", dtype)
    features = torch.randn(3, 40, 32, device="cuda", dtype=dtype)
    padding = torch.arange(40, device="cuda") >= torch.tensor([[40], [31], [22]], device="cuda")
    result = torch.zeros_like(features)
    gradient = torch.zeros_like(features)

    def step() -> None:
        inputs = features.clone().requires_grad_()
        states, _ = encoder.encoder(inputs, padding_mask=padding)
        states = states.masked_fill(padding.unsqueeze(2), 0)
        result.copy_(states)
        (found,) = torch.autograd.grad(states.float().square().sum(), inputs)
        gradient.copy_(found.masked_fill(padding.unsqueeze(2), 0))

    capture = GraphCapture(features.device)
    with capture.on_stream(), Attentions() as eager:
        step()
    wanted, wanted_gradient = result.clone(), gradient.clone()
    with Attentions() as captured:
        replay = capture.capture(step, warmed=True)
    assert replay is not step
    result.zero_()
    gradient.zero_()
    replay()
    hopper = torch.cuda.get_device_capability() >= captured_attention.HOPPER
    by_cudnn = hopper and dtype != torch.float32
    assert ("cudnn_attention" in captured.found) == by_cudnn
    assert "cudnn_attention" not in eager.found and eager.found
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype != torch.float32 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(result, wanted, **close)
    scale = wanted_gradient.abs().max()
    torch.testing.assert_close(gradient / scale, wanted_gradient / scale, **close)


def test_without_a_gpu_nothing_changes(encoder):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "forward" not in vars(encoder.encoder)
