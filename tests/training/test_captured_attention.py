"""HuBERT's attention is cuDNN's in captured steps on Hopper, and gives the same."""

import contextlib

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
    return encoder.eval()  # without dropout


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_captured_step_is_computed_by_cudnn_and_gives_the_same(encoder, dtype):
    encoder.to("cuda", dtype)
    captured_attention.install([encoder])
    features = torch.randn(3, 40, 32, device="cuda", dtype=dtype)
    padding = torch.arange(40, device="cuda") >= torch.tensor([[40], [31], [22]], device="cuda")
    result = torch.zeros_like(features)
    gradient = torch.zeros_like(features)

    def step() -> None:
        inputs = features.clone().requires_grad_()
        states, _ = encoder.encoder(inputs * 1, padding_mask=padding)  # it writes into its input
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
    by_cudnn = "forward" in vars(encoder.encoder) and dtype != torch.float32
    assert ("cudnn_attention" in captured.found) == by_cudnn
    assert "cudnn_attention" not in eager.found and eager.found
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype != torch.float32 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(result, wanted, **close)
    scale = wanted_gradient.abs().max()
    torch.testing.assert_close(gradient / scale, wanted_gradient / scale, **close)


class TestWhere:
    """On any machine: what is asked for, and when."""

    @pytest.fixture
    def asked(self, monkeypatch) -> list[str]:
        """What cuDNN and torch's choice are asked, on a machine that says that it has a Hopper."""
        found: list[str] = []

        @contextlib.contextmanager
        def choice(order, set_priority):
            found.append(order[0].name if set_priority else "")
            yield

        monkeypatch.setattr(captured_attention, "sdpa_kernel", choice)
        monkeypatch.setattr(captured_attention, "is_capturing", lambda: False)
        monkeypatch.setattr(captured_attention, "_make_handles", lambda: found.append("handles"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: captured_attention.CUDNN)
        return found

    def test_in_captures_alone(self, encoder, asked, monkeypatch):
        captured_attention.install([encoder])
        captured_attention.install([encoder])  # twice changes nothing
        features = torch.randn(2, 20, 32)
        wanted, _ = encoder.encoder(features)
        assert asked == ["handles"]
        monkeypatch.setattr(captured_attention, "is_capturing", lambda: True)
        found, _ = encoder.encoder(features)
        assert asked == ["handles", "CUDNN_ATTENTION"] and torch.equal(found, wanted)
        assert captured_attention.leave_out([encoder])
        assert not captured_attention.leave_out([encoder])
        encoder.encoder(features)
        assert len(asked) == 2

    @pytest.mark.parametrize("frames, safe", [(62, True), (63, False), (64, False), (128, True)])
    def test_not_of_lengths_whose_gradients_may_be_no_numbers(
        self, encoder, asked, monkeypatch, frames, safe
    ):
        """HuBERT makes a length even."""
        captured_attention.install([encoder])
        monkeypatch.setattr(captured_attention, "is_capturing", lambda: True)
        encoder.encoder(torch.randn(1, frames, 32))
        assert ("CUDNN_ATTENTION" in asked) == safe

    @pytest.mark.parametrize("capability, version", [((8, 0), 92_000), ((9, 0), 91_500)])
    def test_only_where_it_has_been_measured(
        self, encoder, asked, monkeypatch, capability, version
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
        captured_attention.install([encoder])
        assert "forward" not in vars(encoder.encoder)
