"""Adding a method is one class and one line in METHODS: it trains, packs, unpacks and
translates."""

import copy
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from fairseq_cli import train as fairseq_train
from torch import Tensor, nn

from cress_svcd.cli.main import main
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.quantization import METHODS, Policy, QuantLinear, quantized_layers
from cress_svcd.quantization.base import Holder
from cress_svcd.quantization.packed_linear import PackedLinear
from cress_svcd.quantization.sign_planes import SignPlanes
from cress_svcd.translation.translator import Translator
from tests.helpers.fairseq_commands import svcd_command
from tests.helpers.training_options import make_task, parse
from tests.helpers.translation_model import make_checkpoint


class ColumnLinear(QuantLinear):
    """A toy: y = sign(W) (c * x) * mean|W| + b, clamped, with c trained and signs by columns."""

    METHOD = "column"
    WEIGHT_BITS = (1,)
    PACKED_PARAMETERS = ("c",)

    def __init__(self, in_features, out_features, bias=True, *, limit=50.0, **common):
        super().__init__(in_features, out_features, bias, **common)
        self.limit = limit
        factory = {"device": common.get("device"), "dtype": common.get("dtype")}
        self.c = nn.Parameter(torch.empty(in_features, **factory))
        self.reset_scales()

    @torch.no_grad()
    def reset_scales(self) -> None:
        super().reset_scales()
        self.c.fill_(1)

    @torch.no_grad()
    def quantized_weight(self) -> Tensor:
        signs = torch.where(self.weight >= self.weight.mean(0), 1.0, -1.0)
        return (signs * self.weight.abs().mean()).to(self.weight.dtype)

    def from_sign_planes(self, planes: SignPlanes) -> None:
        with torch.no_grad():
            self.weight.copy_(planes.q * planes.scale.max())

    def prepare_input(self, x: Tensor, holder: Holder) -> Tensor:
        return x * holder.c

    @property
    def finishes_output(self) -> bool:
        return True

    def finish_output(self, y: Tensor, holder: Holder) -> Tensor:
        return y.clamp(-self.limit, self.limit)

    def quantized_forward(self, x: Tensor) -> Tensor:
        return self.finish_output(super().quantized_forward(x), self)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS, ColumnLinear.METHOD, ColumnLinear)


def test_a_packed_layer_computes_what_training_does():
    layer = METHODS["column"].from_linear(nn.Linear(40, 24), limit=3.0).eval()
    with torch.no_grad():
        layer.c.uniform_(0.5, 2)
    x = torch.randn(7, 40)
    packed = PackedLinear.from_layer(layer)
    torch.testing.assert_close(packed(x), layer(x), rtol=1e-5, atol=1e-5)
    assert packed(100 * x).abs().max() == 3.0
    restored = copy.deepcopy(packed)
    restored.load_state_dict(packed.state_dict())
    assert restored.method.settings() == layer.settings() == restored.to_layer().settings()


@pytest.mark.slow
def test_from_training_to_a_translation(prepared, hubert, tmp_path, monkeypatch):
    full = make_checkpoint(tmp_path / "full.pt", prepared, hubert, "--layernorm-embedding")
    policy = tmp_path / "policy.yaml"
    rules = [{"match": "decoder.layers.*", "method": "column", "options": {"limit": 40.0}}]
    Policy.from_dict({"rules": rules}).save(policy)
    cfg = parse(
        prepared, "--finetuned-st-model", full, "--quant-policy", policy, arch="quant_transformer"
    )
    task = make_task(prepared)
    model = task.build_model(cfg.model)
    layers = quantized_layers(model)
    assert layers and all(type(layer) is ColumnLinear for layer in layers.values())
    command = svcd_command(
        prepared, tmp_path / "run", full, "--quant-policy", policy, "--max-update", "2"
    )
    trained = train([str(word) for word in command if word != "--fp16"], monkeypatch)
    saved = read_checkpoint(trained)
    layers = json.loads(saved["cfg"]["model"]["quantization_map"])
    assert {spec["method"] for spec in layers.values()} == {"column"}
    packed, unpacked = tmp_path / "packed.pt", tmp_path / "unpacked.pt"
    options = ["--data", str(prepared), "--dtype", "fp32"]
    assert main(["pack", str(trained), "-o", str(packed), *options]) == 0
    assert main(["unpack", str(packed), "-o", str(unpacked)]) == 0
    wave = torch.sin(torch.arange(24_000) / 7).numpy()
    found = [
        Translator.load(
            path, data=prepared, device="cpu", beam=3, max_len_b=12, segmentation=None
        ).translate(wave)
        for path in (trained, packed, unpacked)
    ]
    assert found[0].text and found[0].text == found[1].text == found[2].text
    assert found[1].score == pytest.approx(found[0].score, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("packs", [True, False])
def test_all_methods_in_one_model_from_training_to_a_translation(
    prepared, hubert, tmp_path, monkeypatch, capsys, packs
):
    """Each on some layers of its own; what has been packed translates as what has been trained."""
    full = make_checkpoint(tmp_path / "full.pt", prepared, hubert, "--layernorm-embedding")
    names = [
        name
        for name, module in read_checkpoint(full)["model"].items()
        if re.search(r"coder\.layers\..*(_proj|fc.)\.weight$", name)
    ]
    methods = [name for name, method in METHODS.items() if packs != bool(method.NOT_PACKED)]
    assert len(names) >= len(methods)
    rules = [
        {"match": [each.removesuffix(".weight") for each in names[number :: len(methods)]]}
        | {"method": method}
        for number, method in enumerate(methods)
    ]
    policy = tmp_path / "policy.yaml"
    Policy.from_dict({"rules": rules}).save(policy)
    command = svcd_command(
        prepared, tmp_path / "run", full, "--quant-policy", policy, "--max-update", "2"
    )
    trained = train([str(word) for word in command if word != "--fp16"], monkeypatch)
    layers = json.loads(read_checkpoint(trained)["cfg"]["model"]["quantization_map"])
    assert {spec["method"] for spec in layers.values()} == set(methods)
    packed = tmp_path / "packed.pt"
    options = ["--data", str(prepared), "--dtype", "fp32"]
    assert main(["pack", str(trained), "-o", str(packed), *options]) == (0 if packs else 2)
    wave = torch.sin(torch.arange(24_000) / 7).numpy()
    found = [
        Translator.load(path, data=prepared, device="cpu", beam=3, max_len_b=12, segmentation=None)
        for path in ((trained, packed) if packs else (trained, trained))
    ]
    assert packs or "packed files have no form" in capsys.readouterr().err
    texts = [translator.translate(wave) for translator in found]
    assert texts[0].text and texts[0].text == texts[1].text
    # Weights of a few steps: a rounding to 8 bits that tips over is seen in the score.
    assert texts[1].score == pytest.approx(texts[0].score, rel=2e-2)


def train(command: list[str], monkeypatch) -> Path:
    """Run fairseq-train in this process, which knows the method; the last checkpoint."""
    monkeypatch.setattr(sys, "argv", command)
    fairseq_train.cli_main()
    return Path(command[command.index("--save-dir") + 1]) / "checkpoint_last.pt"
